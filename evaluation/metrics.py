"""The measures themselves, in numpy: rankings, yes-or-no decisions, calibration.

    average_precision(label[:, 0], prob[:, 0])
    decision_measures(count_decisions(label, prob > 0.5))["CF1"]

multilabel_metric.py has them as mx.metric.EvalMetric, evaluation.py as tables. Labels: above 0.5
present, below 0 unknown, else absent. Unknown labels count nowhere.

CP, CR and CF1 average over classes, OP, OR and OF1 go over all decisions, as in Wang et al.,
"CNN-RNN: A Unified Framework for Multi-label Image Classification", CVPR 2016
(https://arxiv.org/abs/1604.04573).

What would divide by zero is NaN, as in scikit-learn with zero_division=nan: precision where
nothing was answered yes, recall where no label is present, F1 where both are so.
"""
from dataclasses import astuple, dataclass

import numpy as np

CALIBRATION_BINS = 15


def precision_recall_curve(label, score):
    """Precision and recall of one class at every threshold, the strictest first.

    Parameters
    ----------
    label : np.ndarray, (samples,)
        Above 0.5 present, below 0 unknown (left out), else absent. One must be present.
    score : np.ndarray, (samples,)
        Higher means likelier present. Samples of equal score share a threshold.

    Returns
    -------
    precision, recall : np.ndarray, (thresholds,)
    """
    known = label >= 0
    present, score = label[known] > 0.5, score[known]
    order = np.argsort(-score, kind="stable")
    score, found = score[order], np.cumsum(present[order])
    threshold = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    return found[threshold] / (threshold + 1), found[threshold] / found[-1]


def average_precision(label, score):
    """Average precision of one class, over all points, as scikit-learn defines it.

    The sum over thresholds of (recall gained) * precision; see
    sklearn.metrics.average_precision_score.

    Parameters
    ----------
    label, score : np.ndarray, (samples,)
        As `precision_recall_curve`.

    Returns
    -------
    float
        0 to 1; NaN where no label is present.
    """
    if not (label > 0.5).any():
        return float("nan")
    precision, recall = precision_recall_curve(label, score)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


@dataclass
class Counts:
    """What came of decisions; counts of several batches add up.

    Attributes
    ----------
    found, false_alarms, missed, absent : np.ndarray, (classes,), int64
        True positives, false positives, false negatives, true negatives.
    exact, samples : int
        Samples whose every known label was decided rightly, and samples with a known label.
    """

    found: np.ndarray
    false_alarms: np.ndarray
    missed: np.ndarray
    absent: np.ndarray
    exact: int
    samples: int

    def __add__(self, other):
        return Counts(*(mine + its for mine, its in zip(astuple(self), astuple(other))))


def count_decisions(label, yes):
    """Hold decisions against labels.

    Parameters
    ----------
    label : np.ndarray, (samples, classes)
    yes : np.ndarray, (samples, classes), bool

    Returns
    -------
    Counts
    """
    known = label >= 0
    present = label > 0.5
    judged = known.any(axis=1)
    right = ((yes == present) | ~known).all(axis=1)
    return Counts(*(np.count_nonzero(known & cell, axis=0).astype(np.int64) for cell in (
        yes & present, yes & ~present, ~yes & present, ~yes & ~present)),
        exact=int((right & judged).sum()), samples=int(judged.sum()))


def top_k(score, k):
    """Decisions that say yes to each sample's k highest scores.

    Of equal scores the class with the lower number goes first.

    Parameters
    ----------
    score : np.ndarray, (samples, classes)
    k : int

    Returns
    -------
    np.ndarray, (samples, classes), bool
    """
    yes = np.zeros(score.shape, bool)
    first = np.argsort(-score, axis=1, kind="stable")[:, :k]
    np.put_along_axis(yes, first, True, axis=1)
    return yes


def ratio(part, whole, of_nothing=np.nan):
    """part / whole, elementwise; `of_nothing` where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.where(whole > 0, part / np.maximum(whole, 1), of_nothing)


def per_class_measures(counts):
    """Precision, recall, F1 and support of each class.

    Returns
    -------
    dict of str to np.ndarray, (classes,)
        precision: NaN where nothing was answered yes; recall: NaN where no label is present;
        F1: NaN where both are so; support: number of present labels.
    """
    support = counts.found + counts.missed
    yes = counts.found + counts.false_alarms
    return {"precision": ratio(counts.found, yes), "recall": ratio(counts.found, support),
            "F1": ratio(2 * counts.found, support + yes), "support": support}


def decision_measures(counts):
    """The measures over all classes.

    Returns
    -------
    dict of str to float
        CP, CR: precision and recall, averaged over the classes that have a present label, and
        CF1, their harmonic mean; as the literature has it, the precision of a class never
        answered yes counts as 0 there. OP, OR, OF1: the same over all decisions at once.
        hamming: share of decisions that are wrong. exact: share of samples without a wrong one.
        NaN where there is nothing to average.
    """
    classes = per_class_measures(counts)
    has = classes["support"] > 0
    found, support = counts.found.sum(), classes["support"].sum()
    yes = found + counts.false_alarms.sum()
    wrong = counts.false_alarms.sum() + counts.missed.sum()
    decisions = wrong + found + counts.absent.sum()
    cp = np.nan_to_num(classes["precision"][has]).mean() if has.any() else np.nan
    cr = classes["recall"][has].mean() if has.any() else np.nan
    values = {"CP": cp, "CR": cr, "CF1": _harmonic(cp, cr), "OP": ratio(found, yes),
              "OR": ratio(found, support), "OF1": ratio(2 * found, yes + support),
              "hamming": ratio(wrong, decisions), "exact": ratio(counts.exact, counts.samples)}
    return {name: float(value) for name, value in values.items()}


def _harmonic(a, b):
    return 2 * a * b / (a + b) if a + b != 0 else 0.0


def calibration_bins(label, prob, bins=CALIBRATION_BINS):
    """Count decisions by their probability, in bins of equal width.

    A probability on the edge of two bins belongs to the lower one, as in scikit-learn.

    Returns
    -------
    np.ndarray, (3, bins), float64
        Of each bin: decisions, sum of their probabilities, present labels. Batches add up.
    """
    known = label >= 0
    prob, present = prob[known].astype(np.float64), label[known] > 0.5
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], prob)
    return np.stack([np.bincount(place, weights, bins)
                     for weights in (np.ones(len(prob)), prob, present)])


def expected_calibration_error(bins):
    """How far probabilities are from the share of labels that are present, on average.

    With B_m the decisions (one a sample and class) whose probability falls into bin m:
    sum over m of |B_m| / N * |mean probability of B_m - share of present labels in B_m|.
    It is Guo et al., "On Calibration of Modern Neural Networks", ICML 2017
    (https://arxiv.org/abs/1706.04599), with the probability of presence as the confidence.

    Parameters
    ----------
    bins : np.ndarray, (3, bins)
        From `calibration_bins`.

    Returns
    -------
    float
        0 to 1; NaN without decisions.
    """
    count, probability, present = bins
    return float(np.abs(probability - present).sum() / count.sum()) if count.any() else np.nan
