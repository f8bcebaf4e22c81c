"""Rankings in numpy.

multilabel_metric.py offers mAP as mx.metric.EvalMetric; metrics of decisions are in
evaluation/decisions.py. A label above 0.5 is present, one below 0 unknown, any other absent.
Unknown labels count nowhere.
"""
import numpy as np


def ranking(label, score):
    """The counts of one class at every threshold, the strictest first.

    `label`, of which one must be known, and `score`, higher for likelier present, are (samples,).
    Samples of equal score are on the same side of a threshold. Returns the different scores, and
    how many true positives and how many samples have this score or a higher one: (thresholds,).
    """
    known = label >= 0
    present, score = label[known] > 0.5, score[known]
    order = np.argsort(-score, kind="stable")
    score, true_positives = score[order], np.cumsum(present[order])
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    return score[last], true_positives[last], last + 1


def precision_recall_curve(label, score):
    """Precision and recall, as `ranking`, of a class with a present label."""
    _, true_positives, predicted = ranking(label, score)
    return true_positives / predicted, true_positives / true_positives[-1]


def average_precision(label, score):
    """Average precision of one class, 0 to 1; NaN where no label is present.

    Over all points, as sklearn.metrics.average_precision_score: the sum over thresholds of
    (recall gained) * precision. `label` and `score` as for `ranking`.
    """
    if not (label > 0.5).any():
        return float("nan")
    precision, recall = precision_recall_curve(label, score)
    return float(np.sum(np.diff(recall, prepend=0) * precision))
