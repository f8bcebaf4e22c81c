"""How much metrics depend on the choice of the images: intervals by drawing these anew.

Images are drawn with replacement, as many as there are, 1,000 times. An interval is the metric and
1.96 times its standard deviation over the draws on either side, within 0 and 1 (the standard normal
interval of Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). Percentiles of the
draws can miss the metric itself: an image that is drawn twice gives a rare class average precision.

A draw gives each image a weight, how often it came, so that many draws are computed at once.
"""
import warnings

import numpy as np

from common.metrics import ratio
from evaluation.decisions import calibration_bins_by_sample, decision_cells, decision_metrics

DRAWS, FEWEST_DRAWS = 1000, 200
# Draws times labels, above which there are fewer draws: 40,000 images of 80 classes took 19 s.
MAX_WORK = 3_200_000_000
AT_ONCE = 32  # draws, whose weights then mostly stay in the caches of a processor
QUANTILE = 1.959964  # of the normal distribution, at 97.5 %


def bootstrap(label, prob, decisions, draws=None, seed=0, other=None):
    """The intervals of an evaluation's metrics.

    Parameters
    ----------
    label, prob : np.ndarray, (samples, classes)
        Samples without a known label are never drawn.
    decisions : dict of str to np.ndarray of bool, (samples, classes)
        Predicted positives by decision rule.
    other : tuple of (prob, decisions), optional
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
        rule: predicted[labelled] for rule, predicted in decisions.items()})
        for prob, decisions in [(prob, decisions)] + [other] * bool(other)]

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


def _weighted_metrics(label, prob, decisions):
    """A function of weights, int16 (draws, samples): all metrics by name, each (draws, ...)."""
    precisions = [_weighted_precision(y, p) for y, p in zip(label.T, prob.T)]
    bins = calibration_bins_by_sample(label, prob)[[0, 2]]
    cells = {rule: decision_cells(label, predicted) for rule, predicted in decisions.items()}

    def metrics(weights):
        precision = np.stack([of_class(weights) for of_class in precisions], axis=1)
        ranked = ~np.isnan(precision)
        weights = weights.astype(np.float32)
        decided, present = weights @ bins
        values = {"AP": precision, "calibration": ratio(present, decided),
                  "mAP": ratio(np.where(ranked, precision, 0).sum(axis=1), ranked.sum(axis=1))}
        for rule, counted in cells.items():
            counts = {name: weights @ cell.astype(np.float32) for name, cell in counted.items()}
            values.update({(rule, name): value
                           for name, value in decision_metrics(counts).items()})
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

    def average_precision(weights):
        gained = np.add.reduceat(weights[:, present], first_present, axis=1, dtype=np.int32)
        predicted = np.add.reduceat(weights[:, ranked], starts, axis=1, dtype=np.int32)
        true_positives = np.cumsum(gained, axis=1)
        precision = ratio(true_positives, np.cumsum(predicted, axis=1), if_zero=0)
        return ratio((gained * precision).sum(axis=1), true_positives[:, -1])

    return average_precision
