"""The classes of a list: their names, and whether it has labels to learn each of them from.

A file of class names holds one per line, in the order of the .lst file's columns.
"""
from __future__ import annotations

import os
import re
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from common.files import open_regular_file
from common.text import encodable, printable

MAX_NAMES_BYTES = 1 << 26
MAX_NAMED = 20  # classes that a warning names; of more it gives the number


def class_problem(name: str) -> str | None:
    """The reason why a class cannot have this name, or None."""
    is_name = (name == name.strip() != "" and len(name.splitlines()) == 1 and "\0" not in name
               and name == encodable(name))
    return None if is_name else (
        f"the class name {name!r:.200} is empty, is not UTF-8 text, or holds a line end, a zero "
        "byte or spaces around it")


def names_beside(path: str | os.PathLike[str], num_classes: int) -> list[str] | None:
    """The class names beside a list: PREFIX_labels.txt for PREFIX_train.lst, or None."""
    prefix = re.sub(r"(train|val|)\.lst$", "", os.fspath(path))
    file = f"{prefix}labels.txt"
    if not os.path.isfile(file):
        return None
    names = read_class_names(file)
    return names if len(names) == num_classes else None


def read_class_names(path: str | os.PathLike[str], num_classes: int | None = None) -> list[str]:
    """The list of class names in a UTF-8 text file.

    Spaces around names and blank lines at the end are ignored. An InputError is raised when a name
    is missing or repeated, or there are not `num_classes` of them.
    """
    try:
        with open_regular_file(path, "r", encoding="utf-8-sig") as file:
            text = file.read(MAX_NAMES_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise InputError(f"cannot be read: {reason}; it should hold class names, one per line",
                         file=path) from None
    names = [line.strip() for line in text.rstrip().split("\n")]
    first = {}
    for line, name in enumerate(names, 1):
        if class_problem(name):
            raise InputError(class_problem(name), file=path, line=line)
        if first.setdefault(name, line) != line:
            raise InputError(f"{name} stands on line {first[name]} already", file=path, line=line)
    if num_classes not in (None, len(names)):
        raise InputError(f"{len(names)} class names, but the .lst has {num_classes} classes",
                         file=path)
    return names


class ListCounts(NamedTuple):
    """The labels of one list, counted; over all workers where each has a list of its own."""

    title: str
    num_rows: int
    positives: np.ndarray  # int64 (classes,): rows with each class present
    negatives: np.ndarray  # absent; in the others it is unknown


def label_warnings(counts, class_names):
    """Lines that name the classes without a present label, and those without an absent one.

    An InputError says that the list has no present label at all: nothing can be learnt from it.
    """
    if not counts.positives.any():
        raise InputError(f"no label of its {counts.num_rows} rows is present (1)",
                         file=counts.title)
    without = [name for name, count in zip(class_names, counts.positives) if not count]
    lines = [f"{counts.title}: without a present label: {named(without)}" if without else None,
             absent_warning(counts, class_names)]
    return list(filter(None, lines))


def absent_warning(counts, class_names, flag="--label-format signed"):
    """A line about classes that have no absent label, None where all have some.

    Present labels alone teach nothing, and every metric of such classes is perfect. `flag` is what
    reads -1 as absent; None: nothing does.
    """
    without = [name for name, positive, negative in
               zip(class_names, counts.positives, counts.negatives) if positive and not negative]
    if not without:
        return None
    unknown = counts.num_rows - counts.positives - counts.negatives
    hint = f"; if -1 means absent in it, give {flag}" * bool(flag and unknown.any())
    return f"{counts.title}: without an absent label (0): {named(without)}{hint}"


def named(classes, most=MAX_NAMED):
    """The names of the first `most` classes, and how many more there are."""
    more = f" and {len(classes) - most} more" * (len(classes) > most)
    return ", ".join(map(printable, classes[:most])) + more
