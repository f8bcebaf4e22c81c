"""Writing .lst files and lists of class names: what a name may hold, and how labels are spelled.

    write_lst("train.lst", [0, 1], np.array([[1, 0], [0, -1]], np.int8), ["a.jpg", "b.jpg"])

Files that belong together are written together, all of them or none:

    labels = np.array([[1, 0], [0, -1]], np.int8)
    write_together([lst_file("train.lst", [0, 1], labels, ["a.jpg", "b.jpg"]),
                    lines_file("labels.txt", ["cat", "dog"])])
"""
import os

import numpy as np

from common.cli import InputError
from common.files import write_atomically

# How im2rec spells a label, by its value (-1 is the last row); zero bytes fill the columns up.
SPELLING = np.array([[*b"0.000000\t\0"], [*b"1.000000\t\0"], [*b"-1.000000\t"]], np.uint8)
BLOCK_LABELS = 1 << 20


def name_problem(name):
    """Why a file name cannot stand in a .lst, or None when it can.

    Parameters
    ----------
    name : str
        Relative to the image root; spaces and any script are fine.
    """
    if not name.strip():
        return "the file name is empty"
    for character, words in (("\t", "a tab"), ("\n", "a line end"), ("\r", "a line end"),
                             ("\0", "a zero byte")):
        if character in name:
            return f"the file name {name!r:.200} holds {words}, which a .lst cannot hold"
    return None if _encodes(name) else f"the file name {name!r:.200} is not valid Unicode"


def write_lst(path, ids, labels, names, label_format="multi-hot"):
    """Write a .lst file atomically; see `lst_file`."""
    write_together([lst_file(path, ids, labels, names, label_format)])


def write_lines(path, lines):
    """Write a text file of one item per line, atomically."""
    write_together([lines_file(path, lines)])


def lst_file(path, ids, labels, names, label_format="multi-hot"):
    """A .lst file for `write_together`.

    Parameters
    ----------
    path : str
    ids : sequence of int
    labels : numpy.ndarray
        (rows, classes): 1 present, 0 absent, -1 unknown, or a soft value in between.
    names : sequence of str
    label_format : str
        "multi-hot", or "indices": the numbers of the classes present, which leaves no way to
        say unknown.

    Returns
    -------
    path : str
    write : callable
        Writes it to the file whose name it is given.

    Raises
    ------
    InputError
        When "indices" would lose something.
    """
    if label_format == "indices" and not np.isin(labels, (0, 1)).all():
        raise InputError(f"{path}: --label-format indices can say neither unknown (-1) nor soft "
                         "labels, and there are some: use multi-hot")
    spell = _class_numbers if label_format == "indices" else _multi_hot

    def write(temporary):
        with open(temporary, "wb") as file:
            step = 1 + BLOCK_LABELS // max(1, labels.shape[1])
            for start in range(0, len(names), step):
                texts = spell(labels[start:start + step])
                file.write(b"".join(
                    b"%d\t%s%s\n" % (number, text, os.fsencode(name)) for number, text, name
                    in zip(ids[start:start + step], texts, names[start:start + step])))

    return path, write


def lines_file(path, lines):
    """A text file of one item per line, for `write_together`: path and writing function."""
    def write(temporary):
        with open(temporary, "wb") as file:
            file.write(b"".join(os.fsencode(line) + b"\n" for line in lines))

    return path, write


def write_together(files):
    """Write files so that an error, such as a full disk, leaves all of them as they were.

    Parameters
    ----------
    files : sequence of (str, callable)
        From `lst_file` and `lines_file`.

    Raises
    ------
    InputError
        When one of them cannot be written.
    """
    for path, _ in files:
        if os.path.isdir(path):  # the one thing that renaming stumbles over
            raise InputError(f"{path}: cannot be written: is a folder")
    _write_nested(list(files))


def _multi_hot(labels):
    whole = labels.astype(np.int8)
    if np.array_equal(whole, labels):
        return [row.tobytes().replace(b"\0", b"") for row in SPELLING[whole]]
    return [b"".join(b"%.6f\t" % value for value in row) for row in labels]


def _class_numbers(labels):
    return [b"".join(b"%d\t" % number for number in np.flatnonzero(row)) for row in labels]


def _encodes(name):
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _write_nested(files):
    """Write all temporary files, and only then rename them, from the last to the first."""
    (path, write), *others = files

    def write_this_and_others(temporary):
        write(temporary)
        if others:
            _write_nested(others)

    write_atomically(path, write_this_and_others)
