"""Labels in JSON: COCO files, JSON lines, and SageMaker's and Ground Truth's augmented manifests.

COCO's may be instances, panoptic, or LVIS, whose labels are partly unknown. A line is like the
first of these, or one of a manifest:

    {"image": "a.jpg", "labels": ["cat"], "unknown": ["dog"]}
    {"source-ref": "s3://bucket/a/1.jpg", "class": "[1, 0, 1]"}
    {"source-ref": "s3://bucket/a/1.jpg", "job": [0, 2],
     "job-metadata": {"class-map": {"0": "cat", "2": "dog"}, ...}}
"""
import os
import re
from collections import defaultdict

from common.cli import InputError
from common.files import open_regular_file
from common.json_text import MAX_DIGITS, parse_json
from common.machine import available_memory
from datasets import text_sources
from datasets.label_table import NOTHING, Place, Sample, Source
from datasets.text_sources import ListRow, clean_list, samples_of_lists

NAME_KEYS = ("image", "file_name")
WANTED = 'wants {"image": "NAME", "labels": ["CLASS", ...]}'
SOURCE, METADATA = "source-ref", "-metadata"  # keys of manifests: an image's address, and an ending
# An id that is the same as a number; 007 is another one.
NUMBER = re.compile(rf"0|[1-9]\d{{0,{MAX_DIGITS - 1}}}", re.ASCII)
# What is kept of each object. Coordinates and masks are most of a file, and not needed.
KEPT = frozenset(["images", "annotations", "categories", "id", "image_id", "category_id", "name",
                  "file_name", "coco_url", "segments_info", "neg_category_ids"])
# Memory that reading takes: per byte of the file, as bytes and as text, and at most per list or
# object in it.
COPIES, OBJECT_BYTES = 2, 64


def read_coco(path, bad_input):
    """Read which classes each image of a COCO file shows.

    A class is present when the image has a box, mask or segment of it, a crowd included: a crowd of
    people shows people. Images without annotations carry no class. In LVIS only those classes are
    absent that an image lists as such, and others unknown. Where annotations of an image are left
    out, the classes that the others do not show are unknown.

    Returns a Source. Raises an InputError when it is not such a file; with the line where it is not
    JSON.
    """
    content = _read_json(path)
    categories = _by_id(path, content, "categories", "name", bad_input)
    images = _by_id(path, content, "images", "file_name", bad_input)
    classes = {number: item["name"].strip() for number, item in categories.items()}
    if not _listed(content, "annotations"):
        raise InputError("holds no annotations: not a COCO instances file", file=path)
    absent = {image: {classes[n] for n in map(_id, _listed(item, "neg_category_ids"))
                      if n in classes}
              for image, item in images.items() if "neg_category_ids" in item}
    present, partly_read = defaultdict(set), set(absent)
    for where, item in _objects(path, content, "annotations", bad_input):
        image = _id(item.get("image_id"))
        if image not in images:
            bad_input.reject(Place(path), f"{where}: its image_id {_shown(item.get('image_id'))} "
                             "is of none of the images")
            continue
        segments = _listed(item, "segments_info") if "segments_info" in item else [item]
        for segment in segments:
            category = segment.get("category_id") if isinstance(segment, dict) else None
            if _id(category) in classes:
                present[image].add(classes[_id(category)])
            else:
                partly_read.add(image)
                bad_input.reject(Place(path), f"{where}: its category_id {_shown(category)} is of "
                                 "none of the categories")
    samples = (Sample(item["file_name"], present.get(image, NOTHING),
                      None if image in partly_read else NOTHING, f"{path}: image {image}",
                      absent.get(image, NOTHING))
               for image, item in images.items())
    order = sorted(classes, key=lambda number: (isinstance(number, str), number))
    return Source(list(dict.fromkeys(classes[number] for number in order)), samples)


def _by_id(path, content, key, name_key, bad_input):
    """The objects of the list of categories or images, each with a name, by their ids."""
    found, ambiguous = {}, set()
    for where, item in _objects(path, content, key, bad_input):
        number, address = _id(item.get("id")), item.get("coco_url")
        if key == "images" and not item.get(name_key) and isinstance(address, str):
            item[name_key] = "/".join(address.split("/")[-2:])  # as LVIS does
        name = item.get(name_key)
        if number is None or not isinstance(name, str):
            bad_input.reject(Place(path), f"{where}: wants an id and a {name_key}")
            continue
        earlier = found.setdefault(number, item)[name_key]
        if earlier.strip() != name.strip():
            ambiguous.add(number)  # which of them annotations mean cannot be known
            bad_input.reject(Place(path), f"{where}: {name!r:.60} has the id {number!r:.60} of "
                             f"{earlier!r:.60}")
    if not found:
        raise InputError(f"holds no {key}: not a COCO instances file", file=path)
    return {number: item for number, item in found.items() if number not in ambiguous}


def _id(value):
    """An id as a number or text; 7, 7.0 and "7" are the same. None: it can be none."""
    if isinstance(value, str):
        return int(value) if NUMBER.fullmatch(value) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value):
    return f"{value!r:.60}" if isinstance(value, (int, float, str)) else f"({type(value).__name__})"


def _listed(item, key):
    value = item.get(key)
    return value if isinstance(value, list) else []


def _objects(path, content, key, bad_input):
    """Yield (where, object) of one of the file's lists."""
    for position, item in enumerate(_listed(content, key)):
        where = f"{key}[{position}]"
        if isinstance(item, dict):
            yield where, item
        else:
            bad_input.reject(Place(path), f"{where} is not an object in braces")


def _read_json(path):
    """The object of a JSON file, with no more than what is KEPT of each object in it."""
    with text_sources.read_errors(path), open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_memory(path, COPIES * size)
        data = file.read()
    text_sources.refuse_utf16(data, path)
    # A stranger's file may hold little else than brackets.
    _check_memory(path, size + OBJECT_BYTES * (data.count(b"[") + data.count(b"{")))
    try:
        content = parse_json(data, object_hook=lambda item: {
            key: item[key] for key in KEPT.intersection(item)})
    except InputError as error:
        raise error.at(file=path) from None
    if not isinstance(content, dict):
        raise InputError("holds no object in braces: not a COCO file", file=path)
    return content


def _check_memory(path, needed):
    if needed > available_memory():
        raise InputError(f"reading it may take {needed / 1e9:.1f} GB of memory, more than are free",
                         file=path)


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
    values = None if labels is None else clean_list(labels)
    return ListRow(where, names[0], values or [], values is None,
                   frozenset(map(str, clean_list(unknown) or ())),
                   None if group is None else str(group))


def read_manifest(flags, bad_input):
    """Read the classes of each image from one label attribute; `flags` are of make_lst.py manifest.

    They are those of Ground Truth's image classification, single- or multi-label, those of its
    boxes, or a multi-hot list. An image's name is its address without the folders that all of them
    share. Returns a Source.
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
    shared = len(os.path.commonprefix([row.name.split("/")[:-1] for row in rows]))
    rows = [row._replace(name="/".join(row.name.split("/")[shared:])) for row in rows]
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
        values = text_sources.parse_cell(value, text_sources.DEFAULT_SEPARATOR)
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


def _json_lines(path, bad_input):
    """Yield (Place, value) of each line that is JSON."""
    for number, line in enumerate(text_sources.read_lines(path), 1):
        if line.strip():
            where = Place(path, number)
            with bad_input.rejecting(where):
                # Python writes NaN, and keys that do not matter here may hold any number.
                yield where, parse_json(line, parse_int=int, parse_constant=float)
