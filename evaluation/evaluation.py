"""All metrics of a network on labelled images, with intervals: as lines, as JSON, and beside those
of another run.

An interval says how much a metric depends on the choice of the images. Images are drawn anew with
replacement, as many as there are, 1,000 times, and the interval is the metric and 1.96 times its
standard deviation over the draws on either side, within 0 and 1 (the standard normal interval of
Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). Percentiles of the draws can miss
the metric itself: an image that is drawn twice gives a rare class average precision.
"""
import math
import os
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from common.files import open_regular_file
from common.json_text import parse_json
from common.metrics import average_precision
from common.text import counted, encodable
from evaluation import decisions
from evaluation.decisions import BASELINES, CELLS, baselines, ratio
from evaluation.thresholds import DEFAULT, FOLDS
from reading.classes import named

TOP = 3
MAX_PROBABILITIES = 4_000_000  # in the JSON: 50 MB
NAMED = 5  # classes that a sentence names
CONSTANT = 1e-3  # range of a class's probabilities over the images that is no answer to them
MAX_BYTES = 1 << 28  # of the JSON that is read
DRAWS, FEWEST_DRAWS = 1000, 200
# Draws times labels, above which there are fewer draws: 40,000 images of 80 classes took 19 s.
MAX_WORK = 3_200_000_000
AT_ONCE = 32  # draws, whose weights then mostly stay in the caches of a processor
QUANTILE = 1.959964  # of the normal distribution, at 97.5 %


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
    label, prob : np.ndarray, (samples, classes)
    thresholds : np.ndarray of (classes,), optional
        Chosen thresholds, to be evaluated beside 0.5.
    predicted : np.ndarray of bool, (samples, classes), optional
        The decisions to evaluate where the thresholds were chosen on these samples, which makes
        their own metrics too good; see `cross_fitted`.

    Attributes
    ----------
    rule : str
        The decision rule that counts: "chosen" where there are chosen thresholds, else "0.5".
    thresholds, average_precision, support : np.ndarray, (classes,)
    mean_average_precision, calibration_error : float
    wrong : np.ndarray of bool, (samples, classes)
        The decisions by `rule` that are wrong.
    calibration, baselines, intervals
        Sums over the samples of `calibration_bins`; see decisions.baselines and `bootstrap`.
    per_class, overall : dict of str to dict of str to np.ndarray and float
        By decision rule ("0.5", "chosen"; overall also "top-3" and two that look at no image,
        "constant", the more frequent answer per class, and "always", every class), then by metric.
    """

    def __init__(self, class_names, label, prob, thresholds=None, predicted=None):
        self.class_names, self.prob = list(class_names), prob
        self.num_samples = int((label >= 0).any(axis=1).sum())
        self.fitted_here = predicted is not None
        self.average_precision = np.array(
            [average_precision(y, p) for y, p in zip(label.T, prob.T)])
        ranked = self.average_precision[~np.isnan(self.average_precision)]
        self.mean_average_precision = float(ranked.mean()) if len(ranked) else math.nan
        self.calibration = decisions.calibration_bins(label, prob).sum(axis=1)
        self.calibration_error = decisions.expected_calibration_error(self.calibration)
        self.rule, self.thresholds = "0.5", np.full(len(self.class_names), DEFAULT)
        rules = {"0.5": prob > DEFAULT}
        if thresholds is not None:
            self.rule, self.thresholds = "chosen", thresholds
            rules["chosen"] = prob > thresholds if predicted is None else predicted
        self.wrong = ((label > 0.5) != rules[self.rule]) & (label >= 0)
        counts = {rule: decisions.count_decisions(label, positive)
                  for rule, positive in rules.items()}
        self.per_class = {rule: decisions.per_class_metrics(count)
                          for rule, count in counts.items()}
        self.support = self.per_class["0.5"]["support"]
        negatives = np.count_nonzero(label >= 0, axis=0) - self.support
        self.baselines = baselines(self.support, negatives)
        self.intervals = bootstrap(label, prob, rules)
        for rule, positive in ((f"top-{TOP}", decisions.top_k(prob, TOP)),
                               ("constant", np.broadcast_to(self.support > negatives, label.shape)),
                               ("always", np.ones(label.shape, bool))):
            counts[rule] = decisions.count_decisions(label, positive)
        self.overall = {rule: decisions.decision_metrics(count) for rule, count in counts.items()}

    def interval(self, name):
        """The 95 % interval of a metric over all classes, by `rule` if it is one of decisions."""
        return self.intervals.get(name, self.intervals.get((self.rule, name)))

    def lines(self):
        """Yield the lines of a table for a terminal."""
        low, high = self.interval("mAP")
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
            "{} {:.4f} to {:.4f}".format(name, *self.interval(name)) for name in ("CF1", "OF1")))
        yield ("constant: the more frequent answer per class; always: every class. CP, CR, CF1: "
               "precision, recall, F1 averaged over classes; OP, OR, OF1: over all decisions")
        if self.fitted_here:
            yield ("chosen: each image is decided by thresholds that the other "
                   f"{FOLDS - 1} of {FOLDS} folds of these images chose")
        yield from self.conclusions()
        counts = self.per_class[self.rule]
        columns = {name: [str(count) for count in counts[name]] for name in CELLS}
        columns["threshold"] = [f"{threshold:.3f}" for threshold in self.thresholds]
        yield from decisions.best_and_worst(self.class_names, self.average_precision, self.support,
                                            columns=columns)

    def conclusions(self):
        """Yield what the metrics mean for who relies on the decisions: sentences.

        A sentence that begins with "warning: " names a metric that does not beat its baseline.
        """
        if not self.support.any():
            return
        counts = self.per_class[self.rule]
        rates = {name: 0 if math.isnan(value) else value
                 for name, value in self.overall[self.rule].items()}
        at = "a threshold of 0.5" if self.rule == "0.5" else "the threshold of each class"
        yield ("At {at} {OR:.0%} of the labels are found, and {OP:.0%} of the predictions are "
               "right (CF1 {CF1:.3f}, OF1 {OF1:.3f})".format(at=at, **rates))
        labelled = np.count_nonzero(self.support)
        for answer, others in (("never predicted", counts["TP"] + counts["FP"]),
                               ("predicted on every image", counts["TN"] + counts["FN"])):
            found = np.flatnonzero((others == 0) & (self.support > 0))
            if len(found):
                names = named([self.class_names[c] for c in found], NAMED)
                yield (f"{len(found)} of {counted(labelled, 'class', 'classes')} with labels "
                       f"{'is' if len(found) == 1 else 'are'} {answer}: {names}")
        if len(self.prob) > 1 and np.ptp(self.prob, axis=0).max() < CONSTANT:
            yield "warning: the network gives every image the same answer"
        accuracy = 1 - self.overall["0.5"]["hamming"]  # thresholds for F1 lower it
        for name, value in (("mAP", self.mean_average_precision), ("acc", accuracy),
                            ("CF1", rates["CF1"]), ("OF1", rates["OF1"])):
            baseline, of = self.baselines[name], BASELINES[name]
            low, high = self.interval(name) if name != "acc" else (value, value)
            if value <= baseline and not low < baseline < high:
                yield f"warning: {name} {value:.4f} is not above the {baseline:.4f} of {of}"
            elif low < baseline < high:
                yield (f"warning: {name} {value:.4f} is not distinguishable from the "
                       f"{baseline:.4f} of {of} on {counted(self.num_samples, 'image')}")
        if self.interval("mAP")[0] <= self.baselines["mAP"]:
            yield ("What to do next: look at what the network gets (lst_iter.py --show), check the "
                   "labels (tools/make_lst.py check and suspects), label more images")

    def as_json(self, names=()):
        """The metrics as JSON values; None where a metric is undefined.

        "mistakes" has, by the names of the images, the numbers of the classes that are wrong, and
        "probabilities", unless there are more than MAX_PROBABILITIES, those of the classes.
        """
        classes = [
            {"class": name, "support": self.support[c], "AP": self.average_precision[c],
             "AP_interval": self.intervals["AP"][:, c], "threshold": self.thresholds[c],
             **{rule: {key: values[key][c] for key in ("precision", "recall", "F1", *CELLS)}
                for rule, values in self.per_class.items()}}
            for c, name in enumerate(self.class_names)]
        intervals = {rule: {name: self.intervals[rule, name] for name in ("CF1", "OF1")}
                     for rule in self.per_class}
        return _json_values({
            "images": self.num_samples, "mAP": self.mean_average_precision,
            "ECE": self.calibration_error, "decisions": self.overall, "baselines": self.baselines,
            "intervals": {"mAP": self.intervals["mAP"], "decisions": intervals},
            "rule": self.rule, "fitted_on_these_images": self.fitted_here,
            "conclusions": list(self.conclusions()), "classes": classes,
            "mistakes": {encodable(name): np.flatnonzero(wrong)
                         for name, wrong in zip(names, self.wrong)},
            "probabilities": {} if self.prob.size > MAX_PROBABILITIES else {
                encodable(name): [float(f"{p:.4g}") for p in row]
                for name, row in zip(names, self.prob)}})


def _json_values(value):
    """The value with None for NaN, which JSON lacks, and Python's numbers for numpy's."""
    if isinstance(value, dict):
        return {key: _json_values(part) for key, part in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [_json_values(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


class Differences(NamedTuple):
    """How decisions differ from another run's, on the images and classes of both."""

    only_right_here: list  # [sample, class] of each such decision
    only_right_there: list
    num_images: int
    intervals: dict  # by metric, np.ndarray, (2,): mAP, where the probabilities are known, and more


