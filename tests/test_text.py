"""Text from outside on a terminal, in logs, in error lines and in spreadsheets."""
import csv
import doctest
import io
import logging
import os
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import common.text
from common.cli import InputError, log_to_stderr, run
from common.text import MAX_LOG_LINE, encodable, printable, quoted
from evaluation.predictions_file import PredictionsFile

HOSTILE = "cat\x1b[2J\x07\x9b\u202egpj.exe\u2066\ud800\udce9\nerror: forged\x7f"


def is_harmless(text):
    """By Unicode's own categories: no control, no surrogate, no line end, no bidi control."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or
                   unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI",
                                                    "RLI", "FSI", "PDI") for c in text)


@given(st.text(st.characters()))
def test_printable_text_is_harmless_and_stays_as_it_is(text):
    shown = printable(text)
    assert is_harmless(shown) and len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    if is_harmless(text) and len(text) <= 200 and not set("\u200e\u200f\u061c") & set(text):
        assert shown == text


def test_unsafe_characters_appear_as_escapes():
    assert printable(HOSTILE) == (r"cat\x1b[2J\x07\x9b\u202egpj.exe\u2066\ud800\xe9\x0aerror: "
                                  r"forged\x7f")
    assert printable(b"caf\xe9\x1b.jpg") == r"caf\xe9\x1b.jpg"
    assert printable("naïve 日本 👨‍👩‍👧 می‌خواهم") == "naïve 日本 👨‍👩‍👧 می‌خواهم"
    assert quoted(b"a\tb") == r'"a\x09b"'


def test_long_text_is_cut_in_the_middle():
    assert printable("a" * 500 + "b" * 500, 21) == "a" * 9 + "..." + "b" * 9
    assert len(printable("\x1b" * 10 ** 6)) == 200
    assert printable("x" * 5000, None) == "x" * 5000


def test_encodable_text_changes_only_what_utf_8_cannot_hold():
    assert encodable(HOSTILE) == HOSTILE.replace("\ud800", r"\ud800").replace("\udce9", r"\xe9")


def test_error_lines_are_one_printable_line(capsys):
    def fail(argv):
        raise InputError(f"{HOSTILE}: {'x' * 10 ** 5}: remove it")

    with pytest.raises(SystemExit) as end:
        run(fail)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and len(err) < 1200
    assert is_harmless(err[:-1]) and err.endswith("remove it\n")


def test_log_lines_are_printable_lines_and_tracebacks_stay_whole(capsys):
    before = logging.getLogger().handlers[:]
    try:
        log_to_stderr(logging.INFO)
        logging.getLogger("any").info("Class %s", HOSTILE)
        try:
            raise RuntimeError("defect")
        except RuntimeError:
            logging.getLogger("any").exception("failed")
    finally:
        logging.getLogger().handlers[:] = before
    first, *rest = capsys.readouterr().err.splitlines()
    assert is_harmless(first) and first.startswith("Class cat\\x1b")
    assert rest[:2] == ["failed", "Traceback (most recent call last):"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("form", [
    {}, {"file_format": "jsonl"}, {"top": 1}, {"file_format": "jsonl", "top": 1}])
def test_predictions_on_a_terminal_are_printable_lines(form):
    file = Terminal()
    out = PredictionsFile(file, [HOSTILE, "dog"], np.full(2, 0.5), **form)
    out.write(HOSTILE, np.float32([0.75, 0.25]))
    out.write(HOSTILE, None, f"no such {HOSTILE}")
    lines = file.getvalue().splitlines()
    assert all(map(is_harmless, lines)) and len(lines) == (2 if "file_format" in form else 3)


FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'til.jpg", "a=1.jpg", ""]


@pytest.mark.parametrize("top", [None, 1])
def test_no_text_cell_begins_a_formula_and_each_name_can_be_recovered(top):
    file = io.StringIO()
    out = PredictionsFile(file, FORMULAS[:3], np.full(3, 0.5), top=top)
    for name in FORMULAS:
        out.write(name, np.float32([0.75, 1e-9, 0.25]))
        out.write(name, None, name)
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert not any(cell[:1] in tuple("=+-@\t\r") and cell for row in rows for cell in row)
    recovered = [[cell[1:] if cell[:1] == "'" else cell for cell in row] for row in rows]
    assert [row[0] for row in recovered[1:]] == [name for name in FORMULAS for _ in range(2)]
    assert [row[-1] for row in recovered[2::2]] == FORMULAS
    assert (recovered[0][1:-1] == FORMULAS[:3]) if top is None else recovered[1][1] == FORMULAS[0]


def test_names_in_files_keep_their_control_characters():
    file = io.StringIO()
    PredictionsFile(file, ["a"], np.full(1, 0.5)).write("x\x1b.jpg", np.float32([0.5]))
    assert "x\x1b.jpg" in file.getvalue()


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(common.text).attempted == 1
    assert doctest.testmod(common.text).failed == 0


def test_logging_to_a_run_folder_is_printable(tmp_path):
    from training.log import log_to

    before = logging.getLogger().handlers[:]
    try:
        log_to(str(tmp_path))
        logging.getLogger("any").warning("Class %s", HOSTILE)
        logging.getLogger("any").info("Epoch[0] Batch [0-20]\tSpeed: 50.00 samples/sec\tacc=0.5")
        logging.getLogger("any").warning("%s", ("x" * 5000 + "\t") * 30)
    finally:
        logging.getLogger().handlers[:] = before
    line, mxnets, long = (tmp_path / "train.log").read_text().splitlines()
    assert is_harmless(line) and "Class cat\\x1b[2J" in line
    assert mxnets.endswith("Batch [0-20]\tSpeed: 50.00 samples/sec\tacc=0.5")
    assert len(long) <= MAX_LOG_LINE + 20 and long.count("\t") == 20
    assert os.listdir(tmp_path) == ["train.log"]
