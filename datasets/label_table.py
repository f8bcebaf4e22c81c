"""From samples to a matrix of labels, its statistics, and the .lst files that hold it."""
import contextlib
import csv
import io
import logging
import os
import re
from array import array
from collections import Counter, namedtuple
from typing import NamedTuple, Optional

import numpy as np

from common.cli import InputError
from common.files import atomic_file, existing_path
from common.text import counted, encodable, no_formula, printable
from reading.classes import ListCounts, class_problem
from reading.image_file import IMAGE_ENDINGS

MAX_LABEL_BYTES = 4_000_000_000  # bytes that the matrix may take
PAIR = 1 << 32  # above every class number
MISSING_SHOWN = 5  # names of images that do not exist
FEW = 20  # images of a class in all lists, below which the table names it
# How im2rec spells a label, by its value (-1 is the last row); zero bytes fill the columns up.
SPELLING = np.array([[*b"0.000000\t\0"], [*b"1.000000\t\0"], [*b"-1.000000\t"]], np.uint8)
BLOCK_LABELS = 1 << 20

logger = logging.getLogger(__name__)

NOTHING = frozenset()


class Place(NamedTuple):
    """Where something stands: a file, and its line from 1."""

    file: str
    line: Optional[int] = None

    def __str__(self):
        return self.file if self.line is None else f"{self.file}:{self.line}"


class Sample(NamedTuple):
    """An image: its name relative to the image root, and sets of class names.

    Every other class is absent; `unknown` is None where those are unknown that are neither in
    `present` nor in `absent`. `where`, a Place or a text, is for messages. Images of the same
    `group` belong on one side of a split; None: the image is alone.
    """

    name: str
    present: frozenset
    unknown: Optional[frozenset]
    where: Place
    absent: frozenset = NOTHING
    group: Optional[str] = None


# Class names in the source's order, None where it has none, and its samples.
Source = namedtuple("Source", "classes samples")
# Images, their labels, a Counter of labels whose classes were left out, and each image's group.
Table = namedtuple("Table", "names classes labels left_out groups")


class BadInput:
    """Raises an InputError for bad input or, with `skip`, leaves the item out with a warning.

    `count` is the number of items left out.
    """

    def __init__(self, skip):
        self.skip = skip
        self.count = 0

    def reject(self, where, reason, count=1):
        """Leave out `count` items that are at `where`, or raise an InputError."""
        if not self.skip:
            file, line = where if isinstance(where, Place) else (where, None)
            raise InputError(f"{reason} (--skip-bad goes on without it)", file=file, line=line)
        self.count += count
        logger.warning("left out: %s: %s", where, reason)

    @contextlib.contextmanager
    def rejecting(self, where):
        """Reject what is at `where` if the block raises a ValueError or OSError.

        An InputError about a file passes: it says itself where the mistake is.
        """
        try:
            yield
        except OSError as error:
            self.reject(where, (error.strerror or str(error)).lower())
        except ValueError as error:
            if isinstance(error, InputError) and error.file:
                raise
            self.reject(where, str(error))


def build_table(source, bad_input, listed=None, drop_unlisted=False, min_count=0, path_root=None,
                suffix=""):
    """Collect samples into a Table; an image that occurs twice has the labels of both samples.

    Bad samples, and images that do not exist, go to `bad_input`. An InputError is raised when no
    image or no class is left, or there are more labels than fit into memory.

    Classes are `listed` in their order, whether they occur or not, else the source's, else sorted.
    Others than those listed are an error, or left out with `drop_unlisted`, and so are those that
    fewer than `min_count` images carry. Names that do not end as those of images do get the
    `suffix`. With a `path_root` every image must exist there, absolute names are under it, and a
    name is replaced by that of the file which it means; see `existing_path`.
    """
    for number, name in enumerate(source.classes or (), 1):
        if class_problem(name):
            raise InputError(f"class {number} of the source: {class_problem(name)}")
    rows_of_names, numbers = {}, {name: n for n, name in enumerate(source.classes or ())}
    pairs = {1: array("q"), 0: array("q"), -1: array("q")}  # by label, row * PAIR + class
    all_unknown, missing, groups = [], [], []
    allowed = None if listed is None or drop_unlisted else set(listed)
    for sample in source.samples:
        with bad_input.rejecting(sample.where):
            name = _image_name(sample.name, path_root, suffix)
            for class_name in sample.present | (sample.unknown or NOTHING):
                _check_class(class_name, numbers, allowed)
            if path_root and not os.path.isfile(os.path.join(path_root, name)):
                missing.append((sample.where, name))
                continue
            # ./b.jpg is b.jpg: as two images, one might come into training and one into validation.
            row = rows_of_names.setdefault(os.path.normpath(name), len(rows_of_names))
            if row == len(groups):
                groups.append(sample.group)
            elif groups[row] != sample.group:
                raise ValueError(f"{name} is of group {sample.group}, but on an earlier line of "
                                 f"{groups[row]}")
            if sample.unknown is None:
                all_unknown.append(row)
            for value, names in ((1, sample.present), (0, sample.absent),
                                 (-1, sample.unknown or NOTHING)):
                for class_name in names:
                    pairs[value].append(row * PAIR + numbers.setdefault(class_name, len(numbers)))
    if missing:
        names = ", ".join(f"{where}: {name!r:.200}" for where, name in missing[:MISSING_SHOWN])
        has_ending = missing[0][1].lower().endswith(IMAGE_ENDINGS)
        hint = "" if has_ending else "; --suffix .jpg adds an ending"
        bad_input.reject(path_root, f"{counted(len(missing), 'image is', 'images are')} not there, "
                         f"such as {names}{hint}", len(missing))
    if not rows_of_names:
        raise InputError("no images were found" + ", only bad ones" * bool(bad_input.count))

    pairs = {value: np.unique(np.asarray(cells, np.int64)) for value, cells in pairs.items()}
    both = np.intersect1d(pairs[1], pairs[0])
    if len(both):
        row, column = divmod(int(both[0]), PAIR)
        bad_input.reject(list(rows_of_names)[row], f"{list(numbers)[column]} is both present and "
                         "absent there", len(both))
    counts = np.bincount(pairs[1] % PAIR, minlength=len(numbers)).tolist()
    counts = Counter(dict(zip(numbers, counts)))
    order = listed or source.classes or sorted(numbers, key=_natural)
    classes = [name for name in order if counts[name] >= min_count]
    if not classes:
        raise InputError(f"no class is left of {len(numbers)}" if numbers
                         else "there are no labels")
    if len(rows_of_names) * len(classes) > MAX_LABEL_BYTES:
        raise InputError(f"{len(rows_of_names)} images times {len(classes)} classes are more "
                         "labels than fit: have fewer classes by {flag} or --classes",
                         flag="--min-count")
    labels = np.zeros((len(rows_of_names), len(classes)), np.int8)
    new_columns = {name: column for column, name in enumerate(classes)}
    left_out = Counter({name: counts[name] for name in numbers if name not in new_columns})
    column = np.array([new_columns.get(name, -1) for name in numbers], np.int64)
    labels[all_unknown] = -1
    # Known outweighs unknown, but what is both present and absent is unknown.
    for value, cells in ((-1, pairs[-1]), (0, pairs[0]), (1, pairs[1]), (-1, both)):
        rows, columns = np.divmod(cells, PAIR)
        columns = column[columns]
        labels[rows[columns >= 0], columns[columns >= 0]] = value
    return Table(list(rows_of_names), classes, labels, left_out, groups)


