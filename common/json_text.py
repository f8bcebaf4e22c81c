"""JSON that came from outside."""
import json

from common.cli import InputError

MAX_DIGITS = 20  # converting a million digits takes old Pythons minutes


def parse_json(text, **options):
    """The value of a JSON text, str or UTF-8 bytes; `options` are further ones of `json.loads`.

    An InputError says why it is not JSON, with the line where it breaks the syntax. Numbers of more
    than MAX_DIGITS digits, NaN and infinity are refused, too, unless the options `parse_int` and
    `parse_constant` read them.
    """
    def parse_int(digits):
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        return int(digits)

    def parse_constant(name):
        raise ValueError(f"{name}: null may stand there")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text, **{"parse_int": parse_int, "parse_constant": parse_constant,
                                   **options})
    except (ValueError, RecursionError) as error:
        raise InputError(f"broken JSON: {error}", line=getattr(error, "lineno", None)) from None
