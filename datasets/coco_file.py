"""COCO files: instances, panoptic, and LVIS, whose labels are partly unknown."""
import logging
import os
import re
from collections import defaultdict

from common.cli import InputError
from common.files import open_regular_file
from common.json_text import MAX_DIGITS, parse_json
from common.memory import available_memory
from datasets.label_table import NOTHING, Place, Sample, Source
from datasets.text_sources import read_errors, refuse_utf16

# An id that is the same as a number; 007 is another one.
NUMBER = re.compile(rf"0|[1-9]\d{{0,{MAX_DIGITS - 1}}}", re.ASCII)
# What is kept of each object. Coordinates and masks are most of a file, and not needed.
KEPT = frozenset(["images", "annotations", "categories", "id", "image_id", "category_id", "name",
                  "file_name", "coco_url", "segments_info", "neg_category_ids"])
# Memory that reading takes: per byte of the file, as bytes and as text, and at most per list or
# object in it.
COPIES, OBJECT_BYTES = 2, 64

logger = logging.getLogger(__name__)


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
    repeated = len(classes) - len(set(classes.values()))
    if repeated:
        logger.warning("merged: %d categories of the same name as another one", repeated)
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
            bad_input.reject(Place(path), f"{where}: {_shown(name)} has the id {_shown(number)} "
                             f"of {_shown(earlier)}")
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
    with read_errors(path), open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_memory(path, COPIES * size)
        data = file.read()
    refuse_utf16(data, path)
    # A stranger's file may hold little else than brackets.
    _check_memory(path, size + OBJECT_BYTES * (data.count(b"[") + data.count(b"{")))
    try:
        content = parse_json(data, object_hook=lambda item: {
            key: item[key] for key in KEPT.intersection(item)})
    except InputError as error:
        raise error.with_file(path) from None
    if not isinstance(content, dict):
        raise InputError("holds no object in braces: not a COCO file", file=path)
    return content


def _check_memory(path, needed):
    if needed > available_memory():
        raise InputError(f"reading it may take {needed / 1e9:.1f} GB of memory, more than are free",
                         file=path)
