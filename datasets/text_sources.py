"""Labels as lists: in JSON lines, and what such a list or a cell of a table says about an image.

A line is like the first of these, or one of an augmented manifest of SageMaker or Ground Truth:

    {"image": "a.jpg", "labels": ["cat"], "unknown": ["dog"]}
    {"source-ref": "s3://bucket/a/1.jpg", "class": "[1, 0, 1]"}
    {"source-ref": "s3://bucket/a/1.jpg", "job": [0, 2],
     "job-metadata": {"class-map": {"0": "cat", "2": "dog"}, ...}}

A cell may hold `cat;dog`, or a list as Python, numpy or JSON writes it. One list alone does not say
whether numbers are multi-hot or those of classes; `samples_of_lists` looks at all of them.
"""
import ast
import codecs
import contextlib
import json
import os
import re
from collections import Counter
from typing import NamedTuple, Optional

from common.cli import InputError
from common.files import open_regular_file
from common.json_text import parse_json
from datasets.label_table import NOTHING, Place, Sample, Source
from reading.classes import read_class_names

MAX_LINE_BYTES = 4 << 20
NAME_KEYS = ("image", "file_name")
WANTED = 'wants {"image": "NAME", "labels": ["CLASS", ...]}'
SOURCE, METADATA = "source-ref", "-metadata"  # keys of manifests: an image's address, and an ending
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
# An item of a list of Python or numpy, which puts no commas between items; or a stray character.
ITEM = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d*)?|[A-Za-z]+|<NA>|.)"""
                  r"(?:\s*,)?\s*", re.DOTALL)
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
        if text[0] + text[-1] in BRACKETS:
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


def read_jsonl(flags, bad_input):
    """Read the labels in JSON lines of our own; `flags` are of make_lst.py jsonl. Returns a Source.

    `file_name` may stand in place of `image`, and `unknown` may be missing. Labels are names or
    numbers of classes, or one 1, 0 or -1 per class; null: all are unknown.
    """
    rows = []
    for where, item in _json_lines(flags.file, bad_input):
        with bad_input.rejecting(where):
            rows.append(_jsonl_row(where, item, flags.group_column))
    return samples_of_lists(rows, flags, bad_input)


def _jsonl_row(where, item, group_key):
    """The ListRow of one line's value; raises a ValueError."""
    names = [item[key] for key in NAME_KEYS if key in item] if isinstance(item, dict) else []
    if len(names) != 1 or not isinstance(names[0], str) or "labels" not in item:
        raise ValueError(WANTED)
    labels, unknown = item["labels"], item.get("unknown", [])
    if not isinstance(labels, (list, type(None))) or not isinstance(unknown, list):
        raise ValueError(WANTED)
    group = item.get(group_key)
    if group_key and not isinstance(group, (str, int, type(None))):
        raise ValueError(f"{group_key} holds neither a text nor a number")
    values = None if labels is None else clean_list(labels)
    return ListRow(where, names[0], values or [], values is None,
                   frozenset(map(str, clean_list(unknown) or ())),
                   None if group is None else str(group))


def read_manifest(flags, bad_input):
    """Read the classes of each image from one label attribute; `flags` are of make_lst.py manifest.

    They are those of Ground Truth's image classification, single- or multi-label, those of its
    boxes, or a multi-hot list. An image's name is its address without the folders that all of them
    share, or with those of them that it has under --path-root. Returns a Source.
    """
    attribute, sources, rows = flags.attribute, {}, []
    for where, item in _json_lines(flags.file, bad_input):
        with bad_input.rejecting(where):
            if not isinstance(item, dict) or not isinstance(item.get(SOURCE), str):
                raise ValueError(f'wants {{"{SOURCE}": "s3://...", ...}}')
            attribute = attribute or _only_attribute(item, where)
            if item.get(attribute) is None:
                raise ValueError(f"has no {attribute}")
            metadata = item.get(attribute + METADATA)
            values = _classes(item[attribute], metadata if isinstance(metadata, dict) else {})
            name = re.sub(r"^\w+://[^/]*/+", "", item[SOURCE])
            if sources.setdefault(name, item[SOURCE]) != item[SOURCE]:
                raise ValueError(f"{item[SOURCE]} would be called like {sources[name]}")
            rows.append(ListRow(where, name, values or [], values is None))
    folders = _folders_to_drop([row.name for row in rows], flags.path_root) if rows else 0
    rows = [row._replace(name="/".join(row.name.split("/")[folders:])) for row in rows]
    return samples_of_lists(rows, flags, bad_input)


def _only_attribute(item, where):
    """The key of the labels, if there is but one that it may be."""
    keys = [key for key in item if key != SOURCE and not key.endswith(METADATA)]
    keys = [key for key in keys if key + METADATA in item] or keys
    if len(keys) != 1:
        raise InputError(f"labels may be in {' or '.join(keys) or 'no key'}: {{flag}} says where",
                         file=where.file, line=where.line, flag="--attribute")
    return keys[0]


def _classes(value, metadata):
    """A list of names, or of numbers, that an attribute's value stands for; None: unknown."""
    if isinstance(value, dict):  # boxes
        boxes = value.get("annotations")
        if not isinstance(boxes, list) or not all(
                isinstance(box, dict) and isinstance(box.get("class_id"), int) for box in boxes):
            raise ValueError("holds neither classes nor boxes with a class_id")
        values = sorted({str(box["class_id"]) for box in boxes})
    elif isinstance(value, str):
        values = parse_cell(value, DEFAULT_SEPARATOR)
    elif isinstance(value, list):
        values = clean_list(value)
    else:
        values = [str(number) for number in clean_list([value]) or ()]
    names = metadata.get("class-map")
    if isinstance(names, dict) and values is not None:
        missing = [number for number in values if not isinstance(names.get(str(number)), str)]
        if missing:
            raise ValueError(f"class {missing[0]} is not in its class-map")
        return [names[str(number)] for number in values]
    if isinstance(metadata.get("class-name"), str):
        return [metadata["class-name"]]
    return values


def _folders_to_drop(names, path_root):
    """How many folders to drop from the front of all names."""
    folders = [os.path.dirname(name) for name in names]
    shared = os.path.commonpath(folders) if all(folders) else ""
    most = len(shared.split("/")) if shared else 0
    counts = range(most, -1, -1) if path_root else ()
    return next((count for count in counts if os.path.isfile(
        os.path.join(path_root, *names[0].split("/")[count:]))), most)


def _json_lines(path, bad_input):
    """Yield (Place, value) of each line that is JSON."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            where = Place(path, number)
            with bad_input.rejecting(where):
                # Python writes NaN, and keys that do not matter here may hold any number.
                yield where, parse_json(line, parse_int=int, parse_constant=float)


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
