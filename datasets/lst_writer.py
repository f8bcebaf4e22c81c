"""Writing .lst files and lists of class names, several together: all of them or none.

    labels = np.array([[1, 0], [0, -1]], np.int8)
    write_together([lst_file("train.lst", [0, 1], labels, ["a.jpg", "b.jpg"]),
                    lines_file("labels.txt", ["cat", "dog"])])
"""
import contextlib
import csv
import io
import os

import numpy as np

from common.cli import InputError
from common.files import atomic_file
from common.text import encodable, no_formula

# How im2rec spells a label, by its value (-1 is the last row); zero bytes fill the columns up.
SPELLING = np.array([[*b"0.000000\t\0"], [*b"1.000000\t\0"], [*b"-1.000000\t"]], np.uint8)
BLOCK_LABELS = 1 << 20


def name_problem(name):
    """Why a file name cannot stand in a .lst, or None when it can."""
    if not name.strip():
        return "the file name is empty"
    for character, words in (("\t", "a tab"), ("\n", "a line end"), ("\r", "a line end"),
                             ("\0", "a zero byte")):
        if character in name:
            return f"the file name {name!r:.200} holds {words}, which a .lst cannot hold"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return f"the file name {name!r:.200} is not valid Unicode"
    return None


def lst_file(path, ids, labels, names, label_format="multi-hot"):
    """A .lst file for `write_together`: its path, and its content as an iterable of bytes.

    `ids` and `names` are sequences; `labels` are (rows, classes): 1 present, 0 absent, -1 unknown,
    or a soft value in between. `label_format` is "multi-hot" or "indices", the numbers of the
    classes present; an InputError is raised where that would lose unknown or soft labels.
    """
    if label_format == "indices" and not np.isin(labels, (0, 1)).all():
        raise InputError("{flag} indices can say neither unknown (-1) nor soft labels, and there "
                         "are some: use multi-hot", file=path, flag="--label-format")
    spell = _class_numbers if label_format == "indices" else _multi_hot
    step = 1 + BLOCK_LABELS // max(1, labels.shape[1])
    return path, (b"%d\t%s%s\n" % (number, text, os.fsencode(name))
                  for start in range(0, len(names), step)
                  for number, text, name in zip(ids[start:start + step],
                                                spell(labels[start:start + step]),
                                                names[start:start + step]))


def lines_file(path, lines):
    """A text file of one item per line, for `write_together`, as `lst_file`."""
    return path, (os.fsencode(line) + b"\n" for line in lines)


def csv_file(path, head, rows):
    """A CSV file for `write_together`, as `lst_file`; spreadsheets see no formula in it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [no_formula(encodable(str(cell))) for cell in row] for row in [head, *rows])
    return path, [text.getvalue().encode()]


def write_together(files):
    """Write files from `lst_file` and `lines_file`.

    Raises
    ------
    InputError
        When one of them cannot be written, for example on a full disk. All are then as they were.
    """
    for path, _ in files:
        if os.path.isdir(path):  # the one thing that renaming stumbles over
            raise InputError("cannot be written: is a folder", file=path)
    with contextlib.ExitStack() as stack:  # renames at its end, when all have been written
        for path, content in files:
            with open(stack.enter_context(atomic_file(path)), "wb") as file:
                file.writelines(content)


def _multi_hot(labels):
    whole = labels.astype(np.int8)
    if np.array_equal(whole, labels):
        return [row.tobytes().replace(b"\0", b"") for row in SPELLING[whole]]
    return [b"".join(b"%.6f\t" % value for value in row) for row in labels]


def _class_numbers(labels):
    return [b"".join(b"%d\t" % number for number in np.flatnonzero(row)) for row in labels]
