"""Labels in text files: tables (CSV), and lists of labels in their cells or in JSON.

A cell may hold `cat;dog`, or a list as Python, numpy or JSON writes it. One list alone does not say
whether numbers are multi-hot or those of classes; `samples_of_lists` looks at all of them.
"""
import ast
import codecs
import contextlib
import csv
import itertools
import json
import os
import re
from collections import Counter, namedtuple
from typing import NamedTuple, Optional

from common.cli import InputError
from common.files import open_regular_file
from datasets.label_table import NOTHING, Place, Sample, Source
from reading.classes import read_class_names
from reading.image_file import IMAGE_ENDINGS

MAX_LINE_BYTES = 4 << 20
# How pandas, numpy, Python, R and JSON write that there is no value.
UNKNOWN_WORDS = frozenset(
    ["nan", "NaN", "NAN", "None", "NA", "N/A", "n/a", "<NA>", "#N/A", "null", "NULL"])
SURE, UNSURE = 0.5, 0.25  # confidence from which on a label is present, and if there is none
UNKNOWN = "-1"  # alone in a cell of class names: all classes are unknown
DEFAULT_SEPARATOR = ";"
OTHER_SEPARATORS = "|,/&+ "
# What starts a list; a name such as "(other)" does not.
LIST_START = re.compile(r"[\[{]|(\w+\.)?array\(|\(\s*['\"]|\(\s*-?\d[\d.\s]*,")
# An item of a list of Python or numpy, which puts no commas between items; or a stray character.
ITEM = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d*)?|[A-Za-z]+|<NA>|.)"""
                  r"(?:\s*,)?\s*", re.DOTALL)
SCALAR = re.compile(r"np\.\w+\(([^()]*)\)")  # numpy 2's scalars in a list: [np.str_('cat')]
BOOLEANS = {"True": 1, "False": 0}
MULTI_HOT = {"0": 0, "1": 1, "-1": -1, 0: 0, 1: 1, -1: -1, None: -1}
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
    delimiter = flags.delimiter or ("tab" if path.lower().endswith(".tsv") else ",")
    rows = _csv_rows(path, bad_input, delimiter.replace("tab", "\t"))
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
        return Source(classes, samples_of_multi_hot(rows, classes, False, bad_input))
    rows = list(_rows(rows, at))
    cells = {cell for row in rows for cell in row.values}
    if not flags.labels_column and any(map(str.strip, cells)) and None not in map(
            _label_value, cells):
        raise InputError(f"column {titles[at.labels[0]]} holds nothing but 1, 0 and unknown: name "
                         "it by {flag} when that is a class, by --labels-column when these are the "
                         "names of classes", file=path, flag="--class-columns")
    separator = flags.separator or default_separator(cells, path)
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
        raise InputError("one column only; another {flag} (; or tab)?", file=where.file,
                         line=where.line, flag="--delimiter")
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
    with contextlib.suppress(ValueError):
        return ({1: 1, -1: 0} if signed else {1: 1, 0: 0, -1: -1}).get(float(text))
    return None


def _list_rows(rows, separator, bad_input):
    """The ListRows of a table whose columns have class names, from those of `_rows`."""
    for row in rows:
        with bad_input.rejecting(row.where):
            lists = [parse_cell(cell, separator) for cell in row.values]
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
        return UNSURE
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise ValueError(f"the confidence {text!r:.60} is not between 0 and 1")


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
                                 + "; give the right ones by --class-columns or --labels-column")
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
    reader = csv.reader(map(os.fsdecode, read_lines(path)), delimiter=delimiter,
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


class ListRow(NamedTuple):
    """An image and its list of class names, or of numbers and None.

    Classes that are not in it are absent, or unknown: those in `unknown`, or all, `rest_unknown`.
    `confidence`, 0 to 1, says how sure those are that are in it; the others are unknown then.
    """

    where: Place
    name: str
    values: list
    rest_unknown: bool = False
    unknown: frozenset = NOTHING
    group: Optional[str] = None
    confidence: Optional[float] = None


def parse_cell(text, separator):
    """The list that a cell holds, None for unknown; raises a ValueError with the reason."""
    text = text.strip()
    if text in UNKNOWN_WORDS or text == UNKNOWN:
        return None
    if LIST_START.match(text):
        return clean_list(_parse_list(text))
    names = [part.strip() for part in text.split(separator) if part.strip()]
    if UNKNOWN_WORDS.intersection(names):
        raise ValueError("a word for unknown stands among other labels")
    return names


def clean_list(values):
    """A list of str, or of int and None, made of values of JSON or Python; or a ValueError.

    None in place of a list: it holds nothing but unknown values.
    """
    if not all(value is None or isinstance(value, (str, int, float)) for value in values):
        raise ValueError("the list holds more than names and numbers")
    is_missing = [value is None or value != value for value in values]
    if values and all(is_missing):
        return None
    if any(isinstance(value, str) for value in values):
        if any(is_missing):
            raise ValueError("an unknown value stands among class names")
        return [str(value).strip() for value in values]
    odd = [value for value in values if isinstance(value, float) and not (
        value != value or value.is_integer())]
    if odd:
        raise ValueError(f"{odd[0]} is neither the number of a class nor 1, 0 or -1")
    return [None if missing else int(value) for value, missing in zip(values, is_missing)]


def _parse_list(text):
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(text)
        if isinstance(values, list):
            return values
    with contextlib.suppress(ValueError, SyntaxError):
        if text[0] + text[-1] in ("[]", "{}", "()"):
            items = ITEM.finditer(SCALAR.sub(r"\1", text[1:-1]).strip())
            return [_item(match.group(1)) for match in items]
    raise ValueError(f"{text!r:.60} looks like a list, but is none of Python's or JSON's: names "
                     'want quotes, as in ["cat", "dog"]')


def _item(word):
    """The value of an item of a list; raises a ValueError or SyntaxError."""
    if word[0] in "'\"":
        return ast.literal_eval(word)
    if word in UNKNOWN_WORDS:
        return None
    return BOOLEANS[word] if word in BOOLEANS else float(word)


def default_separator(cells, path):
    """The default separator; an InputError where another one splits cells into names that recur."""
    cells = {cell.strip() for cell in cells if not LIST_START.match(cell.strip())} - UNKNOWN_WORDS
    others = "" if any(DEFAULT_SEPARATOR in cell for cell in cells) else OTHER_SEPARATORS
    for separator in others:
        split = {cell: [part.strip() for part in cell.split(separator) if part.strip()]
                 for cell in cells}
        counts = Counter(part for parts in split.values() for part in set(parts))
        combined = {cell: parts for cell, parts in split.items() if len(parts) > 1}
        recurs = [counts[part] > 1 for parts in combined.values() for part in parts]
        # A bar stands in no name, and a space in many.
        wanted = {"|": 0, " ": 0.75}.get(separator, 0.5)
        if recurs and sum(recurs) >= wanted * len(recurs):
            raise InputError(
                f"{min(combined)!r:.60} and others are split by {separator!r} into names that "
                f"recur: give {{flag}} {separator!r}, or {{flag}} {DEFAULT_SEPARATOR!r} when each "
                "is the name of one class", file=path, flag="--separator")
    return DEFAULT_SEPARATOR


def samples_of_lists(rows, flags, bad_input):
    """The Source of some ListRows; those that do not fit go to `bad_input`.

    `flags` are those of `make_lst.py csv` and `jsonl`. Raises an InputError where lists of numbers
    may be multi-hot or numbers of classes.
    """
    rows = list(rows)
    numbers = flags.list_format or _find_numbers(rows, flags.file)
    if numbers != "multi-hot":
        return Source(None, _samples_of_names(rows, bad_input))
    widths = Counter(len(row.values) for row in rows if row.values)
    width = widths.most_common(1)[0][0] if widths else 0
    names = read_class_names(flags.classes) if flags.classes else list(map(str, range(width)))
    if len(names) != width:
        raise InputError(f"multi-hot lists of {width} labels, but {{flag}} has {len(names)} names",
                         file=flags.file, flag="--classes")
    return Source(names, samples_of_multi_hot(rows, names, flags.absent == "-1", bad_input))


def _find_numbers(rows, path):
    """"multi-hot" or "indices": what the lists of numbers hold."""
    lists = [row.values for row in rows if row.values or not row.rest_unknown]
    if any(MULTI_HOT.keys() >= set(values) and len(set(values)) < len(values) for values in lists):
        return "multi-hot"  # numbers of classes would not repeat
    lists = [values for values in lists if not any(isinstance(value, str) for value in values)]
    if any(lists) and len(set(map(len, lists))) == 1 and (
            all(MULTI_HOT.keys() >= set(values) for values in lists)):
        raise InputError(f"{lists[0]} may be labels (1 or 0) of all classes, or the numbers of the "
                         "classes present: give {flag} multi-hot or {flag} indices",
                         file=path, flag="--list-format")
    return "indices"


def _samples_of_names(rows, bad_input):
    for where, name, values, rest_unknown, unknown, group, confidence in rows:
        if values == [-1]:
            values, rest_unknown = [], True
        present, absent = set(map(str, values)), NOTHING
        if any(value in (None, -1, UNKNOWN) for value in values):
            bad_input.reject(where, "-1 (all classes unknown) stands among other labels")
            continue
        if confidence is not None:
            rest_unknown, absent = True, present if confidence == 0 else NOTHING
            present = present if confidence >= SURE else NOTHING
        yield Sample(name, present, None if rest_unknown else unknown, where, absent, group)


def samples_of_multi_hot(rows, names, signed, bad_input):
    """Yield the Samples of ListRows whose values are 1, 0 or -1, those of the named classes.

    -1 is unknown, or absent if `signed`, where None is unknown.
    """
    label_of = {1: 1, "1": 1, -1: 0, "-1": 0, None: -1} if signed else MULTI_HOT
    for row in rows:
        labels = [label_of.get(value) for value in row.values]
        if None in labels or len(labels) != len(names) and (labels or not row.rest_unknown):
            bad_input.reject(row.where, f"{row.values!r:.60} is not multi-hot, {len(names)} labels "
                             "of 1, 0 or -1, as others are; numbers of classes want "
                             "--list-format indices")
            continue
        present, unknown = ({class_name for class_name, label in zip(names, labels)
                             if label == value} for value in (1, -1))
        yield Sample(row.name, present, None if row.rest_unknown else row.unknown | unknown,
                     row.where, group=row.group)


def read_lines(path):
    """The lines of a text file, as bytes without the byte order mark."""
    with read_errors(path), open_regular_file(path) as file:
        lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
        for number, line in enumerate(lines, 1):
            if number == 1:
                refuse_utf16(line, path)
                line = line[len(codecs.BOM_UTF8) * line.startswith(codecs.BOM_UTF8):]
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"a line longer than {MAX_LINE_BYTES >> 20} MB", file=path,
                                 line=number)
            yield line


def refuse_utf16(start, path):
    """Raise an InputError where a file that begins with these bytes is UTF-16 text."""
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in start[:4]:
        raise InputError("is UTF-16 text; save it as UTF-8", file=path)


@contextlib.contextmanager
def read_errors(path):
    """An OSError in the block becomes an InputError that names a file or folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be read: {(error.strerror or str(error)).lower()}",
                         file=path) from error
