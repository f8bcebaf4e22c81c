"""Reader of labels in tables (CSV)."""
import csv
import itertools
import os
import re
import shlex
from collections import Counter, namedtuple

from common.cli import InputError
from datasets import text_sources
from datasets.label_table import Place, Source
from datasets.text_sources import UNKNOWN_WORDS, ListRow, samples_of_lists
from reading.image_file import IMAGE_ENDINGS

# What a class's column may hold beside numbers: pandas writes True, False and NaN.
WORDS = {"": -1, "true": 1, "false": 0, **{word.lower(): -1 for word in UNKNOWN_WORDS}}
# What pandas calls a column of row numbers.
NO_TITLE = re.compile(r"|Unnamed: \d+(\.\d+)?")

# Places of a table's columns, None for one that there is not. `labels` are several: of class names
# where `is_names`, and otherwise each is one class.
Columns = namedtuple("Columns", "name group confidence labels is_names")


def read_csv(flags, bad_input):
    """Read a table with a column of file names and the labels in one of two forms.

    Either columns hold an image's classes: names with a separator between them, a list as Python
    or JSON writes it, nothing (no class), or only -1, NaN, None or NA (all classes unknown). Or
    each class has a column of 1 or True (present), 0 or False (absent) and -1, NaN, None, NA or
    nothing (unknown). `flags` are those of `make_lst.py csv`.

    Returns a Source. Raises an InputError when the columns are not there, or it is not certain
    which form they have.
    """
    path = flags.file
    if flags.separator == "":
        raise InputError("is empty", flag="--separator")
    delimiter = flags.delimiter or ("\t" if path.lower().endswith(".tsv") else ",")
    rows = _csv_rows(path, bad_input, delimiter)
    start = list(itertools.islice(rows, 2))
    if not start:
        raise InputError("is empty", file=path)
    where = start[0][0]
    titles, num_skipped = [str(column) for column in range(1, len(start[0][1]) + 1)], 0
    if not flags.no_header:
        titles = [title.strip() for title in start.pop(0)[1]]
        if start:
            num_skipped = _count_row_number_columns(titles, start[0][1], flags.name_column)
    rows = itertools.chain(start, rows)
    at = _find_columns(titles, num_skipped, flags, where)
    if not flags.no_header and titles[at.name].lower().endswith(IMAGE_ENDINGS):
        raise InputError(f"{titles[at.name]:.200} looks like an image, where the columns' names "
                         "are expected: {flag}, when it is one", file=path, line=where.line,
                         flag="--no-header")
    if not at.is_names:
        classes = [titles[column] for column in at.labels]
        for title, count in Counter(classes).items():
            if count > 1:
                raise InputError(f"two columns are called {title}", file=path, line=where.line)
        rows = _class_column_rows(_rows(rows, at), classes, flags.absent == "-1", bad_input)
        return Source(classes, text_sources.samples_of_multi_hot(rows, classes, False, bad_input))
    rows = list(_rows(rows, at))
    cells = {cell for row in rows for cell in row.values}
    if not flags.labels_column and any(map(str.strip, cells)) and None not in map(
            _label_value, cells):
        title = shlex.quote(titles[at.labels[0]])  # to be pasted
        raise InputError(f"column {title} holds nothing but 1, 0 and unknown: give "
                         f"{{flag}} {title} when that is a class, --labels-column {title} "
                         "when these are the names of classes", file=path, flag="--class-columns")
    separator = flags.separator or text_sources.default_separator(cells, path)
    return samples_of_lists(_list_rows(rows, separator, bad_input), flags, bad_input)


def _find_columns(titles, num_skipped, flags, where):
    """The Columns that the flags mean, the first `num_skipped` columns left out."""
    def find(wanted, flag):
        if wanted in titles:
            return titles.index(wanted)
        if wanted.isdecimal() and 1 <= int(wanted) <= len(titles):
            return int(wanted) - 1
        raise InputError(f"no column {wanted} ({{flag}}); there are {len(titles)}: "
                         f"{', '.join(titles)[:200]}", file=where.file, line=where.line, flag=flag)

    if len(titles) < 2:
        other = next((name for name, character in (("';'", ";"), ("tab", "\t"), ("'|'", "|"))
                      if character in titles[0]), None)
        raise InputError("one column only; " + (
            f"{{flag}} {other} finds more" if other else "another {flag}?"),
            file=where.file, line=where.line, flag="--delimiter")
    name = find(flags.name_column, "--name-column") if flags.name_column else num_skipped
    group, confidence = (find(wanted, flag) if wanted else None for wanted, flag in (
        (flags.group_column, "--group-column"), (flags.confidence_column, "--confidence-column")))
    others = [column for column in range(num_skipped, len(titles))
              if column not in (name, group, confidence)]
    is_names = bool(flags.labels_column or (len(others) == 1 and not flags.class_columns))
    if flags.confidence_column and not is_names:
        raise InputError("{flag} goes with --labels-column", flag="--confidence-column")
    labels = [*(find(title, "--labels-column") for title in flags.labels_column),
              *(find(title, "--class-columns") for title in flags.class_columns)] or others
    return Columns(name, group, confidence, labels, is_names)


