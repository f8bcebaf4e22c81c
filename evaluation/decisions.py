"""Metrics of decisions and of probabilities in numpy: precision, recall and their kin, calibration.

Labels are as in common/metrics.py: unknown ones count nowhere.

CP, CR and CF1 average over classes, OP, OR and OF1 are over all decisions, as in Wang et al.,
"CNN-RNN: A Unified Framework for Multi-label Image Classification", CVPR 2016
(https://arxiv.org/abs/1604.04573).

A division by zero gives NaN, as in scikit-learn with zero_division=nan: precision of a class
without predicted positives, recall of a class without present labels, F1 where both are lacking.
"""
import math

import numpy as np

from common.text import printable

CALIBRATION_BINS = 15
CELLS = ("TP", "FP", "FN", "TN")
# What `baselines` are the scores of.
BASELINES = {"acc": "the more frequent answer per class", "mAP": "random rankings",
             "OF1": "predicting every class", "CF1": "predicting every class"}


def ratio(part, whole, if_zero=np.nan):
    """part / whole, elementwise; `if_zero` where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), if_zero)


def decision_cells(label, predicted):
    """What `count_decisions` counts in each sample alone: bool."""
    known, present = label >= 0, label > 0.5
    labelled = known.any(axis=1)
    return {"TP": present & predicted, "FP": known & ~present & predicted,
            "FN": present & ~predicted, "TN": known & ~present & ~predicted,
            "exact": labelled & ((predicted == present) | ~known).all(axis=1), "samples": labelled}


def count_decisions(label, predicted):
    """Count correct and wrong decisions: a dict of int64, which add up over batches.

    TP, FP, FN, TN: (classes,). exact: the samples whose known labels were all predicted correctly.
    samples: those with a known label. `predicted`, bool, are the predicted positives; both arrays
    are (samples, classes).
    """
    return {name: cells.sum(axis=0, dtype=np.int64)
            for name, cells in decision_cells(label, predicted).items()}


def top_k(score, k):
    """Predict each sample's k highest scores as positive: (samples, classes), bool.

    Of equal scores the class with the lower number comes first.
    """
    predicted = np.zeros(score.shape, bool)
    first = np.argsort(-score, axis=1, kind="stable")[:, :k]
    np.put_along_axis(predicted, first, True, axis=1)
    return predicted


def per_class_metrics(counts):
    """precision, recall, F1, support (number of present labels), TP, FP, FN, TN: (classes,)."""
    support, predicted = counts["TP"] + counts["FN"], counts["TP"] + counts["FP"]
    return {"precision": ratio(counts["TP"], predicted), "recall": ratio(counts["TP"], support),
            "F1": ratio(2 * counts["TP"], support + predicted), "support": support,
            **{name: counts[name] for name in CELLS}}


def decision_metrics(counts):
    """Metrics over all classes: a dict of float, or of arrays where the counts have further axes.

    CP, CR: precision and recall, averaged over the classes that have a present label, and CF1,
    their harmonic mean; as in the literature, the precision of a class without predicted positives
    counts as 0 there. OP, OR, OF1: the same over all decisions at once. hamming: share of wrong
    decisions. exact: share of samples without a wrong decision.
    """
    classes = per_class_metrics(counts)
    has_labels = classes["support"] > 0
    correct, false_positives, false_negatives, true_negatives = (
        counts[name].sum(axis=-1) for name in CELLS)
    support, predicted = correct + false_negatives, correct + false_positives
    wrong = false_positives + false_negatives
    cp, cr = (ratio(np.where(has_labels, np.nan_to_num(classes[name]), 0).sum(axis=-1),
                    has_labels.sum(axis=-1)) for name in ("precision", "recall"))
    cf1 = ratio(2 * cp * cr, cp + cr, if_zero=np.where(np.isnan(cp), np.nan, 0))
    values = {"CP": cp, "CR": cr, "CF1": cf1, "OP": ratio(correct, predicted),
              "OR": ratio(correct, support), "OF1": ratio(2 * correct, predicted + support),
              "hamming": ratio(wrong, wrong + correct + true_negatives),
              "exact": ratio(counts["exact"], counts["samples"])}
    return {name: value if value.ndim else float(value) for name, value in values.items()}


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


def calibration_bins(label, prob, bins=CALIBRATION_BINS):
    """Count decisions by their probability, in bins of equal width: (3, samples, bins), float64.

    Per sample and bin: number of decisions, sum of their probabilities, number of present labels.
    A probability on the edge of two bins belongs to the lower one, as in scikit-learn.
    """
    sample, _ = known = np.nonzero(label >= 0)
    prob, present = prob[known].astype(np.float64), label[known] > 0.5
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], prob) + sample * bins
    return np.stack([np.bincount(place, weights, len(label) * bins).reshape(-1, bins)
                     for weights in (np.ones(len(prob)), prob, present)])


def expected_calibration_error(bins):
    """The mean distance between probabilities and the share of labels present.

    `bins` are the sums over the samples of `calibration_bins`, (3, bins). With B_m the decisions
    (one per sample and class) whose probability falls into bin m:
    sum over m of |B_m| / N * |mean probability of B_m - share of present labels in B_m|, 0 to 1;
    NaN without decisions. It is Guo et al., "On Calibration of Modern Neural Networks", ICML 2017
    (https://arxiv.org/abs/1706.04599), with the probability of presence as the confidence.
    """
    count, probability, present = bins
    return float(np.abs(probability - present).sum() / count.sum()) if count.any() else np.nan


def best_and_worst(class_names, average_precision, support, count=5, columns=None):
    """The classes of the highest and of the lowest average precision, as lines of a table.

    `count` classes at each end; all where there are no more than twice as many. Those without a
    present label, which have NaN, are left out. `support` has the number of present labels, and
    `columns` further ones by their head: for each class a text.
    """
    columns = {"AP": [f"{value:6.4f}" for value in average_precision],
               "labels": [str(number) for number in support], **(columns or {})}
    widths = [max(map(len, [head, *texts])) for head, texts in columns.items()]

    def line(cells, name):
        return "".join(f"{cell:>{width}}  " for cell, width in zip(cells, widths)) + name

    order = np.argsort(-np.asarray(average_precision), kind="stable")
    rows = [line([texts[c] for texts in columns.values()], printable(class_names[c]))
            for c in order if not math.isnan(average_precision[c])]
    without = len(class_names) - len(rows)
    if len(rows) > 2 * count:
        rows[count:-count] = ["   ..."]
    if without:
        rows.append(f"{without} {'classes have' if without > 1 else 'class has'} no present label")
    return [line(columns, "class"), *rows]
