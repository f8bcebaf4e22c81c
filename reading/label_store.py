"""The labels of a .lst file in memory, compactly, and their parsing.

Two classes with the same methods: `add` takes the label fields of some rows, `dense` returns
labels as a multi-hot float32 matrix, `count` the positives and negatives of each class.
"""
from __future__ import annotations

import math
import warnings
from array import array

import numpy as np

from common.text import quoted

MAX_CLASSES = 1_000_000
SPACES = "spaces stand where tabs belong"
# What follows the digit of a label that is 0 or 1, by the label's length with its tab:
# "1.000000<TAB>" is how im2rec writes it, the others are usual too. Comparing such rows with a
# row of zeros is 4 to 5 times as fast as numpy's parser.
PLAIN_ENDINGS = {9: b".000000\t", 4: b".0\t", 2: b"\t"}


class WrongLabel(Exception):
    """What is wrong with the labels of a row; `position` is its place among the rows added.

    `{flag}` in it stands for what says how many classes there are.
    """

    def __init__(self, position, reason):
        super().__init__(reason)
        self.position = position


class MultiHotLabels:
    """One matrix (rows, classes) for each call of `add`: int8, or float32 with soft labels.

    Without `num_classes`, each row must have as many labels as the first. `signed`: each label is
    1 or -1 (absent).
    """

    def __init__(self, num_classes: int | None, signed: bool = False) -> None:
        self.signed = signed
        self.expected = num_classes
        self.num_classes = num_classes or 0  # until the first row says how many
        self.blocks = []
        self.starts = array("q")  # the first row of each block
        self.num_rows = 0

    def add(self, rows: list[bytes]) -> None:
        """Append rows, each the text of its labels with a tab after each."""
        if not rows:
            return
        if not self.num_classes:
            self.num_classes = rows[0].count(b"\t")
            if not 0 < self.num_classes <= MAX_CLASSES:
                raise WrongLabel(0, "no labels between ID and file name")
        block = np.empty((len(rows), self.num_classes), np.int8)
        slow = np.ones(len(rows), bool)
        for width, ending in PLAIN_ENDINGS.items():
            length = width * self.num_classes
            places = [place for place, row in enumerate(rows) if len(row) == length]
            if places:
                text = b"".join([rows[place] for place in places])
                # Against a row of zeros, a plain row differs in nothing but some labels' last bit.
                zeros = np.frombuffer((b"0" + ending) * self.num_classes, np.uint8)
                allowed = np.zeros(length, np.uint8)
                allowed[::width] = 1
                differs = np.frombuffer(text, np.uint8).reshape(-1, length) ^ zeros
                plain = ~(differs > allowed).any(axis=1)
                plain_places = np.array(places)[plain]
                block[plain_places] = differs[plain, ::width]
                slow[plain_places] = False
        slow = np.flatnonzero(slow)
        if len(slow):
            values = self.parse_slow(slow, rows)
            whole = values.astype(np.int8)
            if not np.array_equal(values, whole):
                block, whole = block.astype(np.float32), values
            block[slow] = whole
        if self.signed:
            odd = np.argwhere(np.abs(block) != 1)
            if len(odd):
                place, column = odd[0]
                raise WrongLabel(int(place), f"label {column + 1} is {block[place, column]:g}, but "
                                 "with --label-format signed each is 1 (present) or -1 (absent)")
            block[block == -1] = 0
        self.blocks.append(block)
        self.starts.append(self.num_rows)
        self.num_rows += len(rows)

    def parse_slow(self, places, rows):
        """The labels of the rows at these places, in any spelling, float32."""
        values = None
        if all(rows[place].count(b"\t") == self.num_classes for place in places):
            values = _parse_together(b"".join([rows[place] for place in places]))
        if values is None:
            return np.stack([self.parse(place, rows[place]) for place in places])
        values = values.reshape(-1, self.num_classes)
        for number in np.flatnonzero(~_allowed(values).all(axis=1)):
            self.parse(places[number], rows[places[number]])  # raises
        return values.astype(np.float32)

    def parse(self, place, row):
        """The labels of one row in any spelling, float32."""
        fields = row.split(b"\t")[:-1]
        if len(fields) != self.num_classes:
            for field in fields:
                if len(field.split()) > 1:
                    raise WrongLabel(place, _not_a_number(field, ""))
            source = "the first row has" if self.expected is None else "{flag} is"
            hint = ("; rows of class numbers need --label-format indices"
                    if len(fields) < self.num_classes else "")
            raise WrongLabel(place, f"{len(fields)} label{'s' * (len(fields) != 1)}, but {source} "
                                    f"{self.num_classes}{hint}")
        values = [_float_or_none(field) for field in fields]
        for column, (field, value) in enumerate(zip(fields, values), 1):
            if value is None:
                raise WrongLabel(place, _not_a_number(field, "is not a number"))
            if not _allowed(value):
                raise WrongLabel(place, f"label {column} of {len(fields)} is {quoted(field)}, not "
                                        "1, 0, -1 (unknown) or between 0 and 1; rows of class "
                                        "numbers need --label-format indices")
        return np.array(values, np.float32)

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Labels of some rows (int64 numbers): float32, (len(rows), num_classes)."""
        labels = np.empty((len(rows), self.num_classes), np.float32)
        blocks = np.searchsorted(np.frombuffer(self.starts, np.int64), rows, "right") - 1
        for number in np.unique(blocks):
            here = blocks == number
            labels[here] = self.blocks[number][rows[here] - self.starts[number]]
        return labels

    def count(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives: int64, (num_classes,) each, over all `num_rows` rows."""
        positives = np.zeros(self.num_classes, np.int64)
        negatives = np.zeros(self.num_classes, np.int64)
        for block in self.blocks:
            positive = np.count_nonzero(block > 0.5, axis=0)
            positives += positive
            negatives += np.count_nonzero(block >= 0, axis=0) - positive
        return positives, negatives


