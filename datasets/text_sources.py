"""Readers of labels in text files: CSV and JSON lines.

    source = read_jsonl("labels.jsonl", BadInput(skip=False))
    for sample in source.samples:
        sample.name, sample.present, sample.unknown

The samples are read as one goes through them.
"""
import csv
import itertools
import json
import os
import shlex
from collections import Counter, namedtuple

from common.cli import InputError
from common.files import require_regular_file
from datasets.label_table import Sample, Source
from reading.image_header import IMAGE_ENDINGS

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 4 << 20
# What a class's column may hold beside numbers: pandas writes True, False and NaN.
WORDS = {"": -1, "nan": -1, "na": -1, "true": 1, "false": 0}
NOTHING = frozenset()


def read_jsonl(path, bad_input):
    """Read one JSON object per line: `{"image": "a.jpg", "labels": ["cat"], "unknown": ["dog"]}`.

    `unknown` may be missing; class numbers in place of names are fine. Returns a Source.
    """
    return Source(None, _jsonl_samples(path, bad_input))


def _jsonl_samples(path, bad_input):
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            name, *lists = item["image"], item["labels"], item.get("unknown", [])
            if not isinstance(name, str) or not all(map(_is_list_of_classes, lists)):
                raise TypeError
        except json.JSONDecodeError as error:
            bad_input.reject(where, f"broken JSON: {error.msg} at column {error.colno}")
        except RecursionError:
            bad_input.reject(where, "JSON nested too deeply")
        except ValueError as error:  # not UTF-8, or a number of thousands of digits
            bad_input.reject(where, f"broken JSON: {error}")
        except (KeyError, TypeError):
            bad_input.reject(where, 'wants {"image": "NAME", "labels": ["CLASS", ...]}')
        else:
            present, unknown = ({str(item).strip() for item in names} for names in lists)
            yield Sample(name, present, unknown, where)


def _is_list_of_classes(value):
    return isinstance(value, list) and all(type(item) in (str, int) for item in value)


# Columns of a table, by their name in the header or their number from 1. `name` has the file
# names; None: the first column. `labels` has an image's classes, `separator` between them; None:
# the second of a table of two columns, unless it looks like the column of one class. `classes` is a
# list of columns that each stand for a class; None: all but the file names, where there are more
# than two columns.
Columns = namedtuple("Columns", "name labels classes separator")


def read_csv(path, bad_input, delimiter, header, columns):
    """Read a table with a column of file names and the labels in one of two forms.

    Either one column holds an image's classes, separated, or nothing (no class), or only -1 (all
    classes unknown); or each class has a column of 1 or True (present), 0 or False (absent) and
    -1, NaN, NA or nothing (unknown). `header` says whether the first row holds the columns' names.

    Returns a Source. Raises an InputError when the columns are not there, or it is not certain
    which form they have.
    """
    if columns.labels and columns.classes:
        raise InputError("--labels-column and --class-columns are two forms: give one of them")
    rows = _csv_rows(path, bad_input, delimiter)
    where, first = next(rows, (path, None))
    if first is None:
        raise InputError(f"{path}: is empty")
    if header:
        titles = [title.strip() for title in first]
    else:
        titles = [str(column) for column in range(1, len(first) + 1)]
        rows = itertools.chain([(where, first)], rows)
    if len(titles) < 2:
        other = next((name for name, character in (("';'", ";"), ("tab", "\t"), ("'|'", "|"))
                      if character in first[0]), None)
        raise InputError(f"{where}: one column only; " + (
            f"--delimiter {other} finds more" if other else "another --delimiter?"))
    name_at = _column(titles, columns.name, where) if columns.name else 0
    if header and titles[name_at].lower().endswith(IMAGE_ENDINGS):
        raise InputError(f"{where}: {titles[name_at]:.200} looks like an image, where the columns' "
                         "names are expected: --no-header, when it is one")
    if columns.labels or (len(titles) == 2 and not columns.classes):
        if columns.labels:
            labels_at = _column(titles, columns.labels, where)
        else:
            labels_at = 1 - name_at
            rows = _refuse_class_column(rows, labels_at, path, titles[labels_at])
        return Source(None, _labels_column_samples(rows, name_at, labels_at, columns.separator,
                                                   bad_input))
    others = [column for column in range(len(titles)) if column != name_at]
    chosen = [_column(titles, column, where) for column in columns.classes or ()]
    classes = {column: titles[column] for column in chosen or others}
    for title, count in Counter(classes.values()).items():
        if count > 1:
            raise InputError(f"{where}: two columns are called {title}")
    return Source(list(classes.values()), _class_column_samples(rows, name_at, classes, bad_input))