class Comparison(NamedTuple):
    """What the report shows of the other run; NaN where it has no such number."""

    title: str  # its recipe, folder and name
    values: dict  # mAP, ECE and the metrics of its decision rule, by name
    average_precision: np.ndarray  # (classes,)
    shared: list  # the classes that it has, too
    mistakes: dict  # by image, the numbers of the classes that it gets wrong
    prob: dict  # by image, its probabilities of the `shared` classes: np.ndarray; maybe empty

    def against(self, samples, wrong):
        """The Differences of a run to this other one.

        `samples` are LabelledImages; `wrong`, bool, (samples, classes), says which decisions on
        them are wrong.
        """
        names = [encodable(name) for name in samples.names]
        both = [s for s, name in enumerate(names) if name in self.mistakes]
        part = np.ix_(both, self.shared)
        here, there, prob = (np.zeros_like(array) for array in (wrong, wrong, samples.prob))
        here[part] = wrong[part]
        for s in both:
            there[s, self.mistakes[names[s]]] = True
            prob[s, self.shared] = self.prob.get(names[s], 0)
        present = samples.label[part] > 0.5
        intervals = bootstrap(samples.label[part], samples.prob[part], {"": present ^ here[part]},
                              other=(prob[part], {"": present ^ there[part]}))
        metrics = {name[1]: value for name, value in intervals.items() if name[0] == ""}
        if self.prob:
            metrics["mAP"] = intervals["mAP"]
        return Differences(np.argwhere(there & ~here).tolist(), np.argwhere(here & ~there).tolist(),
                           len(both), metrics)


