"""The predictions that predict_multilabel.py writes: CSV or JSON lines, in a long or short form."""
import contextlib
import csv
import json
import os
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np

from common.cli import InputError, silence
from common.files import atomic_file
from common.text import encodable, no_formula, printable

FORMATS = ("csv", "jsonl")
SHORT = "class", "probability", "predicted"  # columns of the short form


class PredictionsFile:
    """Writes predictions, image by image, into a text file.

    CSV: `name`, a column for each class with its probability, and `error`, which is empty unless
    the image could not be used; that of a class called `error` is `error (class)`. In its short
    form a row is one class of an image: `name`, `class`, `probability`, `predicted` (1 or 0),
    `error`; an image without a class to list has one row with an empty class.
    JSON lines: an object per image, with `name` and either `error` or `probabilities` (an object
    by class name) and `labels`, the predicted classes. In its short form `labels` has objects of
    `class`, `probability` and `predicted` (true or false) instead.

    Bytes of a name that are not UTF-8 appear as \\xNN, and on a terminal so do control characters.
    In CSV, a text cell that a spreadsheet could take for a formula has an apostrophe in front (see
    common.text).

    A class is predicted where its probability is above its threshold; `thresholds` are (classes,).
    In the short form `top` is the number of classes at most, the most probable first, and `above`
    whether only predicted ones are listed. `file_format` is one of FORMATS.
    """

    def __init__(self, file, class_names, thresholds, file_format="csv", top=None, above=False):
        self._file = file
        readable = partial(printable, max_length=None) if file.isatty() else encodable
        self._text = (lambda text: no_formula(readable(text))) if file_format == "csv" else readable
        self._thresholds, self._top, self._above = thresholds, top, above
        self._short = top is not None or above
        taken = ("name", "error") if file_format == "csv" and not self._short else ()
        self._names = [f"{name} (class)" if name in taken else name
                       for name in map(self._text, class_names)]
        if len(set(self._names)) < len(self._names):
            raise InputError("the checkpoint gives two of its classes the same name")
        self._columns = SHORT if self._short else self._names
        self._csv = None
        if file_format == "csv":
            # With line ends of \r\n the writer quotes cells that hold either of the two.
            self._csv = csv.writer(SimpleNamespace(write=lambda row: file.write(row[:-2] + "\n")))
            self._csv.writerow(["name", *self._columns, "error"])

    def write(self, name, prob, problem=None):
        """Write the probabilities, (classes,), of an image, or why it could not be used."""
        name = self._text(name)
        # Six digits are the precision of float32.
        rounded = [] if problem is not None else [float(f"{p:.6g}") for p in prob]
        if problem is not None:
            problem = self._text(problem)
            rows, values = [[""] * len(self._columns)], {"error": problem}
        elif self._short:
            order = np.argsort(-prob, kind="stable")
            predicted = prob > self._thresholds
            if self._above:
                order = order[predicted[order]]
            listed = [(self._names[c], rounded[c], bool(predicted[c]))
                      for c in order[:self._top]]
            rows = [(c, p, int(is_predicted)) for c, p, is_predicted in listed]
            rows = rows or [[""] * len(SHORT)]
            values = {"labels": [dict(zip(SHORT, row)) for row in listed]}
        else:
            rows = [rounded]
            values = {"labels": [self._names[c] for c in np.flatnonzero(prob > self._thresholds)],
                      "probabilities": dict(zip(self._names, rounded))}
        if self._csv:
            self._csv.writerows([name, *row, problem or ""] for row in rows)
        else:
            self._file.write(json.dumps({"name": name, **values}, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def open_output(path=None):
    """A text file in UTF-8, to be written in a `with` block; None: standard output.

    A file appears when the block has ended, or not at all; a pipe or a device is written directly.
    An InputError says why it cannot be written.
    """
    as_text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        if not path:
            sys.stdout.reconfigure(encoding="utf-8", newline="")
            yield sys.stdout
            sys.stdout.flush()
        # Not the resolved path: that of a pipe in /dev/fd leads to nothing.
        elif os.path.exists(path) and not os.path.isfile(path):
            with open(path, "w", **as_text) as file:
                yield file
        else:
            with atomic_file(os.path.realpath(path)) as name, open(name, "w", **as_text) as file:
                yield file
    except BrokenPipeError:
        raise  # the reader of the pipe has ended, which is no mistake
    except OSError as error:
        if not path:
            silence(sys.stdout)
        raise InputError(f"cannot be written: {(error.strerror or str(error)).lower()}",
                         file=path or "standard output") from None
