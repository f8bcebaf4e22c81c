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

import errno
import hashlib
import os
import re
from array import array
from functools import cached_property
from typing import Sequence

import numpy as np

from common.cli import InputError, require
from common.files import open_regular_file, retry_transient_errors
from common.text import quoted
from reading.label_store import MAX_CLASSES, SPACES, IndexLabels, MultiHotLabels, WrongLabel

LABEL_FORMATS = ("multi-hot", "indices", "signed")
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20
# A number as labels are spelled, one that file names may well start with, and a bare label.
LABEL = re.compile(rb"-?[01]\.0+|0\.[0-9]{6}")
NUMBER = re.compile(rb"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)")
BARE = re.compile(rb"\s*(-?[01](\.0*)?|0\.[0-9]+)\s*")


def read_lst(path: str | os.PathLike[str], num_classes: int | None = None,
             label_format: str = "multi-hot") -> LstFile:
    """Read a .lst file; returns an LstFile.

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
    return LstFile(path, num_classes, label_format)


class LstFile:
    """A .lst file in memory, as `read_lst` returns it.

    It has its `path`, `label_format` (multi-hot also of a signed file) and `num_classes`; `ids`,
    int64, (rows,), the first field of each row, which may repeat; and `checksum`, the hexadecimal
    digest of the file's bytes.
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
                    if b"\t" not in row:
                        raise self._wrong(number, _without_tab(row))
                head, tail = row.find(b"\t"), row.rfind(b"\t")
                try:
                    ids.append(_parse_id(row[:head]))
                except (ValueError, OverflowError):
                    raise self._wrong(number, _not_an_id(row[:head])) from None
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
            raise self._wrong(line, f"{SPACES}, in {quoted(name)}")

    def _wrong(self, line, reason):
        return InputError(reason, file=self.path, line=line,
                          flag="--num-classes" if "{flag}" in reason else None)


def _blocks(path, digest):
    """Yield (number of the first line, lines without newlines), about a MB at a time."""
    line, rest, first = 1, b"", True
    try:
        # Without Python's buffer, a read that failed can be repeated.
        with retry_transient_errors(lambda: open_regular_file(path, buffering=0)) as file:
            while True:
                block = retry_transient_errors(lambda: file.read(BLOCK_BYTES))
                digest.update(block)
                rest += block
                if first:
                    if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
                        raise InputError("is UTF-16 text; save it as UTF-8", file=path)
                    if block[:3] == b"\xef\xbb\xbf":
                        rest = block[3:]
                    first = False
                rows = rest.split(b"\n")
                # Without a newline so far the last piece may go on in the next block.
                rest = rows.pop() if block else b""
                if len(rest) > MAX_LINE_BYTES:
                    raise InputError(f"a line longer than {MAX_LINE_BYTES >> 20} MB; not a .lst "
                                     "file?", file=path, line=line + len(rows))
                if rows:
                    yield line, rows
                    line += len(rows)
                if not block:
                    return
    except OSError as error:
        reason = ("is a directory, not a .lst file" if error.errno == errno.EISDIR
                  else (error.strerror or str(error)).lower())
        raise InputError(reason, file=path) from None


def _parse_id(text):
    if b"_" in text:
        raise ValueError  # Python alone reads 1_0 as 10
    return int(text)


def _not_an_id(text):
    if len(text.split()) > 1:
        return f"{SPACES}, in {quoted(text)}"
    return f"the row starts with {quoted(text)}, not with a number (the image's ID)"


def _without_tab(row):
    if len(row.split()) > 2:
        return f"{SPACES}: ID, labels and file name need tabs between them"
    return (f"no tab in {quoted(row)}: a row is ID, labels and file name, with tabs between "
            "them")
