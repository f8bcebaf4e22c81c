"""Augmented manifests of Amazon SageMaker and Ground Truth: a line of JSON per image.

    {"source-ref": "s3://bucket/a/1.jpg", "class": "[1, 0, 1]"}
    {"source-ref": "s3://bucket/a/1.jpg", "job": [0, 2],
     "job-metadata": {"class-map": {"0": "cat", "2": "dog"}, ...}}
"""
import os
import re

from common.cli import InputError
from datasets.label_lists import (
    DEFAULT_SEPARATOR,
    ListRow,
    clean_list,
    parse_cell,
    samples_of_lists,
)
from datasets.text_sources import read_json_lines

IMAGE, METADATA = "source-ref", "-metadata"


def read_manifest(flags, bad_input):
    """Read the classes of each image from one label attribute; `flags` are of make_lst.py manifest.

    They are those of Ground Truth's image classification, single- or multi-label, those of its
    boxes, or a multi-hot list. An image's name is its address without the folders that all of them
    share, or with those of them that it has under --path-root. Returns a Source.
    """
    attribute, refs = flags.attribute, {}

    def parse(where, item):
        nonlocal attribute
        if not isinstance(item, dict) or not isinstance(item.get(IMAGE), str):
            raise ValueError(f'wants {{"{IMAGE}": "s3://...", ...}}')
        attribute = attribute or _only_attribute(item, where)
        if item.get(attribute) is None:
            raise ValueError(f"has no {attribute}")
        metadata = item.get(attribute + METADATA)
        values = _classes(item[attribute], metadata if isinstance(metadata, dict) else {})
        name = re.sub(r"^\w+://[^/]*/+", "", item[IMAGE])
        if refs.setdefault(name, item[IMAGE]) != item[IMAGE]:
            raise ValueError(f"{item[IMAGE]} would be called like {refs[name]}")
        return ListRow(where, name, values or [], values is None)

    rows = list(read_json_lines(flags.file, bad_input, parse))
    folders = _folders_to_drop([row.name for row in rows], flags.path_root)
    rows = [row._replace(name="/".join(row.name.split("/")[folders:])) for row in rows]
    return samples_of_lists(rows, flags, bad_input)


def _only_attribute(item, where):
    """The key of the labels, if there is but one that it may be."""
    keys = [key for key in item if key != IMAGE and not key.endswith(METADATA)]
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
    if path_root:
        for count in range(most, -1, -1):
            if os.path.isfile(os.path.join(path_root, *names[0].split("/")[count:])):
                return count
    return most
