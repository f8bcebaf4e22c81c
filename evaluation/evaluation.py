"""All metrics of a network on labelled images, as a table for a terminal and as JSON."""
import math
from dataclasses import dataclass

import numpy as np

from common.metrics import BASELINES, average_precision, baselines
from common.text import encodable, printable
from evaluation.bootstrap import bootstrap
from evaluation.class_table import best_and_worst
from evaluation.decisions import (
    calibration_bins,
    count_decisions,
    decision_metrics,
    expected_calibration_error,
    per_class_metrics,
    top_k,
)
from evaluation.thresholds import DEFAULT, FOLDS

TOP = 3
NAMED = 5  # classes that a sentence names
CONSTANT = 1e-3  # range of a class's probabilities over the images that is no answer to them
CELLS = ("TP", "FP", "FN", "TN")


@dataclass
class LabelledImages:
    """Images of a .lst with their labels and predicted probabilities, both (samples, classes)."""

    names: list  # file names
    root: str  # folder that the names start from
    label: np.ndarray  # int8: 1 present, 0 absent, -1 unknown
    prob: np.ndarray  # float32
    list_name: str = ""


class Evaluation:
    """The metrics of predicted probabilities against labels; see evaluation/decisions.py.

    Parameters
    ----------
    class_names : list of str
    label, prob : np.ndarray, (samples, classes)
    thresholds : np.ndarray of (classes,), optional
        Chosen thresholds, to be evaluated beside 0.5.
    predicted : np.ndarray of bool, (samples, classes), optional
        Where the thresholds were chosen on these samples, which would make their metrics too good:
        the decisions of `cross_fitted` to evaluate in their place.

    Attributes
    ----------
    average_precision, support : np.ndarray, (classes,)
    mean_average_precision, calibration_error : float
    fitted_here : bool
        Whether the thresholds were chosen on these samples.
    wrong : np.ndarray of bool, (samples, classes)
        The decisions by `rule` that are wrong.
    calibration : np.ndarray, (3, bins)
    rule : str
        The decision rule that counts: "chosen" where there are chosen thresholds, else "0.5".
    overall : dict of str to dict of str to float
        By decision rule ("0.5", "chosen", "top-3", and two that look at no image: "constant", the
        more frequent answer per class, and "always", every class), then by metric.
    per_class : dict of str to dict of str to np.ndarray
        By decision rule ("0.5", "chosen"), then by metric.
    baselines : dict of str to float
        See common.metrics.baselines.
    intervals : dict of np.ndarray
        See `bootstrap`.
    """

    def __init__(self, class_names, label, prob, thresholds=None, predicted=None):
        self.class_names = list(class_names)
        self.num_samples = int((label >= 0).any(axis=1).sum())
        self.thresholds, self.fitted_here = thresholds, predicted is not None
        self.average_precision = np.array(
            [average_precision(y, p) for y, p in zip(label.T, prob.T)])
        ranked = self.average_precision[~np.isnan(self.average_precision)]
        self.mean_average_precision = float(ranked.mean()) if len(ranked) else math.nan
        self.calibration = calibration_bins(label, prob)
        self.calibration_error = expected_calibration_error(self.calibration)
        decisions = {"0.5": prob > DEFAULT}
        if thresholds is not None:
            decisions["chosen"] = prob > thresholds if predicted is None else predicted
        self.rule = list(decisions)[-1]
        self.wrong = ((label > 0.5) != decisions[self.rule]) & (label >= 0)
        self.per_class = {rule: per_class_metrics(count_decisions(label, positive))
                          for rule, positive in decisions.items()}
        self.support = self.per_class["0.5"]["support"]
        negatives = np.count_nonzero(label >= 0, axis=0) - self.support
        self.baselines = baselines(self.support, negatives)
        self.is_constant = bool(len(prob) > 1 and np.ptp(prob, axis=0).max() < CONSTANT)
        self.intervals = bootstrap(label, prob, decisions)
        decisions[f"top-{TOP}"] = top_k(prob, TOP)
        decisions["constant"] = np.broadcast_to(self.support > negatives, label.shape)
        decisions["always"] = np.ones(label.shape, bool)
        self.overall = {rule: decision_metrics(count_decisions(label, positive))
                        for rule, positive in decisions.items()}

    def class_thresholds(self):
        """The threshold of each class by `rule`: (classes,)."""
        return np.full(len(self.class_names), DEFAULT) if self.rule == "0.5" else self.thresholds

    def lines(self):
        """Yield the lines of a table for a terminal."""
        low, high = self.intervals["mAP"]
        yield (f"{counted(self.num_samples, 'image')}, "
               f"{counted(len(self.class_names), 'class', 'classes')}: "
               f"mAP {self.mean_average_precision:.4f} (95 % interval {low:.4f} to {high:.4f}, "
               f"guessing {self.baselines['mAP']:.4f}), ECE {self.calibration_error:.4f} (expected "
               "calibration error)")
        yield f"{'predicted':>9}" + "".join(f"{name:>9}" for name in self.overall["0.5"])
        for rule, values in self.overall.items():
            condition = f"> {rule}" if rule in self.per_class else rule
            yield f"{condition:>9}" + "".join(f"{value:9.4f}" for value in values.values())
        yield (f"95 % intervals, > {self.rule}: " + ", ".join(
            f"{name} {low:.4f} to {high:.4f}" for name, (low, high) in (
                (name, self.intervals[self.rule, name]) for name in ("CF1", "OF1"))))
        yield ("constant: the more frequent answer per class; always: every class. CP, CR, CF1: "
               "precision, recall, F1 averaged over classes; OP, OR, OF1: over all decisions")
        if self.fitted_here:
            yield ("chosen: each image is decided by thresholds that the other "
                   f"{FOLDS - 1} of {FOLDS} folds of these images chose")
        yield from self.conclusions()
        counts = self.per_class[self.rule]
        columns = {name: [str(count) for count in counts[name]] for name in CELLS}
        columns["threshold"] = [f"{threshold:.3f}" for threshold in self.class_thresholds()]
        yield from best_and_worst(self.class_names, self.average_precision, self.support,
                                  columns=columns)

    def conclusions(self):
        """Yield what the metrics mean for who relies on the decisions: sentences.

        A sentence that begins with "warning: " names a metric that does not beat its baseline.
        """
        rates, counts = self.overall[self.rule], self.per_class[self.rule]
        if not self.support.any():
            return
        at, before = "a threshold of 0.5", ""
        if self.rule == "chosen":
            at = "the class's threshold"
            before = "; at 0.5 {OR:.0%} and {OP:.0%}, CF1 {CF1:.3f}, OF1 {OF1:.3f}".format(
                **_without_nan(self.overall["0.5"]))
        yield ("At {at} {OR:.0%} of the labels are found, and {OP:.0%} of the predictions are "
               "right (CF1 {CF1:.3f}, OF1 {OF1:.3f}){before}".format(
                   at=at, before=before, **_without_nan(rates)))
        labelled = np.count_nonzero(self.support)
        for answer, absent in (("never predicted", ("TP", "FP")),
                               ("predicted on every image", ("TN", "FN"))):
            found = np.flatnonzero((sum(counts[name] for name in absent) == 0)
                                   & (self.support > 0))
            if len(found):
                more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
                names = ", ".join(printable(self.class_names[c]) for c in found[:NAMED])
                yield (f"{len(found)} of {counted(labelled, 'class', 'classes')} with labels "
                       f"{'is' if len(found) == 1 else 'are'} {answer}: {names}{more}")
        if self.is_constant:
            yield "warning: the network gives every image the same answer"
        poor, acc = False, 1 - self.overall["0.5"]["hamming"]  # thresholds for F1 lower it
        for name, value in (("mAP", self.mean_average_precision), ("acc", acc),
                            ("CF1", rates["CF1"]), ("OF1", rates["OF1"])):
            baseline, of = self.baselines[name], BASELINES[name]
            interval = self.intervals.get(name, self.intervals.get((self.rule, name)))
            low, high = (value, value) if interval is None else interval
            if value <= baseline and not low < baseline < high:
                yield f"warning: {name} {value:.4f} is not above the {baseline:.4f} of {of}"
            elif low < baseline < high:
                yield (f"warning: {name} {value:.4f} is not distinguishable from the "
                       f"{baseline:.4f} of {of} on {counted(self.num_samples, 'image')}")
            poor |= name == "mAP" and low <= baseline
        if poor:
            yield ("What to do next: look at what the network gets (lst_iter.py --show), check the "
                   "labels (tools/make_lst.py check and suspects), label more images")

    def as_json(self, names=()):
        """The metrics as JSON values; None where a metric is undefined.

        "mistakes" has, by the names of the images, the numbers of the classes that are wrong.
        """
        classes = [
            {"class": name, "support": int(self.support[c]), "AP": self.average_precision[c],
             "AP_interval": list(self.intervals["AP"][:, c]),
             "threshold": self.class_thresholds()[c],
             **{rule: {key: values[key][c] for key in ("precision", "recall", "F1", *CELLS)}
                for rule, values in self.per_class.items()}}
            for c, name in enumerate(self.class_names)]
        intervals = {rule: {name: list(self.intervals[rule, name]) for name in ("CF1", "OF1")}
                     for rule in self.per_class}
        return _json_values({
            "images": self.num_samples, "mAP": self.mean_average_precision,
            "ECE": self.calibration_error, "decisions": self.overall, "baselines": self.baselines,
            "intervals": {"mAP": list(self.intervals["mAP"]),
                          "decisions": intervals},
            "rule": self.rule, "fitted_on_these_images": self.fitted_here,
            "conclusions": list(self.conclusions()), "classes": classes,
            "mistakes": {encodable(name): np.flatnonzero(wrong).tolist()
                         for name, wrong in zip(names, self.wrong)}})


def _without_nan(rates):
    return {name: 0 if math.isnan(value) else value for name, value in rates.items()}


def counted(count, noun, plural=None):
    """How many there are of something, such as "1 class"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _json_values(value):
    """The value with None for NaN, which JSON lacks, and Python's numbers for numpy's."""
    if isinstance(value, dict):
        return {key: _json_values(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json_values(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
