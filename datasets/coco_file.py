"""COCO instances files, parsed as a stream: hundreds of megabytes in little memory.

    source = read_coco("instances_train2017.json", bad_input)
    source.classes                # in the order of their ids
    next(source.samples).present  # {"person", "dog"}
"""
import re
from array import array
from collections import defaultdict

import ijson
import numpy as np

from common.cli import InputError
from common.files import require_regular_file
from datasets.label_table import Sample, Source
from datasets.text_sources import read_error

LISTS = ("categories", "images", "annotations")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_DEPTH = 64
ITEM_DEPTH = 2  # {"images": [ ... ]}
MAX_ITEM_BYTES = 64 << 20  # of an image or annotation; masks of large images take a few
BLOCK_BYTES = 1 << 16
NOT_JSON = (ijson.JSONError, UnicodeDecodeError)
ESCAPES = re.compile(rb"\\.", re.DOTALL)
STRINGS = re.compile(rb'"[^"]*"')
NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # as int8: 1 and -1


def read_coco(path, bad_input):
    """Read which classes each image of a COCO instances file shows.

    A class is present when the image has a box or mask of it, a crowd included: a crowd of
    people shows people. Images without annotations carry no class.

    Parameters
    ----------
    path : str
    bad_input : BadInput

    Returns
    -------
    Source

    Raises
    ------
    InputError
        When it is not such a file; with line and column where it is not JSON.
    """
    content = _Content()
    for key, position, item in _items(path):
        problem = (getattr(content, f"add_{key}")(position, item) if isinstance(item, dict)
                   else "is not an object in braces")
        if problem:
            bad_input.reject(f"{path}: {key}[{position}]", problem)
    for key in LISTS:
        if not getattr(content, key):
            raise InputError(f"{path}: holds no {key}: not a COCO instances file")
    present = defaultdict(set)
    for position, image, category in content.pairs():
        problem = _unknown_id("image_id", image, content.images) or _unknown_id(
            "category_id", category, content.categories)
        if problem:
            bad_input.reject(f"{path}: annotations[{position}]", problem)
        else:
            present[image].add(content.categories[category])
    nothing = frozenset()
    samples = (Sample(name, present.get(image, nothing), nothing, f"{path}: image {image}")
               for image, name in content.images.items())
    order = sorted(content.categories, key=lambda number: (isinstance(number, str), number))
    return Source([content.categories[number] for number in order], samples)


class _Content:
    """What matters of the three lists. An add_ method returns what is wrong with an item.

    Attributes
    ----------
    categories, images : dict
        Names by id.
    annotations : array.array
        Position in the file, number of the image id and number of the category id, for each
        annotation: images and categories may come later in the file.
    """

    def __init__(self):
        self.categories, self.images, self.annotations = {}, {}, array("q")
        self._image_numbers, self._category_numbers = {}, {}

    def add_categories(self, _, item):
        number, name = item.get("id"), item.get("name")
        if not _is_id(number) or not isinstance(name, str):
            return "a category wants an id and a name"
        name = name.strip()
        if number in self.categories or name in self.categories.values():
            return f"a second category {_shown(number)} or {_shown(name)}"
        self.categories[number] = name
        return None

    def add_images(self, _, item):
        number, name = item.get("id"), item.get("file_name")
        if not _is_id(number) or not isinstance(name, str):
            return "an image wants an id and a file_name"
        if number in self.images:
            return f"a second image of the id {_shown(number)}"
        self.images[number] = name
        return None

    def add_annotations(self, position, item):
        image, category = item.get("image_id"), item.get("category_id")
        if not (_is_id(image) and _is_id(category)):
            return (_unknown_id("image_id", image, ()) if not _is_id(image)
                    else _unknown_id("category_id", category, ()))
        self.annotations.extend((
            position, self._image_numbers.setdefault(image, len(self._image_numbers)),
            self._category_numbers.setdefault(category, len(self._category_numbers))))
        return None

    def pairs(self):
        """Yield position, image id and category id of each annotation."""
        images, categories = list(self._image_numbers), list(self._category_numbers)
        for row in range(0, len(self.annotations), 3):
            position, image, category = self.annotations[row:row + 3]
            yield position, images[image], categories[category]


def _unknown_id(field, value, known):
    kind = {"image_id": "images", "category_id": "categories"}[field]
    return None if value in known else f"its {field} {_shown(value)} is of none of the {kind}"


