"""Text files of lines, and readers of labels in JSON lines.

    flags = build_parser("").parse_args(["jsonl", "labels.jsonl", "--prefix", "out"])
    for sample in read_jsonl(flags, BadInput(skip=False)).samples:
        sample.name, sample.present, sample.unknown

A line is like the first of these, or one of an augmented manifest of SageMaker or Ground Truth:

    {"image": "a.jpg", "labels": ["cat"], "unknown": ["dog"]}
    {"source-ref": "s3://bucket/a/1.jpg", "class": "[1, 0, 1]"}
    {"source-ref": "s3://bucket/a/1.jpg", "job": [0, 2],
     "job-metadata": {"class-map": {"0": "cat", "2": "dog"}, ...}}
"""
import codecs
import os
import re

from common.cli import InputError
from common.files import open_regular_file
from common.json_text import parse_json
from datasets.label_lists import (
    DEFAULT_SEPARATOR,
    ListRow,
    clean_list,
    parse_cell,
    samples_of_lists,
)
from datasets.label_table import Place

MAX_LINE_BYTES = 4 << 20
NAME_KEYS = ("image", "file_name")
WANTED = 'wants {"image": "NAME", "labels": ["CLASS", ...]}'
SOURCE, METADATA = "source-ref", "-metadata"  # keys of manifests: an image's address, and an ending


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
    folders = _folders_to_drop([row.name for row in rows], flags.path_root)
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
    try:
        with open_regular_file(path) as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, 1):
                if number == 1:
                    refuse_utf16(line, path)
                    line = line[len(codecs.BOM_UTF8) * line.startswith(codecs.BOM_UTF8):]
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"a line longer than {MAX_LINE_BYTES >> 20} MB", file=path,
                                     line=number)
                yield line
    except OSError as error:
        raise read_error(path, error) from None


def refuse_utf16(start, path):
    """Raise an InputError where a file that begins with these bytes is UTF-16 text."""
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in start[:4]:
        raise InputError("is UTF-16 text; save it as UTF-8", file=path)


def read_error(path, error):
    """The InputError for a file or folder that cannot be read."""
    return InputError(f"cannot be read: {(error.strerror or str(error)).lower()}", file=path)
