"""All metrics of a network on labelled images, as a table for a terminal and as JSON."""
import math
from dataclasses import dataclass

import numpy as np

from common.metrics import (
    average_precision,
    calibration_bins,
    count_decisions,
    decision_metrics,
    expected_calibration_error,
    per_class_metrics,
    top_k,
)
from evaluation.class_table import best_and_worst
from evaluation.thresholds import DEFAULT

TOP = 3


@dataclass
class LabelledImages:
    """Images of a .lst with their labels and predicted probabilities, both (samples, classes)."""

    names: list  # file names
    root: str  # folder that the names start from
    label: np.ndarray  # int8: 1 present, 0 absent, -1 unknown
    prob: np.ndarray  # float32


class Evaluation:
    """The metrics of predicted probabilities against labels; see evaluation/metrics.py.

    Parameters
    ----------
    class_names : list of str
    label, prob : np.ndarray, (samples, classes)
    thresholds : np.ndarray of (classes,), optional
        Chosen thresholds, to be evaluated beside 0.5.

    Attributes
    ----------
    average_precision, support : np.ndarray, (classes,)
    mean_average_precision, calibration_error : float
    calibration : np.ndarray, (3, bins)
    overall : dict of str to dict of str to float
        By decision rule ("0.5", "chosen", "top-3"), then by metric.
    per_class : dict of str to dict of str to np.ndarray
        By decision rule ("0.5", "chosen"), then by metric.
    """

    def __init__(self, class_names, label, prob, thresholds=None):
        self.class_names = list(class_names)
        self.num_samples = int((label >= 0).any(axis=1).sum())
        self.thresholds = thresholds
        self.average_precision = np.array(
            [average_precision(y, p) for y, p in zip(label.T, prob.T)])
        ranked = self.average_precision[~np.isnan(self.average_precision)]
        self.mean_average_precision = float(ranked.mean()) if len(ranked) else math.nan
        self.calibration = calibration_bins(label, prob)
        self.calibration_error = expected_calibration_error(self.calibration)
        decisions = {"0.5": prob > DEFAULT}
        if thresholds is not None:
            decisions["chosen"] = prob > thresholds
        counts = {rule: count_decisions(label, positive) for rule, positive in decisions.items()}
        self.per_class = {rule: per_class_metrics(count) for rule, count in counts.items()}
        self.support = self.per_class["0.5"]["support"]
        counts[f"top-{TOP}"] = count_decisions(label, top_k(prob, TOP))
        self.overall = {rule: decision_metrics(count) for rule, count in counts.items()}

    def lines(self):
        """Yield the lines of a table for a terminal."""
        yield (f"{self.num_samples} images, {len(self.class_names)} classes: "
               f"mAP {self.mean_average_precision:.4f}, ECE {self.calibration_error:.4f}")
        yield f"{'predicted':>9}" + "".join(f"{name:>9}" for name in self.overall["0.5"])
        for rule, values in self.overall.items():
            condition = rule if rule == f"top-{TOP}" else f"> {rule}"
            yield f"{condition:>9}" + "".join(f"{value:9.4f}" for value in values.values())
        yield from best_and_worst(self.class_names, self.average_precision, self.support)

    def as_json(self):
        """The metrics as JSON values; None where a metric is undefined."""
        classes = [
            {"class": name, "support": int(self.support[c]), "AP": self.average_precision[c],
             "threshold": DEFAULT if self.thresholds is None else self.thresholds[c],
             **{rule: {key: values[key][c] for key in ("precision", "recall", "F1")}
                for rule, values in self.per_class.items()}}
            for c, name in enumerate(self.class_names)]
        return _json_values({
            "images": self.num_samples, "mAP": self.mean_average_precision,
            "ECE": self.calibration_error, "decisions": self.overall, "classes": classes})


def _json_values(value):
    """The value with None for NaN, which JSON lacks, and Python's numbers for numpy's."""
    if isinstance(value, dict):
        return {key: _json_values(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json_values(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
