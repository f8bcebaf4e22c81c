"""The labels of a .lst whose rows have one for each class, as a matrix."""
from __future__ import annotations

import math

import numpy as np

from common.text import counted, quoted

MAX_CLASSES = 1_000_000
COUNTED_AT_ONCE = 1 << 20  # labels
# What follows the digit of a label that is 0, 1 or -1; im2rec writes the first.
PLAIN_ENDINGS = (b".000000\t", b".0\t", b"\t")


class WrongLabel(Exception):
    """What is wrong with the labels of a row: its place among the rows added, and the reason."""


class MultiHotLabels:
    """A matrix (rows, classes) that grows: int8, float32 from the first soft label on.

    Without `num_classes`, each row must have as many labels as the first. `signed`: each label is
    1 or -1 (absent).
    """

    def __init__(self, num_classes: int | None, signed: bool = False) -> None:
        self.signed = signed
        self.expected = num_classes
        self.num_classes = num_classes or 0  # until the first row says how many
        self.cells, self.dtype = bytearray(), np.dtype(np.int8)

    @property
    def matrix(self) -> np.ndarray:
        """The labels of all rows, without a copy."""
        return np.frombuffer(self.cells, self.dtype).reshape(-1, self.num_classes)

    def add(self, rows: list[bytes]) -> None:
        """Append rows, each the text of its labels with a tab after each."""
        if not rows:
            return
        if not self.num_classes:
            self.num_classes = rows[0].count(b"\t")
            if not 0 < self.num_classes <= MAX_CLASSES:
                raise WrongLabel(0, "no labels between ID and file name")
        block = _parse_plain(rows, self.num_classes)
        if block is None:
            block = self.parse_any(rows)
        if self.signed:
            wrong = np.flatnonzero((np.abs(block) != 1).any(axis=1))
            if len(wrong):
                raise WrongLabel(int(wrong[0]), "with --label-format signed each label is 1 "
                                                "(present) or -1 (absent)")
            block[block == -1] = 0
        if self.dtype != np.float32 and (block != block.astype(np.int8)).any():
            self.cells, self.dtype = bytearray(self.matrix.astype(np.float32)), block.dtype
        self.cells += block.astype(self.dtype).tobytes()

    def parse_any(self, rows):
        """The labels of rows in any spelling, float32, (rows, num_classes)."""
        hint = "rows of class numbers need --label-format indices"
        for place, count in enumerate(row.count(b"\t") for row in rows):
            if count != self.num_classes:
                source = "the first row has" if self.expected is None else "{flag} is"
                raise WrongLabel(place, f"{counted(count, 'label')}, but {source} "
                                        f"{self.num_classes}; {hint}")
        values = parse_floats(b"".join(rows))
        is_wrong = ~((values >= 0) & (values <= 1) | (values == -1))
        if is_wrong.any():
            place, column = divmod(int(np.argmax(is_wrong)), self.num_classes)
            field = rows[place].split(b"\t")[column]
            raise WrongLabel(place, f"label {column + 1} of {self.num_classes} is {quoted(field)}, "
                                    f"not 1, 0, -1 (unknown) or between 0 and 1; {hint}")
        return values.astype(np.float32).reshape(-1, self.num_classes)

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Labels of some rows, int64 numbers: float32, (len(rows), num_classes)."""
        return self.matrix[rows].astype(np.float32)

    def count(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives: int64, (num_classes,) each, over all `num_rows` rows."""
        parts = np.array_split(self.matrix, self.matrix.size // COUNTED_AT_ONCE + 1)
        positives = np.sum([np.count_nonzero(part > 0.5, axis=0) for part in parts], axis=0)
        known = np.sum([np.count_nonzero(part >= 0, axis=0) for part in parts], axis=0)
        return positives, known - positives


def _parse_plain(rows, num_classes):
    """Labels that all are 0, 1 or -1 with the same one of PLAIN_ENDINGS, int8; None for others.

    5 times as fast as numpy's parser.
    """
    ending = next((end for end in PLAIN_ENDINGS if rows[0].endswith(end)), None)
    text = b"\n".join(rows) + b"\n"
    if ending is None or b"/" in text:
        return None
    # One character per label: "/" stands before "0", as -1 does.
    text = text.replace(ending, b"\t").replace(b"-1\t", b"/\t")
    width = 2 * num_classes + 1
    if len(text) != width * len(rows):
        return None
    cells = np.frombuffer(text, np.int8).reshape(-1, width)
    labels = cells[:, :-1:2] - np.int8(ord("0"))
    is_plain = ((cells[:, 1::2] == ord("\t")).all() and (cells[:, -1] == ord("\n")).all()
                and labels.min() >= -1 and labels.max() <= 1)
    return labels if is_plain else None


def parse_floats(text):
    """The numbers in fields that each end with a tab, float64, (fields,); NaN for what is none."""
    fields = text.replace(b"_", b"?").split(b"\t")[:-1]  # Python alone reads 1_0 as 10
    try:
        return np.array(list(map(float, fields)))
    except ValueError:
        return np.array([_float_or_nan(field) for field in fields])


def _float_or_nan(field):
    try:
        return float(field)
    except ValueError:
        return math.nan