def part(title, labels):
    """Count the labels of an int8 matrix."""
    return ListCounts(title, len(labels), np.count_nonzero(labels == 1, axis=0),
                      np.count_nonzero(labels == 0, axis=0))


def format_table(classes, parts):
    """The statistics of some lists (ListCounts), side by side, as text of several lines.

    Images, labels, labels per image; for each class the images that carry it; and the classes
    with too few.
    """
    classes = [printable(name) for name in classes]
    unknown = sum(p.num_rows - p.positives - p.negatives for p in parts)
    width = max(12, *(min(len(name), 40) for name in classes))
    titles = [p.title for p in parts] + ["unknown"] * bool(unknown.any())
    columns = [max(9, 2 + len(title)) for title in titles]

    def line(head, *values):
        return f"{head:{width}.40}" + "".join(
            f"{value:>{column}}" for value, column in zip(values, columns))

    lines = [line("", *titles[:len(parts)]),
             line("images", *(p.num_rows for p in parts)),
             line("labels", *(p.positives.sum() for p in parts)),
             line("per image", *(f"{p.positives.sum() / p.num_rows:.2f}" for p in parts)), "",
             line("class", *titles)]
    counts = np.stack([p.positives for p in parts], axis=1)
    # `line` drops the last value, unknown, where it has no title.
    lines += [line(name, *row) for name, row in zip(classes, np.column_stack([counts, unknown]))]
    few = [name for name, row in zip(classes, counts) if row.min() == 0 or row.sum() < FEW]
    if few:
        lines += ["", f"too few (none in a list, or fewer than {FEW} in all): {', '.join(few)}"]
    return "\n".join(lines)


def _image_name(given, path_root, suffix):
    """An image's name as the .lst has it, relative to the image root; or a ValueError."""
    name = given
    if suffix and not name.lower().endswith(IMAGE_ENDINGS):
        name += suffix
    if path_root:
        found = existing_path(os.path.join(path_root, name))
        if os.path.isabs(name) or found != os.path.join(path_root, name):
            name = os.path.relpath(found, path_root)
    if os.path.isabs(name):
        raise ValueError(f"{given} is an absolute name: --path-root says which folder it is under")
    if os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise ValueError(f"{given!r:.200} leads out of the image root")
    if not name.strip():
        raise ValueError("the file name is empty")
    if re.search("[\t\n\r\0]", name):
        raise ValueError(f"the file name {name!r:.200} holds a tab, a line end or a zero byte, "
                         "which a .lst cannot hold")
    os.fsencode(name)  # a ValueError where it is not valid Unicode
    return name


def _check_class(name, numbers, allowed):
    if name not in numbers and class_problem(name):
        raise ValueError(class_problem(name))
    if allowed is not None and name not in allowed:
        raise ValueError(f"class {name} is not in the file of --classes; --drop-unlisted leaves "
                         "such classes out")


def _natural(name):
    """Class numbers by value, then names in alphabetical order."""
    return (0, int(name), name) if name.isdecimal() and len(name) < 10 else (1, 0, name)


def lst_file(path, ids, labels, names, label_format="multi-hot"):
    """A .lst file for `write_together`: its path, and its content as an iterable of bytes.

    `ids` and `names` are sequences; `labels` are (rows, classes): 1 present, 0 absent, -1 unknown,
    or a soft value in between. `label_format` is "multi-hot" or "indices", the numbers of the
    classes present; an InputError is raised where that would lose unknown or soft labels.
    """
    if label_format == "indices" and not np.isin(labels, (0, 1)).all():
        raise InputError("{flag} indices can say neither unknown (-1) nor soft labels: use "
                         "multi-hot", file=path, flag="--label-format")
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
    """Write files from `lst_file`, `lines_file` and `csv_file`.

    An InputError is raised when one of them cannot be written, for example on a full disk. All are
    then as they were.
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
