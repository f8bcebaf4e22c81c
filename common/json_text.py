"""JSON that came from outside."""
import json
import re

from common.cli import InputError

MAX_DIGITS = 20  # converting a million digits takes old Pythons minutes


def parse_json(text, **options):
    """The value of a JSON text, str or UTF-8 bytes; `options` are further ones of `json.loads`.

    An InputError with the line says why it is not JSON. Numbers of more than MAX_DIGITS digits, NaN
    and infinity are refused, too, unless the options `parse_int` and `parse_constant` read them.
    """
    def refuse(token, reason):
        place = re.search(rf"[:\[,]\s*{re.escape(token)}", text)
        raise InputError(f"broken JSON: {reason}: null may stand there",
                         line=1 + text.count("\n", 0, place.end()) if place else None)

    def parse_int(digits):
        if len(digits) > MAX_DIGITS:
            refuse(digits, f"a number of more than {MAX_DIGITS} digits")
        return int(digits)

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text, **{
            "parse_int": parse_int,
            "parse_constant": lambda name: refuse(name, "NaN and Infinity are no JSON"), **options})
    except UnicodeDecodeError as error:
        raise InputError("broken JSON: not UTF-8 text",
                         line=1 + text.count(b"\n", 0, error.start)) from None
    except json.JSONDecodeError as error:
        raise InputError(f"broken JSON: {error.msg} at column {error.colno}",
                         line=error.lineno) from None
    except RecursionError:
        raise InputError("JSON nested too deeply") from None
