"""The rows that predict_multilabel.py writes: CSV or JSON lines, long or short."""
import csv
import json

import numpy as np

from reading.image_reader import shown

FORMATS = ("csv", "jsonl")


class PredictionsFile:
    """Writes one image after the other.

    CSV: `name`, a column for each class with its probability, and `error`, which is empty unless
    the image could not be used; the column of a class called `error` is `error (2)`. In its
    short form a row is one class of an image: `name`, `class`, `probability`, `error`; an image
    without an answer has one row with no class.
    JSON lines: an object an image, with `name` and either `error` or `probabilities` (an object
    by class name) and `labels`, the classes answered yes. In its short form `labels` has objects
    of `class` and `probability` instead. Bytes of a name that are not UTF-8 appear as \\xNN.

    Parameters
    ----------
    file : text file
    class_names : list of str
    thresholds : np.ndarray, (classes,)
        A probability above it is a yes.
    file_format : str
        "csv" or "jsonl".
    top : int, optional
        Short form: the likeliest classes, at most so many.
    above : float or np.ndarray of (classes,), optional
        Short form: the classes whose probability is above this, likeliest first.
    """

    def __init__(self, file, class_names, thresholds, file_format="csv", top=None, above=None):
        self._file = file
        self._thresholds = thresholds
        self._top, self._above = top, above
        self._short = top is not None or above is not None
        columns_too = file_format == "csv" and not self._short
        self._names = distinct(class_names, taken=("name", "error") if columns_too else ())
        self._csv = None
        if file_format == "csv":
            self._csv = csv.writer(file, lineterminator="\n")
            columns = ["class", "probability"] if self._short else self._names
            self._csv.writerow(["name", *columns, "error"])

    def write(self, name, prob):
        """Write the probabilities, (classes,), of an image."""
        name = shown(name)
        if self._short:
            answers = [(self._names[c], _rounded(prob[c])) for c in self._chosen(prob)]
            if self._csv:
                self._csv.writerows([name, *answer, ""] for answer in answers or [("", "")])
            else:
                self._json(name=name, labels=[{"class": c, "probability": p} for c, p in answers])
        elif self._csv:
            self._csv.writerow([name, *map(_rounded, prob), ""])
        else:
            self._json(name=name,
                       labels=[self._names[c] for c in np.flatnonzero(prob > self._thresholds)],
                       probabilities=dict(zip(self._names, map(_rounded, prob))))

    def write_error(self, name, reason):
        """Write why an image could not be used."""
        if self._csv:
            empty = [""] * (2 if self._short else len(self._names))
            self._csv.writerow([shown(name), *empty, reason])
        else:
            self._json(name=shown(name), error=reason)

    def _chosen(self, prob):
        order = np.argsort(-prob, kind="stable")
        if self._above is not None:
            order = order[(prob > self._above)[order]]
        return order[:self._top]

    def _json(self, **row):
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")


def distinct(names, taken=()):
    """The names, with a number behind those that came before or are taken: each is one column."""
    taken, result = set(taken), []
    for name in names:
        number, candidate = 1, name
        while candidate in taken:
            number += 1
            candidate = f"{name} ({number})"
        taken.add(candidate)
        result.append(candidate)
    return result


def _rounded(probability):
    """Six digits are all that float32 knows."""
    return float(f"{probability:.6g}")
