"""What a checkpoint says of itself beside its graph: attributes of `data` in the symbol file.

    values = read_attributes({"__rgb_fit__": '"squash"'}, "net-symbol.json")   # {"fit": "squash"}

Each is stored as JSON text under `__rgb_NAME__`. One set of rules serves writing and reading.
"""
from __future__ import annotations

import math
import re
from typing import Any, Mapping

from common.cli import InputError
from common.json_text import parse_json

MOST_CLASSES = 1_000_000
LARGEST_SIDE = 1 << 15


def _is_number(value, least, most, kinds=(int,)):
    return type(value) in kinds and math.isfinite(value) and least <= value <= most


def _is_list(value, is_valid, least=1, most=MOST_CLASSES):
    return (isinstance(value, (list, tuple)) and least <= len(value) <= most
            and all(is_valid(item) for item in value))


def _is_text(value, most=1000):
    # Python's JSON accepts lone surrogates, which cannot be encoded.
    return (isinstance(value, str) and len(value) <= most and "\0" not in value
            and not any("\ud800" <= character <= "\udfff" for character in value))


# By name: whether a value is valid, and what is expected in words.
RULES = {
    "image_shape": (lambda v: _is_list(v, lambda side: _is_number(side, 1, LARGEST_SIDE), 3, 3)
                    and v[0] == 3, f"3, height and width, both 1 to {LARGEST_SIDE}"),
    "resize": (lambda v: _is_number(v, 0, LARGEST_SIDE), f"a whole number, 0 to {LARGEST_SIDE}"),
    "full_decode": (lambda v: type(v) is bool, "true or false"),
    "fit": (lambda v: v in ("crop", "pad", "squash"), "crop, pad or squash"),
    "background": (lambda v: _is_list(v, lambda part: _is_number(part, 0, 255), 3, 3),
                   "red, green and blue, each 0 to 255"),
    "class_names": (lambda v: _is_list(v, _is_text),
                    "a list of texts of at most 1,000 characters"),
    "thresholds": (lambda v: _is_list(v, lambda t: _is_number(t, -1, 1, (int, float))),
                   "a list of numbers from -1 to 1"),
    "thresholds_list": (lambda v: _is_list(v, _is_text, 2, 2),
                        "the name and the checksum of a list, texts of at most 1,000 characters"),
    "thresholds_epoch": (lambda v: _is_number(v, 0, 1 << 31), "the number of an epoch"),
    "thresholds_objective": (
        lambda v: isinstance(v, str) and re.fullmatch(r"f1|of1|precision [01]\.\d{6}", v),
        "f1, of1, or precision and a number from 0 to 1"),
    "training_list": (lambda v: _is_list(v, _is_text, 2, 2),
                      "the name and the checksum of a list, texts of at most 1,000 characters"),
    "training": (lambda v: isinstance(v, dict) and len(v) <= 20
                 and all(_is_text(text) for item in v.items() for text in item),
                 "at most 20 texts of at most 1,000 characters, by names"),
    "version": (lambda v: _is_text(v, 100), "text of at most 100 characters"),
}

# What a checkpoint says of chosen thresholds, for `checkpoint.set_attributes` to take away.
NO_THRESHOLDS = dict.fromkeys(
    ("thresholds", "thresholds_list", "thresholds_epoch", "thresholds_objective"))


def check_attribute(name: str, value: Any, file: str | None = None) -> None:
    """Raise an InputError, about `file`, where an attribute cannot have this value."""
    if name not in RULES:
        raise InputError(f"attribute {name!r:.80} is not known; known are {', '.join(RULES)}",
                         file=file)
    is_valid, expected = RULES[name]
    if not is_valid(value):
        raise InputError(f"attribute {name} is {value!r:.80}; expected is {expected}", file=file)


def read_attributes(texts: Mapping[str, str], file: str | None = None) -> dict[str, Any]:
    """Parse the attributes of `data`, `texts`, that are called `__rgb_NAME__`: values by NAME.

    An InputError, about `file`, is raised where an attribute is not known, is not JSON, or has a
    value that it cannot have.
    """
    values = {}
    for key, text in texts.items():
        if not key.startswith("__rgb_") or not key.endswith("__"):
            continue  # MXNet's own
        name = key[len("__rgb_"):-2]
        try:
            values[name] = parse_json(text)
        except InputError as error:
            raise InputError(f"attribute {name}: its JSON: {error}", file=file) from None
        check_attribute(name, values[name], file)
    return values
