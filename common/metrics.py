"""Rankings in numpy, and what they reach without the images.

multilabel_metric.py offers mAP as mx.metric.EvalMetric; metrics of decisions are in
evaluation/decisions.py. A label above 0.5 is present, one below 0 unknown, any other absent.
Unknown labels count nowhere.
"""
import numpy as np

# What `baselines` are the scores of.
BASELINES = {"acc": "the more frequent answer per class", "mAP": "random rankings",
             "OF1": "predicting every class", "CF1": "predicting every class"}


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


def ratio(part, whole, if_zero=np.nan):
    """part / whole, elementwise; `if_zero` where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), if_zero)


def baselines(positives, negatives):
    """What can be scored without looking at the images, by BASELINES: a dict of float.

    The mAP of random rankings is the expected one; for many samples that is the mean share of
    present labels. `positives` and `negatives` count present and absent labels, (classes,).
    """
    positives, known = np.asarray(positives, np.int64), np.asarray(positives + negatives, np.int64)
    has_labels = positives > 0
    # Before a present sample at place k of n, (k - 1)(p - 1) / (n - 1) of the p are expected.
    harmonic = np.append(0, np.cumsum(1 / np.arange(1, known.max(initial=0) + 1)))[known]
    precision = ratio(harmonic + ratio(positives - 1, known - 1, 1) * (known - harmonic), known)
    present = positives.sum()
    share = ratio(ratio(positives, known)[has_labels].sum(), has_labels.sum())  # the CP of "every"
    return {"acc": float(ratio(np.maximum(positives, negatives).sum(), known.sum())),
            "mAP": float(ratio(precision[has_labels].sum(), has_labels.sum())),
            "OF1": float(ratio(2 * present, present + known.sum())),
            "CF1": float(2 * share / (1 + share))}
