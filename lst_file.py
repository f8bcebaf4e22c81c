"""Reading .lst files: which images there are, and which labels each of them carries.

    lst = read_lst("train.lst")
    lst.labels([0, 1])      # (2, classes) float32: 1 present, 0 absent, -1 unknown
    lst.name(0)             # "photos/0270.jpg"

One image a row, fields separated by tabs: a number (the image's ID), the labels, the file name.

    multi-hot   5247<TAB>1.000000<TAB>0.000000<TAB>1.000000<TAB>image1.jpg
    indices     5247<TAB>0<TAB>2<TAB>image1.jpg

Both rows say that classes 0 and 2 are present. A million rows of 80 classes take about 110 MB.
"""
import contextlib
import errno
import hashlib
import math
import os
from array import array

import numpy as np

from cli import InputError

LABEL_FORMATS = ("multi-hot", "indices")
MAX_CLASSES = 1_000_000
BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 16 << 20
# What follows the digit of a label that is 0 or 1, by the label's length with its tab:
# "1.000000<TAB>" is how im2rec writes it, the others are how people do.
PLAIN_ENDINGS = {9: b".000000\t", 4: b".0\t", 2: b"\t"}


def read_lst(path, num_classes=None, label_format="multi-hot"):
    """Read a .lst file.

    Parameters
    ----------
    path : str
        The file. Blank lines, a byte order mark, CRLF line ends and tabs at the end of a row
        are tolerated; spaces belong to the file names.
    num_classes : int, optional
        Labels a row must have (multi-hot), or one more than the largest class number allowed
        (indices). By default the first row's count, or the largest number found plus 1.
    label_format : str
        "multi-hot": one label a class, each 1, 0, -1 (unknown) or a soft value in [0, 1].
        "indices": the numbers of the classes that are present; none is fine.

    Returns
    -------
    LstFile

    Raises
    ------
    InputError
        With file and line, when the file cannot be read or a row is wrong.

    Example
    -------
    >>> lst = read_lst("train.lst", num_classes=58)
    >>> lst.labels([0]).shape
    (1, 58)
    """
    return LstFile(path, num_classes, label_format)


class LstFile:
    """A .lst file in memory; see `read_lst` for the parameters.

    Attributes
    ----------
    path : str
    num_classes : int
    label_format : str
    ids : numpy.ndarray
        int64, (rows,): the first field of each row. They need not differ.
    checksum : str
        Hex digest of the file's bytes as they were read.
    """

    def __init__(self, path, num_classes=None, label_format="multi-hot"):
        if label_format not in LABEL_FORMATS:
            raise InputError(f"label_format is multi-hot or indices, not {label_format}")
        if num_classes is not None and not 0 < num_classes <= MAX_CLASSES:
            raise InputError(f"num_classes is 1 to {MAX_CLASSES}, not {num_classes}")
        self.path = os.fspath(path)
        self.label_format = label_format
        # How many labels the first row has serves as the count when none was asked for.
        self._asked = num_classes
        labels = _MultiHot(num_classes) if label_format == "multi-hot" else _Indices(num_classes)
        ids, lines = array("q"), array("q")
        names, name_ends = bytearray(), array("q", [0])
        digest = hashlib.blake2b(digest_size=16)
        for first_line, rows in _blocks(self.path, digest):
            if b"\0" in b"".join(rows):
                raise InputError(f"{self.path}: not a text file: line "
                                 f"{first_line + _first_with(rows, 0)} holds a zero byte")
            kept = []
            for number, row in enumerate(rows, first_line):
                head = row.find(b"\t")
                tail = row.rfind(b"\t")
                name = row[tail + 1:]
                if not name or name[-1] in b"\r" or head < 0:
                    # Rare: a line end of Windows, tabs at the end, a blank line, no tab at all.
                    row = row[:-1] if row.endswith(b"\r") else row
                    row = row.rstrip(b"\t")
                    if not row.strip():
                        continue
                    head, tail = row.find(b"\t"), row.rfind(b"\t")
                    name = row[tail + 1:]
                    if head < 0:
                        raise self._wrong(number, _without_tab(row))
                try:
                    ids.append(int(row[:head]))
                except (ValueError, OverflowError):
                    raise self._wrong(number, f"the row starts with {_shown(row[:head])}, not "
                                      "with a number (the image's ID)") from None
                kept.append(row[head + 1:tail + 1])
                lines.append(number)
                names += name
                name_ends.append(len(names))
            try:
                labels.add(kept)
            except _WrongLabel as wrong:
                line = lines[len(lines) - len(kept) + wrong.position]
                raise self._wrong(line, str(wrong)) from None
        if not ids:
            raise InputError(f"{self.path}: holds no rows")
        self.ids = np.frombuffer(ids, np.int64)
        self.checksum = digest.hexdigest()
        self.num_classes = labels.finish()
        self._labels = labels
        self._lines, self._names, self._name_ends = lines, names, name_ends
        self._counts = None

    def __len__(self):
        return len(self.ids)

    def labels(self, rows):
        """Labels of some rows.

        Parameters
        ----------
        rows : sequence of int
            Row numbers, 0 to len(self) - 1, in any order.

        Returns
        -------
        numpy.ndarray
            float32, (len(rows), num_classes): 1 present, 0 absent, -1 unknown, or in between.
        """
        return self._labels.dense(np.asarray(rows, np.int64).reshape(-1))

    def name(self, row):
        """File name of a row as it stands there, decoded as the file system's names are."""
        return os.fsdecode(bytes(self._names[self._name_ends[row]:self._name_ends[row + 1]]))

    def line(self, row):
        """Line of the file, from 1, that a row stands on."""
        return self._lines[row]

    @property
    def positives(self):
        """int64, (num_classes,): rows that carry each class (a soft label from 0.5 on)."""
        return self._count()[0]

    @property
    def negatives(self):
        """int64, (num_classes,): rows known not to carry each class; -1 is in neither."""
        return self._count()[1]

    def _count(self):
        if self._counts is None:
            self._counts = self._labels.count(len(self))
        return self._counts

    def _wrong(self, line, reason):
        return InputError(f"{self.path}:{line}: {reason}")