def _rows(rows, at):
    """A ListRow of each table row, (Place, fields), whose `values` and `confidence` are texts."""
    for where, row in rows:
        group = None if at.group is None else row[at.group].strip()
        yield ListRow(where, row[at.name].strip(), [row[column] for column in at.labels],
                      group=None if group in UNKNOWN_WORDS else group or None,
                      confidence=None if at.confidence is None else row[at.confidence])


def _count_row_number_columns(titles, row, name):
    """How many columns at the start are row numbers that pandas wrote without a title.

    Unless another column has the names, the one behind them holds no label: of `,cat,dog` the
    untitled column may have the names.
    """
    count = 0
    while count < len(row) - 2 and NO_TITLE.fullmatch(titles[count]) and row[count].isdecimal():
        count += 1
    return count if name or _label_value(row[count]) is None else 0


def _label_value(text, signed=False):
    """The label (1, 0 or -1) that a cell of a class's column stands for, None for other text."""
    text = text.strip().lower()
    if text in WORDS:
        return WORDS[text]
    value = _number(text)
    if signed:
        return {1: 1, -1: 0}.get(value)
    return int(value) if value in (1, 0, -1) else None


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def _list_rows(rows, separator, bad_input):
    """The ListRows of a table whose columns have class names, from those of `_rows`."""
    for row in rows:
        with bad_input.rejecting(row.where):
            lists = [text_sources.parse_cell(cell, separator) for cell in row.values]
            values = [value for values in lists for value in values or ()]
            if len(lists) > 1:
                if not all(isinstance(value, str) for value in values):
                    raise ValueError("lists of numbers stand in one of several --labels-column")
                values = list(dict.fromkeys(values))
            yield row._replace(values=values, rest_unknown=None in lists,
                               confidence=_parse_confidence(row.confidence))


def _parse_confidence(text):
    """A confidence from 0 to 1, UNSURE where there is none; None without such a column."""
    if text is None:
        return None
    if _label_value(text) == -1:
        return text_sources.UNSURE
    value = _number(text)
    if value is None or not 0 <= value <= 1:
        raise ValueError(f"the confidence {text!r:.60} is not between 0 and 1")
    return value


def _class_column_rows(rows, classes, signed, bad_input):
    """The ListRows of a table with a column per class, from those of `_rows`: 1, 0 or -1."""
    seen = set()
    for row in rows:
        with bad_input.rejecting(row.where):
            labels = [_label_value(cell, signed) for cell in row.values]
            if None in labels:
                odd = labels.index(None)
                raise ValueError(f"column {classes[odd]} holds {row.values[odd]!r:.60}, not "
                                 + ("1 or -1" if signed else "1, 0 or -1")
                                 + "; a column of class names wants --labels-column")
            path = os.path.normpath(row.name)
            if path in seen:
                # Zeros say something here, so that two rows may well contradict each other.
                raise ValueError(f"{row.name} is on an earlier line already")
            seen.add(path)
            yield row._replace(values=labels)


def _csv_rows(path, bad_input, delimiter):
    """Yield (Place, fields) of the rows that are as long as the first.

    What is not UTF-8 stays as it is: file names need not be.
    """
    # The space of `a.jpg, "cat;dog"` would make the quotes part of the field.
    reader = csv.reader(map(os.fsdecode, text_sources.read_lines(path)), delimiter=delimiter,
                        strict=True, skipinitialspace=delimiter != " ")
    width = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            bad_input.reject(Place(path, reader.line_num), f"broken CSV: {error}")
            continue
        if row is None:
            return
        where, width = Place(path, reader.line_num), width or len(row)
        if len(row) == width > 0:
            yield where, row
        elif row:
            bad_input.reject(where, f"{len(row)} columns, but the first row has {width}")