def read_measures(path, class_names):
    """The Comparison in a file of --measures; an InputError where it is none, or of other classes.

    Its classes are found by their names, in any order.
    """
    try:
        with open_regular_file(path, "r", encoding="utf-8") as file:
            measures = parse_json(file.read(MAX_BYTES))
    except (OSError, InputError, UnicodeDecodeError) as error:
        raise InputError(getattr(error, "strerror", None) or str(error), file=path) from None
    try:
        ours = {name: c for c, name in enumerate(class_names)}
        place = {number: ours[item["class"]] for number, item in enumerate(measures["classes"])
                 if item["class"] in ours}
        precision = np.full(len(class_names), np.nan)
        for number, c in place.items():
            precision[c] = _number(measures["classes"][number]["AP"])
        values = {name: _number(value) for name, value in [
            ("mAP", measures["mAP"]), ("ECE", measures["ECE"]),
            *measures["decisions"][measures["rule"]].items()]}
        mistakes = {str(name): [place[number] for number in wrong if number in place]
                    for name, wrong in measures["mistakes"].items()}
        prob = {str(name): np.array([float(row[number]) for number in place], np.float32)
                for name, row in measures.get("probabilities", {}).items()}
        recipe = str(measures.get("recipe", "other run"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise InputError("not a file that {flag} of this version wrote", file=path,
                         flag="--measures") from None
    if not place:
        raise InputError("has none of the checkpoint's classes", file=path)
    folder, name = os.path.split(os.path.abspath(path))
    title = f"{recipe} ({os.path.join(os.path.basename(folder), name)})"
    return Comparison(title, values, precision, list(place.values()), mistakes, prob)


def _number(value):
    return np.nan if value is None else float(value)


def bootstrap(label, prob, rules, draws=None, seed=0, other=None):
    """The intervals of an evaluation's metrics.

    Parameters
    ----------
    label, prob : np.ndarray, (samples, classes)
        Samples without a known label are never drawn.
    rules : dict of str to np.ndarray of bool, (samples, classes)
        Predicted positives by decision rule.
    other : tuple of (prob, rules), optional
        Another network's, with the same rules, on the same samples: the intervals are then those of
        the metrics' differences to it, in which both share each draw.
    draws : int, optional
        Default: DRAWS, and for very many labels fewer, down to FEWEST_DRAWS.

    Returns
    -------
    dict of np.ndarray
        Lower and upper ends along the first axis; NaN where a metric is undefined. "mAP": (2,);
        "AP": (2, classes); "calibration", the share of present labels: (2, bins); (rule, metric)
        for the decision_metrics of each rule: (2,).
    """
    labelled = np.flatnonzero((label >= 0).any(axis=1))
    runs = [_weighted_metrics(label[labelled], prob[labelled], {
        rule: predicted[labelled] for rule, predicted in rules.items()})
        for prob, rules in [(prob, rules)] + [other] * bool(other)]

    def metrics(weights):
        here, *there = (run(weights) for run in runs)
        return {name: here[name] - there[0][name] for name in here} if there else here

    random, count = np.random.default_rng(seed), len(labelled)
    draws = draws or max(FEWEST_DRAWS, min(DRAWS, MAX_WORK // max(1, label.size)))
    values = metrics(np.ones((1, count), np.int16))
    drawn = [metrics(np.stack([np.bincount(random.integers(0, count, count), minlength=count)
                               for _ in range(min(AT_ONCE, draws - first))]).astype(np.int16))
             for first in range(0, draws if count else 0, AT_ONCE)]
    return {name: _interval(value[0], [part[name] for part in drawn], -1 if other else 0)
            for name, value in values.items()}


def _interval(value, drawn, least):
    if not drawn:
        return np.full((2, *value.shape), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of fewer than two values
        margin = QUANTILE * np.nanstd(np.concatenate(drawn), axis=0, ddof=1)
    return np.clip([value - margin, value + margin], least, 1)


def _weighted_metrics(label, prob, rules):
    """A function of weights, int16 (draws, samples): all metrics by name, each (draws, ...)."""
    precisions = [_weighted_precision(y, p) for y, p in zip(label.T, prob.T)]
    bins = decisions.calibration_bins(label, prob)[[0, 2]]
    cells = {rule: decisions.decision_cells(label, predicted) for rule, predicted in rules.items()}

    def metrics(weights):
        precision = np.stack([of_class(weights) for of_class in precisions], axis=1)
        ranked = ~np.isnan(precision)
        weights = weights.astype(np.float32)
        decided, present = weights @ bins
        values = {"AP": precision, "calibration": ratio(present, decided),
                  "mAP": ratio(np.where(ranked, precision, 0).sum(axis=1), ranked.sum(axis=1))}
        for rule, own in cells.items():
            counts = {name: weights @ cell.astype(np.float32) for name, cell in own.items()}
            values.update({(rule, name): value
                           for name, value in decisions.decision_metrics(counts).items()})
        return values

    return metrics


def _weighted_precision(label, score):
    """A function of weights, (draws, samples): a class's average precision, (draws,).

    The class is ranked once. NaN where no label is present.
    """
    known = np.flatnonzero(label >= 0)
    order = known[np.argsort(-score[known], kind="stable")]
    score, present = score[order], np.flatnonzero(label[order] > 0.5)
    if not len(present):
        return lambda weights: np.full(len(weights), np.nan)
    # Only the thresholds at which recall grows count: scores that a present sample has.
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    ends, first_present = np.unique(last[np.searchsorted(last, present)], return_index=True)
    present, ranked, starts = order[present], order[:ends[-1] + 1], np.append(0, ends[:-1] + 1)

    def precision_of_draws(weights):
        gained = np.add.reduceat(weights[:, present], first_present, axis=1, dtype=np.int32)
        predicted = np.add.reduceat(weights[:, ranked], starts, axis=1, dtype=np.int32)
        true_positives = np.cumsum(gained, axis=1)
        precision = ratio(true_positives, np.cumsum(predicted, axis=1), if_zero=0)
        return ratio((gained * precision).sum(axis=1), true_positives[:, -1])

    return precision_of_draws
