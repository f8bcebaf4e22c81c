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
import os
import re
from array import array
from typing import Any, Sequence

import numpy as np

from common.cli import InputError, require
from common.files import open_regular_file, retry_transient_errors
from common.text import quoted
from reading.multi_hot_labels import MAX_CLASSES, MultiHotLabels, WrongLabel

LABEL_FORMATS = ("multi-hot", "indices", "signed")
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20
# A file name that is, or begins with, what tools write as a label.
LABEL = re.compile(rb"-?[01](\.0*)?|0\.\d+|(-?[01]\.0+|0\.\d{6})\s.*", re.DOTALL)


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
