"""Reading .lst files: the images and the labels of each.

    lst = read_lst("train.lst")
    lst.labels([0, 1])      # (2, classes) float32: 1 present, 0 absent, -1 unknown
    lst.name(0)             # "photos/0270.jpg"

One row per image, fields separated by tabs: the image's ID (a number), the labels, the file name.

    multi-hot   5247<TAB>1.000000<TAB>0.000000<TAB>1.000000<TAB>image1.jpg
    indices     5247<TAB>0<TAB>2<TAB>image1.jpg

Both rows say that classes 0 and 2 are present. A million rows of 80 classes take about 110 MB,
up to 350 MB with soft labels.
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
from array import array
from functools import cached_property
from typing import Sequence

import numpy as np

from common.cli import InputError, require
from common.files import open_regular_file, retry_transient_errors
from common.text import quoted

LABEL_FORMATS = ("multi-hot", "indices", "signed")
MAX_CLASSES = 1_000_000
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20
SPACES = "spaces stand where tabs belong"
# A number as labels are spelled, one that file names may well start with, and a bare label.
LABEL = re.compile(rb"-?[01]\.0+|0\.[0-9]{6}")
NUMBER = re.compile(rb"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)")
BARE = re.compile(rb"\s*(-?[01](\.0*)?|0\.[0-9]+)\s*")
# What follows the digit of a label that is 0, 1 or -1; im2rec writes the first.
PLAIN_ENDINGS = (b".000000\t", b".0\t", b"\t")


class LstFile:
    """A .lst file in memory.

    It has its `path`, `label_format` (multi-hot also of a signed file) and `num_classes`; `ids`,
    int64, (rows,), the first field of each row, which may repeat; and `checksum`, the hexadecimal
    digest of the file's bytes.

    Parameters
    ----------
    path : str
        Path of a regular file. Blank lines, a byte order mark, CRLF line ends, and tabs at the end
        of a row with spaces among them are ignored; other spaces belong to the file names.
    num_classes : int, optional
        Number of labels that each row must have (multi-hot), or one more than the largest class
        number allowed (indices). Default: that of the first row, or the largest number plus 1.
    label_format : str
        "multi-hot": one label per class, each 1, 0, -1 (unknown) or a soft label in [0, 1].
        "indices": the numbers of the classes that are present, possibly none.
        "signed": one label per class, each 1 (present) or -1 (absent, not unknown), and no 0.

    Raises
    ------
    InputError
        With file and line, when the file cannot be read or a row is wrong.
    """

    def __init__(self, path: str | os.PathLike[str], num_classes: int | None = None,
                 label_format: str = "multi-hot") -> None:
        require(label_format in LABEL_FORMATS, "label_format", ", ".join(LABEL_FORMATS),
                label_format)
        require(num_classes is None or 0 < num_classes <= MAX_CLASSES, "num_classes",
                f"1 to {MAX_CLASSES}", num_classes)
        self.path = os.fspath(path)
        labels: MultiHotLabels | IndexLabels
        if label_format == "indices":
            labels = IndexLabels(num_classes)
        else:
            labels = MultiHotLabels(num_classes, label_format == "signed")
            label_format = "multi-hot"
        self.label_format = label_format
        ids, lines = array("q"), array("q")
        names, name_ends = bytearray(), array("q", [0])
        digest = hashlib.blake2b(digest_size=16)
        for first_line, rows in _blocks(self.path, digest):
            if b"\0" in b"".join(rows):
                line = first_line + next(place for place, row in enumerate(rows) if b"\0" in row)
                raise self._wrong(line, "not a text file: a zero byte")
            first, kept = len(lines), []
            for number, row in enumerate(rows, first_line):
                if row[-1:] in b"\t\r " or b"\t" not in row:
                    # Rare: a line end of Windows, tabs at the end, a blank line, no tab at all.
                    row = row[:-1] if row.endswith(b"\r") else row
                    start, tab, end = row.rpartition(b"\t")
                    if tab and not end.strip(b" "):
                        row = start.rstrip(b"\t ")
                    if not row.strip():
                        continue
                    if len(row.split()) > 2 and b"\t" not in row:
                        raise self._wrong(number, f"{SPACES}: ID, labels and file name need tabs "
                                          "between them")
                    if b"\t" not in row:
                        raise self._wrong(number, f"no tab in {quoted(row)}: a row is ID, labels "
                                          "and file name, with tabs between them")
                head, tail = row.find(b"\t"), row.rfind(b"\t")
                try:
                    if b"_" in row[:head]:
                        raise ValueError  # Python alone reads 1_0 as 10
                    ids.append(int(row[:head]))
                except (ValueError, OverflowError):
                    raise self._wrong(number, _wrong_field(
                        row[:head], "the row starts with {}, not with a number (the image's ID)"
                    )) from None
                kept.append(row[head + 1:tail + 1])
                lines.append(number)
                names += row[tail + 1:]
                name_ends.append(len(names))
            if kept and not first and num_classes is None and label_format == "multi-hot":
                self._check_name(lines[0], names[:name_ends[1]], LABEL)
            try:
                labels.add(kept)
            except WrongLabel as wrong:
                row = first + wrong.position
                if label_format == "multi-hot" and kept[wrong.position].count(b"\t") < (
                        labels.num_classes or 1):
                    self._check_name(lines[row], names[name_ends[row]:name_ends[row + 1]], NUMBER)
                raise self._wrong(lines[row], str(wrong)) from None
        if not ids:
            raise InputError("holds no rows", file=self.path)
        self.ids = np.frombuffer(ids, np.int64)
        self.checksum = digest.hexdigest()
        self.num_classes = labels.num_classes
        if not self.num_classes:
            raise InputError("no row has a class; {flag} says how many there are",
                             file=self.path, flag="--num-classes")
        self._labels = labels
        self._lines, self._names, self._name_ends = lines, names, name_ends

    def __len__(self) -> int:
        return len(self.ids)

    def labels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Labels of some rows, given by number from 0: float32, (len(rows), num_classes)."""
        return self._labels.dense(np.asarray(rows, np.int64).reshape(-1))

    def name(self, row: int) -> str:
        """File name in a row, decoded like names of the file system."""
        return os.fsdecode(bytes(self._names[self._name_ends[row]:self._name_ends[row + 1]]))

    def line(self, row: int) -> int:
        """Line number of a row in the file, from 1."""
        return self._lines[row]

    @property
    def positives(self) -> np.ndarray:
        """int64, (num_classes,): number of rows with each class present (label above 0.5)."""
        return self._counts[0]

    @property
    def negatives(self) -> np.ndarray:
        """int64, (num_classes,): number of rows with each class absent (label 0 to 0.5)."""
        return self._counts[1]

    @cached_property
    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        return self._labels.count(len(self))

    def _check_name(self, line, name, label):
        """Refuse a file name that is, or starts with, what was meant as a label."""
        name = bytes(name)
        if BARE.fullmatch(name):
            raise self._wrong(line, f"no file name after the last label, {quoted(name)} (if "
                              "that is the name, {flag} says how many labels there are)")
        start, *rest = name.split(None, 1) or [b""]
        if rest and label.fullmatch(start):
            raise self._wrong(line, _wrong_field(name, ""))

    def _wrong(self, line, reason):
        return InputError(reason, file=self.path, line=line,
                          flag="--num-classes" if "{flag}" in reason else None)


