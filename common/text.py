r"""Text that came from outside (names of files, classes and layers), made safe to show.

    >>> printable("cat\x1b[2J.jpg")
    'cat\\x1b[2J.jpg'

A terminal obeys escape sequences in what it shows, and bidirectional controls change the order in
which text is read. In files the text stays as it is, but for what UTF-8 cannot hold.
"""
import logging
import os
import re

MAX_NAME = 200
MAX_LINE = 1000  # of an error or a table
MAX_LOG_LINE = 4000  # the line with all flags of a training run is long

SURROGATE = re.compile(r"[\ud800-\udfff]")
# Control characters, separators of lines, bidirectional controls, and lone surrogates.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
                    r"\ud800-\udfff]")
# What spreadsheets take for the start of a formula (OWASP, "CSV Injection"), and the apostrophe
# that goes in front of it, so that every leading apostrophe can be taken off again.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


def counted(count, noun, plural=None):
    """How many there are of something, such as "1 class"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def printable(text, max_length=MAX_NAME):
    """The text (str, bytes or path) in one line, unsafe characters as escapes such as \\x1b.

    Bytes that are not UTF-8 appear as \\xNN. Text longer than `max_length` (None: of any length) is
    cut in the middle, where three dots then stand. Made printable once more it is the same.
    """
    text = UNSAFE.sub(_escape, os.fsdecode(text))
    if max_length is not None and len(text) > max_length:
        head = (max_length - 3) // 2
        text = f"{text[:head]}...{text[len(text) - (max_length - 3 - head):]}"
    return text


def quoted(text, max_length=40):
    """A short piece of a file, printable and in quotation marks."""
    return f'"{printable(text, max_length)}"'


def encodable(text):
    """The text with what UTF-8 cannot hold as escapes: names of files that are not UTF-8."""
    return SURROGATE.sub(_escape, os.fsdecode(text))


def no_formula(text):
    """The text as a cell that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(FORMULA_STARTS) else text


def _escape(match):
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte that is not UTF-8, as Python keeps it in a str
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class LineFormatter(logging.Formatter):
    """A logging.Formatter whose messages are one printable line each, with tabs as they are."""

    def formatMessage(self, record):
        """The line; a traceback that belongs to it follows as it is."""
        fields = super().formatMessage(record).split("\t", 20)  # MXNet's Speedometer writes a few
        return "\t".join(printable(field, MAX_LOG_LINE // len(fields)) for field in fields)