class IndexLabels:
    """The class numbers of all rows in sequence, and where those of each row end (CSR).

    Without `num_classes`, it is the largest class number plus 1.
    """

    def __init__(self, num_classes: int | None) -> None:
        self.expected = num_classes
        self.num_classes = num_classes or 0
        self.classes = array("i")
        self.ends = array("q", [0])

    def add(self, rows: list[bytes]) -> None:
        """Append rows, each the text of its class numbers with a tab after each."""
        limit = self.expected or MAX_CLASSES
        for place, row in enumerate(rows):
            fields = row.split(b"\t")[:-1]
            try:
                numbers = [int(field) for field in fields]
                if b"_" in row:
                    raise ValueError  # Python alone reads 1_0 as 10
            except ValueError:
                numbers = [self.parse(place, field) for field in fields]
            if numbers and not (min(numbers) >= 0 and max(numbers) < limit):
                number = next(n for n in numbers if not 0 <= n < limit)
                raise WrongLabel(place, f"class {number}, but " + (
                    f"{{flag}} is {limit} (classes are numbered from 0)" if self.expected
                    else f"classes are numbered from 0 to at most {limit - 1}"))
            if len(set(numbers)) < len(numbers):
                twice = next(n for n in numbers if numbers.count(n) > 1)
                raise WrongLabel(place, f"class {twice} stands there twice; a row of one 0 or 1 "
                                  "per class needs --label-format multi-hot")
            self.num_classes = max(self.num_classes, max(numbers, default=-1) + 1)
            self.classes.extend(numbers)
            self.ends.append(len(self.classes))

    def parse(self, place, field):
        """A class number as tools for single-label lists write it, such as 4.000000."""
        value = _float_or_none(field)
        if value is None or not value.is_integer():
            raise WrongLabel(place, _not_a_number(field, "is not a class number"))
        return int(value)

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Labels of some rows (int64 numbers): float32, (len(rows), num_classes)."""
        labels = np.zeros((len(rows), self.num_classes), np.float32)
        classes = np.asarray(self.classes, np.int32)
        for label, row in zip(labels, rows.tolist()):
            label[classes[self.ends[row]:self.ends[row + 1]]] = 1
        return labels

    def count(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives: int64, (num_classes,) each, over all `num_rows` rows."""
        positives = np.bincount(self.classes, minlength=self.num_classes).astype(np.int64)
        return positives, num_rows - positives


def _allowed(values):
    """Whether each value is one that a label may have."""
    return (values >= 0) & (values <= 1) | (values == -1)


def _parse_together(text):
    """The numbers of a text of fields with a tab after each, by numpy's parser: float64.

    None where a field may be something else.
    """
    # numpy takes any white space for a tab, and an empty field for none.
    if text.translate(None, b"0123456789.-+eE\t") or b"\t\t" in text or text[:1] == b"\t":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns where it stops before the end
        try:
            values = np.fromstring(text, np.float64, sep="\t")
        except (ValueError, DeprecationWarning):
            return None
    return values if len(values) == text.count(b"\t") else None


def _float_or_none(field):
    """The finite float that a field holds, or None."""
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) and b"_" not in field else None


def _not_a_number(field, reason):
    if len(field.split()) > 1:
        return f"{SPACES}, in {quoted(field)}"
    return f"the label {quoted(field)} {reason}"
