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

import hashlib
import math
import os
import re
from array import array
from typing import Any, Sequence

import numpy as np

from common.cli import InputError, require
from common.files import open_regular_file, retry_transient_errors
from common.text import counted, quoted

LABEL_FORMATS = ("multi-hot", "indices", "signed")
MAX_CLASSES = 1_000_000
BLOCK_BYTES = 1 << 20
COUNTED_AT_ONCE = 1 << 20  # labels
MAX_LINE_BYTES = 16 << 20
# A file name that is, or begins with, what tools write as a label.
LABEL = re.compile(rb"-?[01](\.0*)?|0\.\d+|(-?[01]\.0+|0\.\d{6})\s.*", re.DOTALL)
# What follows the digit of a label that is 0, 1 or -1; im2rec writes the first.
PLAIN_ENDINGS = (b".000000\t", b".0\t", b"\t")


class LstFile:
    """A .lst file in memory.

    It has its `path`, `label_format` (multi-hot also of a signed file) and `num_classes`; `ids`,
    int64, (rows,), the first field of each row, which may repeat; `positives` and `negatives`,
    int64, (num_classes,), the number of rows with each class present (label above 0.5) and absent
    (0 to 0.5); and `checksum`, the hexadecimal digest of the file's bytes.

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
        if label_format == "indices":
            from reading.index_labels import IndexLabels  # most lists are multi-hot
            labels: Any = IndexLabels(num_classes)
        else:
            labels = MultiHotLabels(num_classes, label_format == "signed")
            label_format = "multi-hot"
        self.label_format = label_format
        ids, lines = array("q"), array("q")
        names, name_ends = bytearray(), array("q", [0])
        digest = hashlib.blake2b(digest_size=16)
        for first_line, rows in _blocks(self.path, digest):
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
                        raise InputError(f"no tab in {quoted(row)}: a row is ID, labels and file "
                                         "name, with tabs, not spaces, between them",
                                         file=self.path, line=number)
                head, tail = row.find(b"\t"), row.rfind(b"\t")
                try:
                    ids.append(int(row[:head].replace(b"_", b"?")))
                except (ValueError, OverflowError):
                    raise InputError(f"the row starts with {quoted(row[:head])}, not with a number "
                                     "(the image's ID) and a tab", file=self.path,
                                     line=number) from None
                kept.append(row[head + 1:tail + 1])
                lines.append(number)
                names += row[tail + 1:]
                name_ends.append(len(names))
            name = bytes(names[:name_ends[1]]) if len(name_ends) > 1 else b""
            if num_classes is None and label_format == "multi-hot" and LABEL.fullmatch(name):
                raise InputError(f"the file name is {quoted(name)}: no tab before it, or none at "
                                 "all? {flag} says how many labels there are, if it is right",
                                 file=self.path, line=lines[0], flag="--num-classes")
            try:
                labels.add(kept)
            except WrongLabel as wrong:
                position, reason = wrong.args
                row = first + position
                if b" " in kept[position] + names[name_ends[row]:name_ends[row + 1]]:
                    reason += "; tabs, not spaces, belong between labels"
                flag = "--num-classes" if "{flag}" in reason else None
                raise InputError(reason, file=self.path, line=lines[row], flag=flag) from None
        if not ids:
            raise InputError("holds no rows", file=self.path)
        self.ids = np.frombuffer(ids, np.int64)
        self.checksum = digest.hexdigest()
        self.num_classes = labels.num_classes
        if not self.num_classes:
            raise InputError("no row has a class; {flag} says how many there are",
                             file=self.path, flag="--num-classes")
        self.positives, self.negatives = labels.count(len(ids))
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


read_lst = LstFile  # for callers: read_lst(path)


class SampleList:
    """Samples of a run: `lst` (LstFile), whose images are in `folder`, and their totals.

    Of several workers each reads its `shard`, (number, count). The totals are as those of an
    LstFile, but over all workers' lists.
    """

    def __init__(self, lst, folder, shard=(0, 1)):
        self.lst, self.folder, self.shard = lst, folder, shard
        self.num_rows, self.num_classes, self.checksum = len(lst), lst.num_classes, lst.checksum
        self.positives, self.negatives = lst.positives, lst.negatives


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


def _blocks(path, digest):
    """Yield (number of the first line, lines without newlines), about a MB at a time."""
    line, rest = 1, b""
    try:
        # Without Python's buffer, a read that failed can be repeated.
        with retry_transient_errors(lambda: open_regular_file(path, buffering=0)) as file:
            while True:
                block = retry_transient_errors(lambda: file.read(BLOCK_BYTES))
                digest.update(block)
                if b"\0" in block:
                    raise InputError("a zero byte: not UTF-8 text", file=path,
                                     line=line + block.partition(b"\0")[0].count(b"\n"))
                rest += block
                rows = rest.split(b"\n")
                # Without a newline so far the last piece may go on in the next block.
                rest = rows.pop() if block else b""
                if len(rest) > MAX_LINE_BYTES:
                    raise InputError(f"a line longer than {MAX_LINE_BYTES >> 20} MB; not a .lst "
                                     "file?", file=path, line=line + len(rows))
                if rows:
                    if line == 1:
                        rows[0] = rows[0][3 * rows[0].startswith(b"\xef\xbb\xbf"):]
                    yield line, rows
                    line += len(rows)
                if not block:
                    return
    except OSError as error:
        raise InputError((error.strerror or str(error)).lower(), file=path) from None


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
