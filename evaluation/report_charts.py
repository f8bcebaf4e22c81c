"""The numbers behind the report's charts, which the page's script draws."""
import csv
import logging
import math
import os
import re

import numpy as np

from common.files import open_regular_file
from common.metrics import precision_recall_curve, ratio
from evaluation.decisions import calibration_bins
from evaluation.history import COLUMNS, history_files

logger = logging.getLogger(__name__)

MAX_POINTS = 100  # per curve
MAX_CLASSES = 1000  # that have charts of their own, to bound the page
MAX_HISTORY_BYTES = 1 << 22


def charted_classes(label):
    """The classes that have charts of their own: those with the most present labels, a set."""
    return {*np.argsort(-np.count_nonzero(label > 0.5, axis=0), kind="stable")[:MAX_CLASSES]}


def precision_recall_curves(label, prob):
    """Curves of the classes with a present label, of MAX_POINTS at most, and their mean.

    Returns
    -------
    curves : dict of int to list
        [recall, precision], lists of equal length, by class; of `charted_classes` only.
    mean : list
        The mean precision of all classes on a grid of recall from 0 to 1.
    """
    curves, on_grid, charted = {}, [], charted_classes(label)
    grid = np.linspace(0, 1, MAX_POINTS + 1)
    for c in np.flatnonzero((label > 0.5).any(axis=0)):
        precision, recall = precision_recall_curve(label[:, c], prob[:, c])
        precision, recall = np.append(precision[0], precision), np.append(0, recall)
        # The best precision at this recall or a higher one: curves of few samples are jagged.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        on_grid.append(best[np.searchsorted(recall, grid - 1e-9)])
        keep = np.unique(np.linspace(0, len(recall) - 1, MAX_POINTS).astype(int))
        if c in charted:
            curves[int(c)] = [rounded(recall[keep]), rounded(precision[keep])]
    return curves, rounded(np.mean(on_grid, axis=0)) if on_grid else []


def calibration(bins, interval, label, prob):
    """Per bin that holds decisions: their number, mean probability and share of present labels.

    `bins` and `interval` are those of the Evaluation. Returns a dict: "all", with the ends of the
    share's interval too, and "classes", a dict by class of `charted_classes`.
    """
    count, probability, present = bins
    rows = np.stack([count, ratio(probability, count), ratio(present, count), *interval], axis=1)
    return {"all": [rounded(row, 4) for row in rows[count > 0]],
            "classes": {int(c): _class_calibration(label[:, [c]], prob[:, [c]])
                        for c in charted_classes(label)}}


def _class_calibration(label, prob):
    count, probability, present = calibration_bins(label, prob)
    rows = np.stack([count, ratio(probability, count), ratio(present, count)], axis=1)
    return [rounded(row, 4) for row in rows[count > 0]]


def read_history(prefix):
    """Rows of the history beside a checkpoint, oldest first: dicts of column to float.

    The table may be a stranger's. Without one there are no rows; where it cannot be read, a warning
    says why.
    """
    path, _ = history_files(re.sub("-best$", "", prefix))
    if not os.path.lexists(path):
        return []
    try:
        with open_regular_file(path, "r", newline="", encoding="utf-8") as file:
            text = file.read(MAX_HISTORY_BYTES)
        rows = [{name: round(float(row[name]), 6) for name in COLUMNS if row.get(name)}
                for row in csv.DictReader(text.splitlines())]
        if not all(0 <= row["epoch"] < 1e9 and row["epoch"] % 1 == 0 for row in rows):
            raise ValueError("an epoch is no whole number")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        logger.warning("warning: %s: not a history of epochs, and not in the report: %.200s", path,
                       reason)
        return []
    return [{name: value for name, value in row.items() if math.isfinite(value)}
            for row in sorted(rows, key=lambda row: row["epoch"])]


def rounded(values, digits=3):
    """The values as a list for JSON, None for NaN."""
    return [None if np.isnan(value) else round(float(value), digits) for value in values]