read_lst = LstFile  # for callers: read_lst(path)


class WrongLabel(Exception):
    """What is wrong with the labels of a row; `position` is its place among the rows added."""

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
        block = _parse_plain(rows, self.num_classes)
        if block is None:
            values = self.parse_any(rows)
            block = values.astype(np.int8)
            if not np.array_equal(values, block):
                block = values
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

    def parse_any(self, rows):
        """The labels of rows in any spelling, float32, (rows, num_classes)."""
        text = b"".join(rows)
        if b"_" not in text and all(row.count(b"\t") == self.num_classes for row in rows):
            with contextlib.suppress(ValueError):
                values = np.array(list(map(float, text.split(b"\t")[:-1])))
                if _allowed(values).all():
                    return values.astype(np.float32).reshape(-1, self.num_classes)
        return np.stack([self.parse(place, row) for place, row in enumerate(rows)])

    def parse(self, place, row):
        fields = row.split(b"\t")[:-1]
        if len(fields) != self.num_classes:
            for field in fields:
                if len(field.split()) > 1:
                    raise WrongLabel(place, _wrong_field(field, ""))
            source = "the first row has" if self.expected is None else "{flag} is"
            hint = ("; rows of class numbers need --label-format indices"
                    if len(fields) < self.num_classes else "")
            raise WrongLabel(place, f"{len(fields)} label{'s' * (len(fields) != 1)}, but {source} "
                                    f"{self.num_classes}{hint}")
        values = [_float_or_none(field) for field in fields]
        for column, (field, value) in enumerate(zip(fields, values), 1):
            if value is None:
                raise WrongLabel(place, _wrong_field(field, "the label {} is not a number"))
            if not _allowed(value):
                raise WrongLabel(place, f"label {column} of {len(fields)} is {quoted(field)}, not "
                                        "1, 0, -1 (unknown) or between 0 and 1; rows of class "
                                        "numbers need --label-format indices")
        return np.array(values, np.float32)

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Labels of some rows, int64 numbers: float32, (len(rows), num_classes)."""
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
            raise WrongLabel(place, _wrong_field(field, "the label {} is not a class number"))
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


def _blocks(path, digest):
    """Yield (number of the first line, lines without newlines), about a MB at a time."""
    line, rest = 1, b""
    try:
        # Without Python's buffer, a read that failed can be repeated.
        with retry_transient_errors(lambda: open_regular_file(path, buffering=0)) as file:
            while True:
                block = retry_transient_errors(lambda: file.read(BLOCK_BYTES))
                digest.update(block)
                rest += block
                rows = rest.split(b"\n")
                # Without a newline so far the last piece may go on in the next block.
                rest = rows.pop() if block else b""
                if len(rest) > MAX_LINE_BYTES:
                    raise InputError(f"a line longer than {MAX_LINE_BYTES >> 20} MB; not a .lst "
                                     "file?", file=path, line=line + len(rows))
                if rows:
                    if line == 1:
                        if rows[0].startswith((b"\xff\xfe", b"\xfe\xff")):
                            raise InputError("is UTF-16 text; save it as UTF-8", file=path)
                        rows[0] = rows[0][3 * rows[0].startswith(b"\xef\xbb\xbf"):]
                    yield line, rows
                    line += len(rows)
                if not block:
                    return
    except OSError as error:
        reason = ("is a directory, not a .lst file" if error.errno == errno.EISDIR
                  else (error.strerror or str(error)).lower())
        raise InputError(reason, file=path) from None


def _allowed(values):
    """Whether each value is one that a label may have."""
    return (values >= 0) & (values <= 1) | (values == -1)


def _float_or_none(field):
    """The finite float that a field holds, or None."""
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) and b"_" not in field else None


def _wrong_field(field, reason):
    """`reason` with the field in its place, unless the field holds spaces: the likelier reason."""
    return (f"{SPACES}, in {quoted(field)}" if len(field.split()) > 1
            else reason.format(quoted(field)))
