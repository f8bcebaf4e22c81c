"""COCO instances files, streamed: hundreds of megabytes in a few of memory.

A first pass counts brackets, which is fast, and finds where the three lists are (annotations
may well come before the images that they are of); then each list is parsed by itself.

    source = read_coco("instances_train2017.json", faults)
    source.classes                # in the order of their ids
    next(source.samples).present  # {"person", "dog"}
"""
import os
import re
from collections import defaultdict

import ijson
import numpy as np

from common.cli import InputError
from datasets.label_table import Sample, Source
from datasets.text_sources import cannot_read

MAX_DEPTH = 64
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ITEM_DEPTH = 2  # {"images": [ ... ]}
MAX_KEYS = 1000
MAX_ITEM_BYTES = 64 << 20  # of an image or annotation; masks of large images take a few
BLOCK_BYTES = 1 << 16
ESCAPES = re.compile(rb"\\.", re.DOTALL)
STRINGS = re.compile(rb'"[^"]*"')
TOKENS = re.compile(rb'\\.|["{}\[\],:]', re.DOTALL)
NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # as int8: 1 and -1


def read_coco(path, faults):
    """Read which classes each image of a COCO instances file shows.

    A class is present when the image has a box or mask of it, a crowd included: a crowd of
    people shows people. Images without annotations carry no class.

    Parameters
    ----------
    path : str
    faults : Faults

    Returns
    -------
    Source

    Raises
    ------
    InputError
        When it is not such a file; with line and column where it is not JSON.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: not a regular file, and it is gone through several times")
    _check_start(path)
    lists = find_values(path)
    classes = _categories(path, lists, faults)
    names = _images(path, lists, faults)
    present = defaultdict(set)
    count = 0
    for where, item in _items(path, lists, "annotations", faults):
        count += 1
        image, category = item.get("image_id"), item.get("category_id")
        if not _is_id(image) or image not in names:
            faults(where, f"its image_id {_shown(image)} is of none of the images")
        elif not _is_id(category) or category not in classes:
            faults(where, f"its category_id {_shown(category)} is of none of the categories")
        else:
            present[image].add(classes[category])
    if not count:
        raise InputError(f"{path}: holds no annotations: not a COCO instances file")

    nothing = frozenset()
    samples = (Sample(name, present.get(image, nothing), nothing, f"{path}: image {image}")
               for image, name in names.items())
    return Source(list(classes.values()), samples)


def _check_start(path):
    head = next(_blocks(path), b"")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:2]:
        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
    head = head[3:] if head[:3] == BYTE_ORDER_MARK else head
    if head.strip() and head.lstrip()[:1] != b"{":
        raise _broken(path, 0, None) or InputError(
            f"{path}: holds no object in braces: not a COCO file")


def _categories(path, lists, faults):
    """Class name of each category id, in the order of the ids."""
    found = {}
    for where, item in _items(path, lists, "categories", faults):
        number, name = item.get("id"), item.get("name")
        if not _is_id(number) or not isinstance(name, str):
            faults(where, "a category wants an id and a name")
        elif number in found or name.strip() in found.values():
            faults(where, f"a second category {_shown(number)} or {_shown(name)}")
        else:
            found[number] = name.strip()
    if not found:
        raise InputError(f"{path}: holds no categories: not a COCO instances file")
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _images(path, lists, faults):
    """File name of each image id, in the order of the file."""
    found = {}
    for where, item in _items(path, lists, "images", faults):
        number, name = item.get("id"), item.get("file_name")
        if not _is_id(number) or not isinstance(name, str):
            faults(where, "an image wants an id and a file_name")
        elif number in found:
            faults(where, f"a second image of the id {_shown(number)}")
        else:
            found[number] = name
    if not found:
        raise InputError(f"{path}: holds no images: not a COCO instances file")
    return found


def _is_id(value):
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _shown(value):
    return f"{value!r:.60}" if _is_id(value) else f"({type(value).__name__})"


def _items(path, lists, key, faults):
    """Yield (where, object) of one of the file's lists."""
    if key not in lists:
        raise _broken(path, 0, None) or InputError(
            f"{path}: holds no {key}: not a COCO instances file")
    with open(path, "rb") as file:
        part = _Part(file, *lists[key])
        try:
            # Floats, because no coordinate is needed to more digits than they have.
            items = ijson.items(part, "item", use_float=True, buf_size=BLOCK_BYTES)
            for number, item in enumerate(items):
                where = f"{path}: {key}[{number}]"
                if isinstance(item, dict):
                    yield where, item
                else:
                    faults(where, "is not an object in braces")
        except (ijson.JSONError, UnicodeDecodeError):
            raise _broken(path, *lists[key]) from None


