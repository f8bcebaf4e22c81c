"""The labels of a .lst in memory, compactly, and the parsing of them.

Two stores with the same methods: `add` takes the label fields of some rows, `dense` gives
labels back as a multi-hot float32 matrix, `count` the positives and negatives of each class.
"""
import contextlib
import math
from array import array

import numpy as np

from common.text import quoted

MAX_CLASSES = 1_000_000
# What follows the digit of a label that is 0 or 1, by the label's length with its tab:
# "1.000000<TAB>" is how im2rec writes it, the others are how people do.
PLAIN_ENDINGS = {9: b".000000\t", 4: b".0\t", 2: b"\t"}

# For `_short_numbers`: words of eight characters, the first in the lowest byte.
ZERO, TOO_HIGH, HIGH_BITS = np.frombuffer(
    b"0.000000" + b"\x76\x7f" + b"\x76" * 6 + b"\x80" * 8, "<u8")
MASKS = np.frombuffer(b"".join(b"\xff" * n + bytes(8 - n) for n in range(9)), "<u8")
FILLINGS = np.frombuffer(b"".join(bytes(n) + b"0.000000"[n:] for n in range(9)), "<u8")


class WrongLabel(Exception):
    """What is wrong with the labels of the row at `position` among those being added."""

    def __init__(self, position, reason):
        super().__init__(reason)
        self.position = position


class MultiHot:
    """Matrices of (rows, classes), one for each `add`: int8, or float32 where labels are soft."""

    def __init__(self, num_classes):
        self.asked = self.num_classes = num_classes
        self.blocks = []
        self.starts = array("q")  # the first row of each block
        self.num_rows = 0

    def add(self, rows):
        """Append rows, each the text of its labels with a tab after each."""
        if not rows:
            return
        if self.num_classes is None:
            self.num_classes = rows[0].count(b"\t")
            if not 0 < self.num_classes <= MAX_CLASSES:
                raise WrongLabel(0, "no labels between ID and file name")
        block = np.empty((len(rows), self.num_classes), np.int8)
        slow = np.ones(len(rows), bool)
        for width, ending in PLAIN_ENDINGS.items():
            length = width * self.num_classes
            places = [place for place, row in enumerate(rows) if len(row) == length]
            if places:
                places = np.array(places)
                text = b"".join([rows[place] for place in places])
                # Against a row of zeros, a plain row differs in nothing but some labels' last bit.
                zeros = np.frombuffer((b"0" + ending) * self.num_classes, np.uint8)
                allowed = np.zeros(length, np.uint8)
                allowed[::width] = 1
                differs = np.frombuffer(text, np.uint8).reshape(-1, length) ^ zeros
                plain = ~(differs > allowed).any(axis=1)
                block[places[plain]] = differs[plain, ::width]
                slow[places[plain]] = False
        slow = np.flatnonzero(slow)
        if len(slow):
            values = self.parse_slow(slow, rows)
            whole = values.astype(np.int8)
            if not np.array_equal(values, whole):
                block, whole = block.astype(np.float32), values
            block[slow] = whole
        self.blocks.append(block)
        self.starts.append(self.num_rows)
        self.num_rows += len(rows)

    def parse_slow(self, places, rows):
        """The labels of the rows at these places, in any spelling, float32."""
        text = b"".join([rows[place] for place in places])
        if all(rows[place].count(b"\t") == self.num_classes for place in places):
            values, known = _short_numbers(text)
            values = values.reshape(-1, self.num_classes)
            unknown = np.flatnonzero(~known.reshape(values.shape).all(axis=1))
        else:
            values = np.empty((len(places), self.num_classes), np.float32)
            unknown = range(len(places))
        for number in unknown:
            values[number] = self.parse(places[number], rows[places[number]])
        return values

    def parse(self, place, row):
        """The labels of one row in any spelling, float32."""
        fields = row.split(b"\t")[:-1]
        if len(fields) != self.num_classes:
            expected = ("the first row has" if self.asked is None else "--num-classes is")
            raise WrongLabel(place, _count_reason(fields, expected, self.num_classes))
        with contextlib.suppress(ValueError):
            values = np.array([float(field) for field in fields], np.float64)
            # Python alone reads 1_0 as 10.
            if _allowed(values).all() and b"_" not in row:
                return values.astype(np.float32)
        for column, field in enumerate(fields):
            value = _number(field)
            if value is None or not (0 <= value <= 1 or value == -1):
                raise WrongLabel(place, _value_reason(field, value, column, len(fields)))
        raise AssertionError("a row was refused, but none of its labels")

    def finish(self):
        """The number of classes, once all rows are there."""
        return self.num_classes

    def dense(self, rows):
        """Labels of some rows (int64 numbers): float32, (len(rows), num_classes)."""
        labels = np.empty((len(rows), self.num_classes), np.float32)
        blocks = np.searchsorted(np.frombuffer(self.starts, np.int64), rows, "right") - 1
        for number in np.unique(blocks):
            here = blocks == number
            labels[here] = self.blocks[number][rows[here] - self.starts[number]]
        return labels

    def count(self, num_rows):
        """Positives and negatives: int64, (num_classes,) each, over all `num_rows` rows."""
        positives = np.zeros(self.num_classes, np.int64)
        negatives = np.zeros(self.num_classes, np.int64)
        for block in self.blocks:
            positive = np.count_nonzero(block >= 0.5, axis=0)
            positives += positive
            negatives += np.count_nonzero(block >= 0, axis=0) - positive
        return positives, negatives


