"""Text files of lines, and the reader of labels in JSON lines.

    flags = build_parser("").parse_args(["jsonl", "labels.jsonl", "--prefix", "out"])
    for sample in read_jsonl(flags, BadInput(skip=False)).samples:
        sample.name, sample.present, sample.unknown
"""
import json

from common.cli import InputError
from common.files import open_regular_file
from datasets.label_lists import ListRow, clean_list, samples_of_lists
from datasets.label_table import Place

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 4 << 20
NAME_KEYS = ("image", "file_name")
WANTED = 'wants {"image": "NAME", "labels": ["CLASS", ...]}'


def read_jsonl(flags, bad_input):
    """Read one JSON object per line: `{"image": "a.jpg", "labels": ["cat"], "unknown": ["dog"]}`.

    `file_name` may stand in place of `image`, and `unknown` may be missing. Labels are names or
    numbers of classes, or one 1, 0 or -1 per class; null: all are unknown. `flags` are those of
    `make_lst.py jsonl`. Returns a Source.
    """
    def parse(where, item):
        return _jsonl_row(where, item, flags.group_column)

    return samples_of_lists(read_json_lines(flags.file, bad_input, parse), flags, bad_input)


def read_json_lines(path, bad_input, parse):
    """Yield `parse(where, value)` of each line's JSON, `where` being a Place.

    A line for which it raises a ValueError that is no InputError is bad.
    """
    for number, line in enumerate(read_lines(path), 1):
        where = Place(path, number)
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            bad_input.reject(where, f"broken JSON: {error.msg} at column {error.colno}")
        except RecursionError:
            bad_input.reject(where, "JSON nested too deeply")
        except ValueError as error:  # not UTF-8, or a number of thousands of digits
            bad_input.reject(where, f"broken JSON: {error}")
        else:
            try:
                row = parse(where, item)
            except InputError:
                raise
            except ValueError as error:
                bad_input.reject(where, str(error))
            else:
                yield row


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


def read_lines(path):
    """The lines of a text file, as bytes."""
    try:
        with open_regular_file(path) as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, 1):
                if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise InputError("is UTF-16 text; save it as UTF-8", file=path)
                if number == 1 and line[:3] == BYTE_ORDER_MARK:
                    line = line[3:]
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"a line longer than {MAX_LINE_BYTES >> 20} MB", file=path,
                                     line=number)
                yield line
    except OSError as error:
        raise read_error(path, error) from None


def read_error(path, error):
    """The InputError for a file or folder that cannot be read."""
    return InputError(f"cannot be read: {(error.strerror or str(error)).lower()}", file=path)
