"""COCO files: instances, panoptic, and LVIS, whose labels are partly unknown.

    source = read_coco("instances_train2017.json", bad_input)
    source.classes                # in the order of their ids
    next(source.samples).present  # {"person", "dog"}
"""
import json
import logging
import os
import re
from collections import defaultdict

from common.cli import InputError
from common.files import open_regular_file
from common.memory import available_memory
from datasets.label_table import NOTHING, Place, Sample, Source
from datasets.text_sources import BYTE_ORDER_MARK, read_error

# What is kept of each object. Coordinates and masks are most of a file, and not needed.
KEPT = frozenset(["images", "annotations", "categories", "id", "image_id", "category_id", "name",
                  "file_name", "coco_url", "segments_info", "neg_category_ids"])
# Memory that reading takes: per byte of the file, as bytes and as text, and at most per list or
# object in it.
COPIES, OBJECT_BYTES = 2, 64
MAX_DIGITS = 20  # converting a million digits takes old Pythons minutes

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
    classes = _names(path, content, "categories", _category_name, bad_input)
    names = _names(path, content, "images", _image_name, bad_input)
    absent = {_id(item.get("id")): _listed(item, "neg_category_ids")
              for _, item in _objects(path, content, "images") if "neg_category_ids" in item}
    present, partly_read, count = defaultdict(set), set(absent), 0
    for where, item in _objects(path, content, "annotations", bad_input):
        count += 1
        image = _id(item.get("image_id"))
        if image not in names:
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
    if not count:
        raise InputError("holds no annotations: not a COCO instances file", file=path)
    samples = (Sample(name, present.get(image, NOTHING), None if image in partly_read else NOTHING,
                      f"{path}: image {image}",
                      {classes[n] for n in map(_id, absent.get(image, ())) if n in classes})
               for image, name in names.items())
    order = sorted(classes, key=lambda number: (isinstance(number, str), number))
    return Source(list(dict.fromkeys(classes[number] for number in order)), samples)


def _names(path, content, key, name_of, bad_input):
    """Name of each id in the list of categories or images, in the order of the file."""
    found, ambiguous = {}, set()
    for where, item in _objects(path, content, key, bad_input):
        number, name = _id(item.get("id")), name_of(item)
        if number is None or name is None:
            kind, field = (("a category", "name") if key == "categories"
                           else ("an image", "file_name"))
            bad_input.reject(Place(path), f"{where}: {kind} wants an id and a {field}")
        elif found.setdefault(number, name) != name:
            # Which of them annotations mean cannot be known.
            ambiguous.add(number)
            bad_input.reject(Place(path), f"{where}: {_shown(name)} has the id {_shown(number)} "
                             f"of {_shown(found[number])}")
    if not found:
        raise InputError(f"holds no {key}: not a COCO instances file", file=path)
    found = {number: name for number, name in found.items() if number not in ambiguous}
    repeated = len(found) - len(set(found.values()))
    if repeated and key == "categories":
        logger.warning("merged: %d categories of the same name as another one", repeated)
    return found


def _category_name(item):
    name = item.get("name")
    return name.strip() if isinstance(name, str) else None


def _image_name(item):
    """The file name; in LVIS the last folder and the name in the image's address."""
    name, address = item.get("file_name"), item.get("coco_url")
    if not name and isinstance(address, str):
        name = "/".join(address.split("/")[-2:])
    return name if isinstance(name, str) else None


def _id(value):
    """An id as a number or text; 7, 7.0 and "7" are the same. None: it can be none."""
    if isinstance(value, str):
        is_number = value.isdecimal() and len(value) <= MAX_DIGITS and str(int(value)) == value
        return int(value) if is_number else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value):
    return f"{value!r:.60}" if isinstance(value, (int, float, str)) else f"({type(value).__name__})"


def _listed(item, key):
    value = item.get(key)
    return value if isinstance(value, list) else []


def _objects(path, content, key, bad_input=None):
    """Yield (where, object) of one of the file's lists."""
    for position, item in enumerate(_listed(content, key)):
        where = f"{key}[{position}]"
        if isinstance(item, dict):
            yield where, item
        elif bad_input:
            bad_input.reject(Place(path), f"{where} is not an object in braces")


class _BadNumber(ValueError):
    """What stands where JSON wants a number, and what is wrong with it."""


def _read_json(path):
    """The object of a JSON file, with no more than what is KEPT of each object in it."""
    try:
        with open_regular_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            _check_memory(path, COPIES * size)
            data = file.read()
    except OSError as error:
        raise read_error(path, error) from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
        raise InputError("is UTF-16 text; save it as UTF-8", file=path)
    # A stranger's file may hold little else than brackets.
    _check_memory(path, size + OBJECT_BYTES * (data.count(b"[") + data.count(b"{")))
    text = ""
    try:
        text = data[len(BYTE_ORDER_MARK) * data.startswith(BYTE_ORDER_MARK):].decode()
        del data
        content = json.loads(text, object_hook=_kept, parse_int=_parse_int,
                             parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InputError("broken JSON: not UTF-8 text", file=path,
                         line=1 + error.object.count(b"\n", 0, error.start)) from None
    except json.JSONDecodeError as error:
        raise InputError(f"broken JSON: {error.msg} at column {error.colno}", file=path,
                         line=error.lineno) from None
    except RecursionError:
        raise InputError("JSON nested too deeply: not a COCO file", file=path) from None
    except _BadNumber as error:
        number, reason = error.args
        place = re.search(rf"[:\[,]\s*{re.escape(number)}", text)
        raise InputError(f"broken JSON: {reason}: null may stand there", file=path,
                         line=1 + text.count("\n", 0, place.end()) if place else None) from None
    if not isinstance(content, dict):
        raise InputError("holds no object in braces: not a COCO file", file=path)
    return content


def _check_memory(path, needed):
    if needed > available_memory():
        raise InputError(f"reading it may take {needed / 1e9:.1f} GB of memory, more than are free",
                         file=path)


def _kept(item):
    return {key: item[key] for key in KEPT.intersection(item)}


def _parse_int(digits):
    if len(digits) > MAX_DIGITS:
        raise _BadNumber(digits, f"a number of more than {MAX_DIGITS} digits")
    return int(digits)


def _refuse_constant(name):
    raise _BadNumber(name, "NaN and Infinity are no JSON")
