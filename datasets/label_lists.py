"""Labels as lists: what a cell of a table, or a list in JSON, says about an image.

    parse_cell("cat;dog", ";")              # ["cat", "dog"]
    parse_cell("['cat', 'dog']", ";")       # the same, as pandas writes lists of Python
    parse_cell("[0 1 1]", ";")              # [0, 1, 1]: multi-hot, or numbers of classes
    parse_cell("nan", ";")                  # None: unknown

One list alone does not say whether numbers are multi-hot; `samples_of_lists` looks at all of them.
"""
import ast
import contextlib
import json
import re
from collections import Counter
from typing import NamedTuple, Optional

from common.cli import InputError
from datasets.label_table import NOTHING, Place, Sample, Source
from reading.classes import read_class_names

# How pandas, numpy, Python, R and JSON write that there is no value.
UNKNOWN_WORDS = frozenset(
    ["nan", "NaN", "NAN", "None", "NA", "N/A", "n/a", "<NA>", "#N/A", "null", "NULL"])
SURE, UNSURE = 0.5, 0.25  # confidence from which on a label is present, and if there is none
UNKNOWN = "-1"  # alone in a cell of class names: all classes are unknown
DEFAULT_SEPARATOR = ";"
OTHER_SEPARATORS = "|,/&+ "
# What starts a list; a name such as "(other)" does not.
LIST_START = re.compile(r"[\[{]|(\w+\.)?array\(|\(\s*['\"]|\(\s*-?\d[\d.\s]*,")
BRACKETS = ("[]", "{}", "()")
# An item of a list of Python or numpy, which puts no commas between items.
ITEM = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d*)?|[A-Za-z]+|<NA>)"""
                  r"(\s*,|\s+|$)", re.DOTALL)
SCALAR = re.compile(r"np\.\w+\(([^()]*)\)")  # numpy 2's scalars in a list: [np.str_('cat')]
BOOLEANS = {"True": 1, "False": 0}
MULTI_HOT = {"0": 0, "1": 1, "-1": -1, 0: 0, 1: 1, -1: -1, None: -1}


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
    odd = next((name for name in names if name in UNKNOWN_WORDS), None)
    if odd and len(names) > 1:
        raise ValueError(f"{odd} (unknown) stands among other labels")
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
        if text[0] + text[-1] in BRACKETS:
            return list(_items(SCALAR.sub(r"\1", text[1:-1]).strip()))
    raise ValueError(f"{text!r:.60} looks like a list, but is none of Python's or JSON's: names "
                     'want quotes, as in ["cat", "dog"]')


def _items(text):
    """Yield the values of a list of Python or numpy; raises a ValueError or SyntaxError."""
    position = 0
    while position < len(text):
        item = ITEM.match(text, position)
        if not item:
            raise ValueError
        position, word = item.end(), item.group(1)
        if word[0] in "'\"":
            yield ast.literal_eval(word)
        elif word in UNKNOWN_WORDS:
            yield None
        else:
            yield BOOLEANS[word] if word in BOOLEANS else float(word)


def default_separator(cells, path):
    """The default separator; an InputError where another one splits cells into names that recur.

    Of a space more is wanted than of the others: it stands in many names.
    """
    cells = {cell.strip() for cell in cells if not LIST_START.match(cell.strip())} - UNKNOWN_WORDS
    others = "" if any(DEFAULT_SEPARATOR in cell for cell in cells) else OTHER_SEPARATORS
    for separator in others:
        split = {cell: [part.strip() for part in cell.split(separator) if part.strip()]
                 for cell in cells}
        counts = Counter(part for parts in split.values() for part in set(parts))
        combined = {cell: parts for cell, parts in split.items() if len(parts) > 1}
        parts = [part for parts in combined.values() for part in parts]
        recurring = sum(counts[part] > 1 for part in parts) / max(1, len(parts))
        if separator == " ":
            vary = len(set(map(len, combined.values()))) > 1 or any(
                len(parts) == 1 and counts[parts[0]] > 1 for parts in split.values())
            is_better = recurring >= 0.75 and vary
        else:
            is_better = combined and (recurring >= 0.5 or separator == "|")
        if is_better:
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
    return Source(names, _samples_of_multi_hot(rows, names, flags.absent == "-1", bad_input))


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


def _samples_of_multi_hot(rows, names, signed, bad_input):
    label_of = {1: 1, "1": 1, -1: 0, "-1": 0, None: -1} if signed else MULTI_HOT
    for where, name, values, rest_unknown, unknown, group, _ in rows:
        labels = [label_of.get(value) for value in values]
        if None in labels or len(labels) != len(names) and not (rest_unknown and not values):
            bad_input.reject(where, f"{values!r:.60} is not multi-hot, {len(names)} labels of 1, 0 "
                             "or -1, as others are; numbers of classes want --list-format indices")
            continue
        present, uncertain = ({class_name for class_name, label in zip(names, labels)
                               if label == value} for value in (1, -1))
        yield Sample(name, present, None if rest_unknown else unknown | uncertain, where,
                     group=group)