def _broken(path, start, end):
    """The InputError that says where a part of a file stops being JSON; None when it does not."""
    with open(path, "rb") as file:
        if start == 0 and file.read(3) == BYTE_ORDER_MARK:
            start = 3  # a byte order mark, which is no JSON
        part = _Part(file, start, end)
        try:
            for _ in ijson.items(part, "no such key", use_float=True, buf_size=BLOCK_BYTES):
                pass
            return None
        except (ijson.JSONError, UnicodeDecodeError):
            pass
        # Again, the last block byte by byte: the parser does not say where it is.
        part = _Part(file, start, end, single_bytes_from=part.position - BLOCK_BYTES)
        try:
            for _ in ijson.items(part, "no such key", use_float=True, buf_size=BLOCK_BYTES):
                pass
        except (ijson.JSONError, UnicodeDecodeError) as error:
            reason = error.args[0] if error.args else str(error)
            if isinstance(reason, bytes):  # where it quotes bytes that are not UTF-8
                reason = reason.decode("utf-8", "replace")
            reason = reason.splitlines()[0].strip().rstrip(".")
        file.seek(max(0, part.position - 1))
        if file.read(8).startswith((b"NaN", b"Infinity")):
            reason = "NaN and Infinity are no JSON: null may stand there"
        elif "overflow" in reason:
            reason = f"a number that is too large ({reason}): null may stand there"
        file.seek(0)
        line, column, left = 1, 0, part.position
        while left:
            block = file.read(min(left, BLOCK_BYTES))
            left -= len(block)
            line += block.count(b"\n")
            column = len(block) - block.rfind(b"\n") - 1 + (0 if b"\n" in block else column)
    return InputError(f"{path}:{line}:{column}: broken JSON: {reason}")


class _Part:
    """A part of a file, to be read like a file; `position` is that of the whole file."""

    def __init__(self, file, start, end, single_bytes_from=None):
        self.position = start
        self._file, self._end, self._single_from = file, end, single_bytes_from
        file.seek(start)

    def read(self, size):
        """The next `size` bytes, fewer at the end; one at a time where that was asked for."""
        if self._single_from is not None and self.position >= self._single_from:
            size = min(size, 1)
        if self._end is not None:
            size = min(size, self._end - self.position)
        block = self._file.read(size)
        self.position += len(block)
        return block


def find_values(path):
    """Where a JSON file's outermost object has its values.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict of str to (int, int)
        First byte of each key's value, and the one after its last. What is no JSON gives
        something or other.

    Raises
    ------
    InputError
        When the file cannot be read, or holds what would take a parser's time and memory
        without being a data set: nesting deeper than MAX_DEPTH, an item of MAX_ITEM_BYTES. When
        something follows the object.
    """
    found, key, value, string, string_start = {}, None, 0, None, 0
    end = None
    depth, in_string, escaped = 0, False, False  # at the end of the last block
    position = item_bytes = 0
    for block in _blocks(path):
        deepest, shallowest, *after = _depths(block, depth, in_string, escaped)
        item_bytes = 0 if shallowest <= ITEM_DEPTH else item_bytes + len(block)
        if deepest > MAX_DEPTH or item_bytes > MAX_ITEM_BYTES:
            raise InputError(f"{path}: after byte {position}: " + (
                f"JSON nested deeper than {MAX_DEPTH}" if deepest > MAX_DEPTH else
                f"an item of more than {MAX_ITEM_BYTES >> 20} MB") + ": not a COCO file")
        # Few blocks have anything of the outermost object, and are worth a closer look.
        for token in TOKENS.finditer(block, escaped) if min(depth, shallowest) <= 1 else ():
            text, at = token.group(), position + token.start()
            if text == b'"':
                in_string = not in_string
                if in_string:
                    string_start = at + 1
                else:
                    string = string_start, at
            elif in_string or len(text) > 1:
                continue
            elif text in b"[{":
                depth += 1
            elif text == b":" and depth == 1:
                key, value = string, at + 1
            elif depth == 1 and key and len(found) < MAX_KEYS:  # a comma, or the last brace
                found[key] = value, at
                key = None
            depth -= text in b"]}"
            if depth == 0 and end is None and text in b"]}":
                end = at + 1
        if end is not None and block[max(0, end - position):].strip():
            raise _broken(path, 0, None) or InputError(
                f"{path}: after byte {end}: there is more than one object: not a COCO file")
        position += len(block)
        depth, in_string, escaped = after
    with open(path, "rb") as file:
        return {_key(file, *key): value for key, value in found.items()}


def _key(file, start, end):
    file.seek(start)
    return file.read(min(end - start, 100)).decode("utf-8", "replace")


def _blocks(path):
    try:
        with open(path, "rb") as file:
            yield from iter(lambda: file.read(BLOCK_BYTES), b"")
    except OSError as error:
        raise cannot_read(path, error) from None


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
