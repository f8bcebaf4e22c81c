"""Class names: a text file with one per line, in the order of the .lst file's columns."""
from __future__ import annotations

import os
import re

from common.cli import InputError
from common.files import open_regular_file

MAX_BYTES = 1 << 26


def class_problem(name: str) -> str | None:
    """The reason why a class cannot have this name, or None."""
    if not name.strip():
        return "a class without a name"
    if len(name.splitlines()) > 1 or name != name.strip() or "\0" in name:
        return f"the class name {name!r:.200} holds a line end, a zero byte or spaces around it"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"the class name {name!r:.200} is not UTF-8 text"
    return None


def names_beside(path: str | os.PathLike[str], num_classes: int) -> list[str] | None:
    """The class names in the labels file beside a list, None where there is none that fits.

    It is PREFIX_labels.txt for PREFIX_train.lst and PREFIX_val.lst, labels.txt for train.lst.
    """
    prefix = re.sub(r"(train|val|)\.lst$", "", os.fspath(path))
    file = f"{prefix}labels.txt"
    if not os.path.isfile(file):
        return None
    names = read_class_names(file)
    return names if len(names) == num_classes else None


def read_class_names(path: str | os.PathLike[str], num_classes: int | None = None) -> list[str]:
    """The list of class names in a UTF-8 text file.

    Spaces around names and blank lines at the end are ignored. An InputError with file and line
    is raised when the file cannot be read, a name is missing or repeated, or there are not
    `num_classes` of them.
    """
    try:
        with open_regular_file(path, "r", encoding="utf-8-sig") as file:
            text = file.read(MAX_BYTES)
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