class Indices:
    """Class numbers of all rows one after the other, and where each row's end (CSR)."""

    def __init__(self, num_classes):
        self.asked = self.num_classes = num_classes
        self.classes = array("i")
        self.ends = array("q", [0])

    def add(self, rows):
        """Append rows, each the text of its class numbers with a tab after each."""
        limit = self.asked or MAX_CLASSES
        for place, row in enumerate(rows):
            fields = row.split(b"\t")[:-1]
            try:
                numbers = [int(field) for field in fields]
                if b"_" in row:
                    raise ValueError
            except ValueError:
                numbers = [self.parse(place, field) for field in fields]
            if numbers and not (min(numbers) >= 0 and max(numbers) < limit):
                number = next(n for n in numbers if not 0 <= n < limit)
                raise WrongLabel(place, f"class {number}, but " + (
                    f"--num-classes is {limit} (classes are numbered from 0)" if self.asked
                    else f"classes are numbered from 0 to at most {limit - 1}"))
            if len(set(numbers)) < len(numbers):
                twice = next(n for n in numbers if numbers.count(n) > 1)
                raise WrongLabel(place, f"class {twice} stands there twice; a row of one 0 or 1 "
                                  "a class wants --label-format multi-hot")
            self.classes.extend(numbers)
            self.ends.append(len(self.classes))

    def parse(self, place, field):
        """A class number as tools for single-label lists write it, such as 4.000000."""
        value = _number(field)
        if value is None or not value.is_integer():
            raise WrongLabel(place, _not_a_number(field, "is not a class number"))
        return int(value)

    def finish(self):
        """The number of classes, once all rows are there."""
        if self.num_classes is None:
            self.num_classes = max(self.classes, default=-1) + 1
        return self.num_classes

    def dense(self, rows):
        """Labels of some rows (int64 numbers): float32, (len(rows), num_classes)."""
        ends = np.frombuffer(self.ends, np.int64)
        starts, counts = ends[rows], ends[rows + 1] - ends[rows]
        # Entry k of the result's list belongs to the row whose span, laid end to end, holds k.
        place = np.repeat(np.arange(len(rows)), counts)
        shift = np.repeat(starts - (np.cumsum(counts) - counts), counts)
        labels = np.zeros((len(rows), self.num_classes), np.float32)
        classes = np.asarray(self.classes, np.int32)
        labels[place, classes[np.arange(len(place)) + shift]] = 1
        return labels

    def count(self, num_rows):
        """Positives and negatives: int64, (num_classes,) each, over all `num_rows` rows."""
        classes = np.asarray(self.classes, np.int32)
        positives = np.bincount(classes, minlength=self.num_classes).astype(np.int64)
        return positives, num_rows - positives


def _allowed(values):
    """Which values a label may have."""
    return (values >= 0) & (values <= 1) | (values == -1)


def _short_numbers(text):
    """Labels of at most six decimals in a text of fields with a tab after each, all at once.

    Returns
    -------
    values : numpy.ndarray
        float32, one a field.
    known : numpy.ndarray
        bool: where the field is a label, and spelled so that it could be read here.
    """
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\t"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    minus = np.frombuffer(text, np.uint8)[starts] == ord("-")
    starts += minus
    lengths = ends - starts
    known = (lengths >= 1) & (lengths <= 8)
    # Each field as a word of eight characters, filled up as in 0.000000.
    words = np.ndarray(len(text), "<u8", text + bytes(8), strides=(1,))[starts]
    lengths[~known] = 1
    words = words & MASKS[lengths] | FILLINGS[lengths]
    digits = words ^ ZERO
    # A byte's high bit shows what is no digit, and in the second byte what is no point.
    known &= (digits | digits + TOO_HIGH) & HIGH_BITS == 0
    values = digits.astype(np.float32)
    soft = np.flatnonzero(digits > 1)
    # Neighbours become one number of two digits, of four, of eight. The point is among them as a
    # zero, which makes what is 1 or more too large, as it is anyway.
    number = digits[soft]
    number = (number * 10 + (number >> 8)) & 0x00FF00FF00FF00FF
    number = (number * 100 + (number >> 16)) & 0x0000FFFF0000FFFF
    number = (number * 10000 + (number >> 32)) & 0xFFFFFFFF
    values[soft] = number / 1e6
    values[minus] *= -1
    return values, known & _allowed(values)


def _number(field):
    """The finite float that a field holds, or None."""
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) and b"_" not in field else None


def _not_a_number(field, reason):
    if len(field.split()) > 1:
        return f"spaces stand where tabs belong, in {quoted(field)}"
    return f"the label {quoted(field)} {reason}"


def _count_reason(fields, expected, num_classes):
    odd = next((f for f in fields if len(f.split()) > 1), None)
    if odd is not None:
        return _not_a_number(odd, "")
    return (f"{len(fields)} label{'s' * (len(fields) != 1)}, but {expected} {num_classes}"
            + ("; rows of class numbers want --label-format indices"
               if len(fields) < num_classes else ""))


def _value_reason(field, value, column, num_fields):
    if value is None:
        return _not_a_number(field, "is not a number")
    return (f"label {column + 1} of {num_fields} is {quoted(field)}, not 1, 0, -1 (unknown) "
            "or between 0 and 1; rows of class numbers want --label-format indices")
