"""Metrics of multi-label classification in numpy: rankings, decisions, calibration.

    average_precision(label[:, 0], prob[:, 0])
    decision_metrics(count_decisions(label, prob > 0.5))["CF1"]

multilabel_metric.py offers them as mx.metric.EvalMetric, evaluation.py as tables. A label above
0.5 is present, one below 0 unknown, any other absent. Unknown labels count nowhere.

CP, CR and CF1 average over classes, OP, OR and OF1 are over all decisions, as in Wang et al.,
"CNN-RNN: A Unified Framework for Multi-label Image Classification", CVPR 2016
(https://arxiv.org/abs/1604.04573).

A division by zero gives NaN, as in scikit-learn with zero_division=nan: precision of a class
without predicted positives, recall of a class without present labels, F1 where both are lacking.
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
    """Counts of correct and wrong decisions; those of several batches add up.

    Attributes
    ----------
    true_positives, false_positives, false_negatives, true_negatives : np.ndarray
        (classes,), int64.
    exact : int
        Samples whose known labels were all predicted correctly.
    samples : int
        Samples with a known label.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    true_negatives: np.ndarray
    exact: int
    samples: int

    def __add__(self, other):
        return Counts(*(mine + its for mine, its in zip(astuple(self), astuple(other))))


def count_decisions(label, predicted):
    """Compare decisions with labels.

    Parameters
    ----------
    label : np.ndarray, (samples, classes)
    predicted : np.ndarray, (samples, classes), bool
        Predicted positives.

    Returns
    -------
    Counts
    """
    known = label >= 0
    present = label > 0.5
    labelled = known.any(axis=1)
    correct = ((predicted == present) | ~known).all(axis=1)
    cells = (predicted & present, predicted & ~present, ~predicted & present,
             ~predicted & ~present)
    return Counts(*(np.count_nonzero(known & cell, axis=0).astype(np.int64) for cell in cells),
                  exact=int((correct & labelled).sum()), samples=int(labelled.sum()))


def top_k(score, k):
    """Predict each sample's k highest scores as positive.

    Of equal scores the class with the lower number comes first.

    Parameters
    ----------
    score : np.ndarray, (samples, classes)
    k : int

    Returns
    -------
    np.ndarray, (samples, classes), bool
    """
    predicted = np.zeros(score.shape, bool)
    first = np.argsort(-score, axis=1, kind="stable")[:, :k]
    np.put_along_axis(predicted, first, True, axis=1)
    return predicted


def ratio(part, whole, if_zero=np.nan):
    """part / whole, elementwise; `if_zero` where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.where(whole > 0, part / np.maximum(whole, 1), if_zero)


def per_class_metrics(counts):
    """Precision, recall, F1 and support of each class.

    Returns
    -------
    dict of str to np.ndarray, (classes,)
        precision: NaN without predicted positives; recall: NaN without present labels;
        F1: NaN without either; support: number of present labels.
    """
    support = counts.true_positives + counts.false_negatives
    predicted = counts.true_positives + counts.false_positives
    return {"precision": ratio(counts.true_positives, predicted),
            "recall": ratio(counts.true_positives, support),
            "F1": ratio(2 * counts.true_positives, support + predicted), "support": support}


def decision_metrics(counts):
    """Metrics over all classes.

    Returns
    -------
    dict of str to float
        CP, CR: precision and recall, averaged over the classes that have a present label, and
        CF1, their harmonic mean; as in the literature, the precision of a class without predicted
        positives counts as 0 there. OP, OR, OF1: the same over all decisions at once.
        hamming: share of wrong decisions. exact: share of samples without a wrong decision.
        NaN where there is nothing to average.
    """
    classes = per_class_metrics(counts)
    has_labels = classes["support"] > 0
    correct, support = counts.true_positives.sum(), classes["support"].sum()
    predicted = correct + counts.false_positives.sum()
    wrong = counts.false_positives.sum() + counts.false_negatives.sum()
    decisions = wrong + correct + counts.true_negatives.sum()
    cp, cr = np.nan, np.nan
    if has_labels.any():
        cp = np.nan_to_num(classes["precision"][has_labels]).mean()
        cr = classes["recall"][has_labels].mean()
    values = {"CP": cp, "CR": cr, "CF1": _harmonic(cp, cr), "OP": ratio(correct, predicted),
              "OR": ratio(correct, support), "OF1": ratio(2 * correct, predicted + support),
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
        Per bin: number of decisions, sum of their probabilities, number of present labels. The
        arrays of several batches add up.
    """
    known = label >= 0
    prob, present = prob[known].astype(np.float64), label[known] > 0.5
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], prob)
    return np.stack([np.bincount(place, weights, bins)
                     for weights in (np.ones(len(prob)), prob, present)])


def expected_calibration_error(bins):
    """The mean distance between probabilities and the share of labels that are present.

    With B_m the decisions (one per sample and class) whose probability falls into bin m:
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