def _is_id(value):
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _shown(value):
    return f"{value!r:.60}" if _is_id(value) else f"({type(value).__name__})"


def _items(path):
    """Yield (name of the list, position in it, item) for the three lists of the file."""
    found = {key: ijson.sendable_list() for key in LISTS}
    # Floats, because no coordinate is needed to more digits than they have.
    parsers = [ijson.items_coro(found[key], f"{key}.item", use_float=True) for key in LISTS]
    counts = dict.fromkeys(LISTS, 0)
    end = 0
    try:
        for start, block in _blocks(path):
            for parser in parsers:
                parser.send(block)
            end = start + len(block)
            for key, items in found.items():
                for item in items:
                    yield key, counts[key], item
                    counts[key] += 1
                items.clear()
        for parser in parsers:
            parser.close()
    except NOT_JSON:
        raise _broken(path, end) from None


def _broken(path, good):
    """The InputError that says where a file stops being JSON, its first `good` bytes accepted."""
    parser = ijson.items_coro(ijson.sendable_list(), "no such key", use_float=True)
    reason, position, line, line_start = "not readable", good, 1, 0
    try:
        for start, block in _blocks(path):
            # The parser does not say where it is, so the last block goes in byte by byte.
            size = len(block) if start < good else 1
            for offset in range(0, len(block), size):
                part, position = block[offset:offset + size], start + offset + size
                parser.send(part)
                line += part.count(b"\n")
                if b"\n" in part:
                    line_start = position - size + part.rfind(b"\n") + 1
        parser.close()
    except NOT_JSON as error:
        reason = error.args[0] if error.args else str(error)
        if isinstance(reason, bytes):  # where it quotes bytes that are not UTF-8
            reason = reason.decode("utf-8", "replace")
        reason = reason.splitlines()[0].strip().rstrip(".")
    with open(path, "rb") as file:
        file.seek(max(0, position - 1))
        if file.read(8).startswith((b"NaN", b"Infinity")):
            reason = "NaN and Infinity are no JSON: null may stand there"
        elif "overflow" in reason:
            reason = f"a number that is too large ({reason}): null may stand there"
    return InputError(f"{path}:{line}:{position - line_start}: broken JSON: {reason}")


def _blocks(path):
    """Yield (first byte, block) of a file that can be parsed without much time or memory.

    Raises
    ------
    InputError
        When the file cannot be read, is UTF-16 or a list, nests deeper than MAX_DEPTH, or has an
        item of more than MAX_ITEM_BYTES.
    """
    require_regular_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(3)
            if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
                raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
            start = 3 if head == BYTE_ORDER_MARK else 0
            file.seek(start)
            item_bytes, state = 0, (0, False, False)
            for block in iter(lambda: file.read(BLOCK_BYTES), b""):
                if start <= 3 and block.lstrip()[:1] == b"[":
                    raise InputError(f"{path}: holds no object in braces: not a COCO file")
                deepest, shallowest, *state = _depths(block, *state)
                item_bytes = 0 if shallowest <= ITEM_DEPTH else item_bytes + len(block)
                if deepest > MAX_DEPTH or item_bytes > MAX_ITEM_BYTES:
                    raise InputError(f"{path}: after byte {start}: " + (
                        f"JSON nested deeper than {MAX_DEPTH}" if deepest > MAX_DEPTH else
                        f"an item of more than {MAX_ITEM_BYTES >> 20} MB") + ": not a COCO file")
                yield start, block
                start += len(block)
    except OSError as error:
        raise read_error(path, error) from None


def _depths(block, depth, in_string, escaped):
    """Greatest and least depth after a block's brackets, and the three states at its end."""
    block = ESCAPES.sub(b"", block[escaped:])
    escaped = block.endswith(b"\\")
    # What is left are quotes and brackets; a string that goes on from before gets its quote.
    structure = STRINGS.sub(b"", b'"' * in_string + block.translate(None, NOT_STRUCTURE))
    brackets, quote, _ = structure.partition(b'"')
    if not brackets:
        return 0, MAX_DEPTH, depth, bool(quote), escaped
    depths = depth + np.cumsum(np.frombuffer(brackets.translate(STEPS), np.int8), dtype=np.int64)
    return depths.max(), depths.min(), int(depths[-1]), bool(quote), escaped