class _WrongLabel(Exception):
    def __init__(self, position, reason):
        super().__init__(reason)
        self.position = position


class _MultiHot:
    """A (rows, classes) matrix: int8 until the first soft label, float32 from there on."""

    def __init__(self, num_classes):
        self.asked = self.num_classes = num_classes
        self.dtype = np.int8
        self.buffer = bytearray()

    def add(self, rows):
        """Append rows, each the text of its labels with a tab after each."""
        if not rows:
            return
        if self.num_classes is None:
            self.num_classes = rows[0].count(b"\t")
            if not 0 < self.num_classes <= MAX_CLASSES:
                raise _WrongLabel(0, "no labels between ID and file name")
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
        for place in np.flatnonzero(slow):
            values = self.parse(place, rows[place])
            if block.dtype == np.int8 and not np.array_equal(values, values.astype(np.int8)):
                block = block.astype(np.float32)
            block[place] = values
        if block.dtype != self.dtype:
            if self.dtype == np.int8:
                self.buffer = bytearray(self.matrix().astype(np.float32))
                self.dtype = np.float32
            block = block.astype(np.float32)
        self.buffer += block.data.cast("B")

    def parse(self, place, row):
        """The labels of one row in any spelling, float32."""
        fields = row.split(b"\t")[:-1]
        if len(fields) != self.num_classes:
            expected = ("the first row has" if self.asked is None else "--num-classes is")
            raise _WrongLabel(place, _count_reason(fields, expected, self.num_classes))
        with contextlib.suppress(ValueError):
            values = np.array([float(field) for field in fields], np.float64)
            # Python alone reads 1_0 as 10.
            if ((values >= 0) & (values <= 1) | (values == -1)).all() and b"_" not in row:
                return values.astype(np.float32)
        for column, field in enumerate(fields):
            value = _number(field)
            if value is None or not (0 <= value <= 1 or value == -1):
                raise _WrongLabel(place, _value_reason(field, value, column, len(fields)))
        raise AssertionError("a row was refused, but none of its labels")

    def matrix(self):
        return np.frombuffer(self.buffer, self.dtype).reshape(-1, self.num_classes)

    def finish(self):
        return self.num_classes

    def dense(self, rows):
        return self.matrix()[rows].astype(np.float32)

    def count(self, num_rows):
        positives = np.zeros(self.num_classes, np.int64)
        negatives = np.zeros(self.num_classes, np.int64)
        step = 1 + BLOCK_BYTES // self.num_classes
        for start in range(0, num_rows, step):
            part = self.matrix()[start:start + step]
            positive = np.count_nonzero(part >= 0.5, axis=0)
            positives += positive
            negatives += np.count_nonzero(part >= 0, axis=0) - positive
        return positives, negatives


