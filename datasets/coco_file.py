"""COCO instances files, parsed as a stream: hundreds of megabytes in little memory.

    source = read_coco("instances_train2017.json", bad_input)
    source.classes                # in the order of their ids
    next(source.samples).present  # {"person", "dog"}
"""
import re
from collections import defaultdict

import ijson
import numpy as np

from common.cli import InputError
from common.files import require_regular_file
from datasets.label_table import NOTHING, Sample, Source
from datasets.text_sources import BYTE_ORDER_MARK, read_error

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

    Returns a Source. Raises an InputError when it is not such a file; with line and column where
    it is not JSON.
    """
    classes = _names(path, "categories", "name", bad_input)
    names = _names(path, "images", "file_name", bad_input)
    present = defaultdict(set)
    count = 0
    for where, item in _items(path, "annotations", bad_input):
        count += 1
        image, category = item.get("image_id"), item.get("category_id")
        if not _is_id(image) or image not in names:
            bad_input.reject(where, f"its image_id {_shown(image)} is of none of the images")
        elif not _is_id(category) or category not in classes:
            bad_input.reject(where, f"its category_id {_shown(category)} is of none of the "
                             "categories")
        else:
            present[image].add(classes[category])
    if not count:
        raise InputError(f"{path}: holds no annotations: not a COCO instances file")
    samples = (Sample(name, present.get(image, NOTHING), NOTHING, f"{path}: image {image}")
               for image, name in names.items())
    order = sorted(classes, key=lambda number: (isinstance(number, str), number))
    return Source([classes[number] for number in order], samples)


def _names(path, key, field, bad_input):
    """Name of each id in the list of categories or images, in the order of the file."""
    found, class_names = {}, set()
    for where, item in _items(path, key, bad_input):
        number, name = item.get("id"), item.get(field)
        if not _is_id(number) or not isinstance(name, str):
            kind = "a category" if key == "categories" else "an image"
            bad_input.reject(where, f"{kind} wants an id and a {field}")
        elif key == "images" and number in found:
            bad_input.reject(where, f"a second image of the id {_shown(number)}")
        elif key == "images":
            found[number] = name
        elif number in found or name.strip() in class_names:
            bad_input.reject(where, f"a second category {_shown(number)} or {_shown(name)}")
        else:
            found[number] = name.strip()
            class_names.add(name.strip())
    if not found:
        raise InputError(f"{path}: holds no {key}: not a COCO instances file")
    return found


def _is_id(value):
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _shown(value):
    return f"{value!r:.60}" if _is_id(value) else f"({type(value).__name__})"


def _items(path, key, bad_input):
    """Yield (where, object) of one of the file's lists, in one pass over the file."""
    # The first pass checks the whole file.
    blocks = _Blocks(_blocks(path, check=key == "categories"))
    try:
        # Floats, because no coordinate is needed to more digits than they have.
        items = ijson.items(blocks, f"{key}.item", use_float=True, buf_size=BLOCK_BYTES)
        for position, item in enumerate(items):
            where = f"{path}: {key}[{position}]"
            if isinstance(item, dict):
                yield where, item
            else:
                bad_input.reject(where, "is not an object in braces")
    except NOT_JSON:
        raise _broken(path, blocks.start) from None


class _Blocks:
    """A file to ijson, made of `_blocks`; `start` is the first byte of the latest block."""

    def __init__(self, blocks):
        self.start, self._blocks, self._size = 0, blocks, 0

    def read(self, size):
        """The next block, empty at the end. ijson asks for 0 bytes to see their type."""
        if size == 0:
            return b""
        self.start, block = next(self._blocks, (self.start + self._size, b""))
        self._size = len(block)
        return block


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


def _blocks(path, check=False):
    """Yield (first byte, block) of a file, or raise an InputError where it cannot be a COCO file.

    With `check`, also before a block that would take the parser much time or memory: it nests
    deeper than MAX_DEPTH, or belongs to an item of more than MAX_ITEM_BYTES.
    """
    require_regular_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(3)
            if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
                raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
            start = 3 if head == BYTE_ORDER_MARK else 0
            file.seek(start)
            deepest, item_bytes, state = 0, 0, (0, False, False)
            for block in iter(lambda: file.read(BLOCK_BYTES), b""):
                if start <= 3 and block.lstrip()[:1] == b"[":
                    raise InputError(f"{path}: holds no object in braces: not a COCO file")
                if check:
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