def _refuse_class_column(rows, labels_at, path, title):
    """Return the same rows, or raise an InputError when all cells look like labels of one class."""
    seen = []  # of other tables, the rows up to the first that carries a class
    for where, row in rows:
        seen.append((where, row))
        if _label_value(row[labels_at]) is None:
            return itertools.chain(seen, rows)
    if any(row[labels_at].strip() for _, row in seen):
        title = shlex.quote(title)  # to be pasted
        raise InputError(f"{path}: column {title} holds nothing but 1, 0 and unknown: give "
                         f"--class-columns {title} when that is a class, --labels-column {title} "
                         "when these are the names of classes")
    return iter(seen)


def _label_value(text):
    """The label (1, 0 or -1) that a cell of a class's column stands for, None for other text."""
    text = text.strip().lower()
    try:
        value = WORDS[text] if text in WORDS else float(text)
    except ValueError:
        return None
    return int(value) if value in (1, 0, -1) else None


def _labels_column_samples(rows, name_at, labels_at, separator, bad_input):
    for where, row in rows:
        present = {part.strip() for part in row[labels_at].split(separator)} - {""}
        if present == {"-1"}:
            yield Sample(row[name_at].strip(), NOTHING, None, where)
        elif "-1" in present:
            bad_input.reject(where, "-1 (all classes unknown) stands among other labels")
        else:
            yield Sample(row[name_at].strip(), present, NOTHING, where)


def _class_column_samples(rows, name_at, classes, bad_input):
    seen = set()
    for where, row in rows:
        labels = {column: _label_value(row[column]) for column in classes}
        odd = next((column for column, label in labels.items() if label is None), None)
        name = row[name_at].strip()
        path = os.path.normpath(name)
        if odd is not None:
            bad_input.reject(where, f"column {classes[odd]} holds {row[odd]!r:.60}, not 1, 0 or "
                             "-1; a column of class names wants --labels-column")
        elif path in seen:
            # Zeros say something here, so that two rows may well contradict each other.
            bad_input.reject(where, f"{name} is on an earlier line already")
        else:
            seen.add(path)
            present, unknown = ({classes[column] for column, label in labels.items()
                                 if label == value} for value in (1, -1))
            yield Sample(name, present, unknown, where)


def _csv_rows(path, bad_input, delimiter):
    """Yield (file and line, fields) of the rows that are as long as the first.

    What is not UTF-8 stays as it is: file names need not be.
    """
    # The space of `a.jpg, "cat;dog"` would make the quotes part of the field.
    reader = csv.reader(map(os.fsdecode, read_lines(path)), delimiter=delimiter, strict=True,
                        skipinitialspace=delimiter != " ")
    width = None
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad_input.reject(f"{path}:{reader.line_num}", f"broken CSV: {error}")
            continue
        width = width or len(row)
        if len(row) == width > 0:
            yield f"{path}:{reader.line_num}", row
        elif row:
            bad_input.reject(f"{path}:{reader.line_num}",
                             f"{len(row)} columns, but the first row has {width}")


def _column(titles, wanted, where):
    if wanted in titles:
        return titles.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(titles):
        return int(wanted) - 1
    raise InputError(f"{where}: no column {wanted}; there are {len(titles)}: "
                     f"{', '.join(titles)[:200]}")


def read_lines(path):
    """The lines of a text file, as bytes."""
    require_regular_file(path)
    try:
        with open(path, "rb") as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, 1):
                if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
                if number == 1 and line[:3] == BYTE_ORDER_MARK:
                    line = line[3:]
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}:{number}: a line longer than "
                                     f"{MAX_LINE_BYTES >> 20} MB")
                yield line
    except OSError as error:
        raise read_error(path, error) from None


def read_error(path, error):
    """The InputError for a file or folder that cannot be read."""
    return InputError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}")