class _Indices:
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
                raise _WrongLabel(place, f"class {number}, but " + (
                    f"--num-classes is {limit} (classes are numbered from 0)" if self.asked
                    else f"classes are numbered from 0 to at most {limit - 1}"))
            if len(set(numbers)) < len(numbers):
                twice = next(n for n in numbers if numbers.count(n) > 1)
                raise _WrongLabel(place, f"class {twice} stands there twice; a row of one 0 or 1 "
                                  "a class wants --label-format multi-hot")
            self.classes.extend(numbers)
            self.ends.append(len(self.classes))

    def parse(self, place, field):
        """A class number as tools for single-label lists write it, such as 4.000000."""
        value = _number(field)
        if value is None or not value.is_integer():
            raise _WrongLabel(place, _not_a_number(field, "is not a class number"))
        return int(value)

    def finish(self):
        if self.num_classes is None:
            self.num_classes = max(self.classes, default=-1) + 1
        return self.num_classes

    def dense(self, rows):
        ends = np.frombuffer(self.ends, np.int64)
        starts, counts = ends[rows], ends[rows + 1] - ends[rows]
        # Entry k of the result's list belongs to the row whose span, laid end to end, holds k.
        place = np.repeat(np.arange(len(rows)), counts)
        shift = np.repeat(starts - (np.cumsum(counts) - counts), counts)
        labels = np.zeros((len(rows), self.num_classes), np.float32)
        classes = np.frombuffer(self.classes, np.int32) if self.classes else np.empty(0, np.int32)
        labels[place, classes[np.arange(len(place)) + shift]] = 1
        return labels

    def count(self, num_rows):
        classes = np.frombuffer(self.classes, np.int32) if self.classes else np.empty(0, np.int32)
        positives = np.bincount(classes, minlength=self.num_classes).astype(np.int64)
        return positives, num_rows - positives


def _blocks(path, digest):
    """Yield (number of the first line, lines without their newlines), a few MB at a time."""
    line, rest, first = 1, b"", True
    try:
        with open(path, "rb") as file:
            while True:
                block = file.read(BLOCK_BYTES)
                digest.update(block)
                if first:
                    first = False
                    if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
                        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
                    rest = block[3:] if block[:3] == b"\xef\xbb\xbf" else block
                else:
                    rest += block
                rows = rest.split(b"\n")
                # Without a newline so far the last piece may go on in the next block.
                rest = rows.pop() if block else b""
                if len(rest) > MAX_LINE_BYTES:
                    raise InputError(f"{path}:{line + len(rows)}: a line longer than "
                                     f"{MAX_LINE_BYTES >> 20} MB; not a .lst file?")
                if rows:
                    yield line, rows
                    line += len(rows)
                if not block:
                    return
    except OSError as error:
        reason = ("is a directory, not a .lst file" if error.errno == errno.EISDIR
                  else (error.strerror or str(error)).lower())
        raise InputError(f"{path}: {reason}") from None


def _first_with(rows, byte):
    return next(place for place, row in enumerate(rows) if byte in row)


def _number(field):
    """The finite float that a field holds, or None."""
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) and b"_" not in field else None


def _shown(field):
    """A field for a message: quoted, cut to a length that one can read."""
    text = field[:40].decode("utf-8", "backslashreplace")
    return f'"{text}"' + ("..." if len(field) > 40 else "")


def _without_tab(row):
    if len(row.split()) > 2:
        return "spaces stand where tabs belong: ID, labels and file name want tabs between them"
    return f"no tab in {_shown(row)}: a row is ID, labels and file name, with tabs between them"


def _not_a_number(field, reason):
    if len(field.split()) > 1:
        return f"spaces stand where tabs belong, in {_shown(field)}"
    return f"the label {_shown(field)} {reason}"


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
    return (f"label {column + 1} of {num_fields} is {_shown(field)}, not 1, 0, -1 (unknown) or "
            "between 0 and 1; rows of class numbers want --label-format indices")
