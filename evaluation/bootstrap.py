"""How much metrics depend on the choice of the images: intervals by drawing these anew.

    intervals = bootstrap(label, prob, {"0.5": prob > 0.5})
    low, high = intervals["mAP"]

Images are drawn with replacement, as many as there are, 1,000 times. An interval is the metric and
1.96 times its standard deviation over the draws on either side, within 0 and 1 (the standard normal
interval of Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). Percentiles of the
draws can miss the metric itself: an image that is drawn twice gives a rare class average precision.

A draw gives each image a weight, how often it came, so that many draws are computed at once.
"""
import warnings

import numpy as np

from common.metrics import ratio
from evaluation.decisions import (
    Counts,
    calibration_bins_by_sample,
    decision_cells,
    decision_metrics,
)

DRAWS, FEWEST_DRAWS = 1000, 200
# Draws times labels, above which there are fewer draws: 40,000 images of 80 classes took 19 s.
MAX_WORK = 3_200_000_000
AT_ONCE = 32  # draws, whose weights then mostly stay in the caches of a processor
QUANTILE = 1.959964  # of the normal distribution, at 97.5 %


def bootstrap(label, prob, decisions, draws=None, seed=0):
    """The intervals of an evaluation's metrics.

    Parameters
    ----------
    label, prob : np.ndarray, (samples, classes)
        Samples without a known label are never drawn.
    decisions : dict of str to np.ndarray of bool, (samples, classes)
        Predicted positives by decision rule.
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
    metrics = _WeightedMetrics(label[labelled], prob[labelled], {
        rule: predicted[labelled] for rule, predicted in decisions.items()})
    random, count = np.random.default_rng(seed), len(labelled)
    draws = draws or max(FEWEST_DRAWS, min(DRAWS, MAX_WORK // max(1, label.size)))
    values = metrics(np.ones((1, count), np.int16))
    drawn = [metrics(np.stack([np.bincount(random.integers(0, count, count), minlength=count)
                               for _ in range(min(AT_ONCE, draws - first))]).astype(np.int16))
             for first in range(0, draws if count else 0, AT_ONCE)]
    return {name: _interval(value[0], [part[name] for part in drawn])
            for name, value in values.items()}


def _interval(value, drawn):
    if not drawn:
        return np.full((2, *value.shape), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of fewer than two values
        margin = QUANTILE * np.nanstd(np.concatenate(drawn), axis=0, ddof=1)
    return np.clip([value - margin, value + margin], 0, 1)


class _WeightedMetrics:
    """All metrics of samples under many weightings at once."""

    def __init__(self, label, prob, decisions):
        self._rankings = [_Ranking(y, p) for y, p in zip(label.T, prob.T)]
        self._bins = calibration_bins_by_sample(label, prob)[[0, 2]]
        self._cells = {rule: decision_cells(label, predicted)
                       for rule, predicted in decisions.items()}

    def __call__(self, weights):
        """Metrics by name, each (draws, ...); `weights`: int16, (draws, samples)."""
        precision = np.stack([ranking.average_precision(weights) for ranking in self._rankings],
                             axis=1)
        ranked = ~np.isnan(precision)
        weights = weights.astype(np.float32)
        decided, present = weights @ self._bins
        values = {"AP": precision, "calibration": ratio(present, decided),
                  "mAP": ratio(np.where(ranked, precision, 0).sum(axis=1), ranked.sum(axis=1))}
        for rule, cells in self._cells.items():
            counts = Counts(*(weights @ cell.astype(np.float32) for cell in vars(cells).values()))
            values.update({(rule, name): value
                           for name, value in decision_metrics(counts).items()})
        return values


class _Ranking:
    """One class, ranked once, so that its average precision under weights is sums only."""

    def __init__(self, label, score):
        known = np.flatnonzero(label >= 0)
        order = known[np.argsort(-score[known], kind="stable")]
        score, present = score[order], np.flatnonzero(label[order] > 0.5)
        # Only the thresholds at which recall grows count: scores that a present sample has.
        last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
        ends, self._first_present = np.unique(last[np.searchsorted(last, present)],
                                              return_index=True)
        self._present, self._ranked = order[present], order[:ends[-1] + 1] if len(ends) else None
        self._starts = np.append(0, ends[:-1] + 1)

    def average_precision(self, weights):
        """Average precision per draw, (draws,); NaN where no label is present."""
        if not len(self._present):
            return np.full(len(weights), np.nan)
        gained = _sums(weights[:, self._present], self._first_present)
        predicted = np.cumsum(_sums(weights[:, self._ranked], self._starts), axis=1)
        true_positives = np.cumsum(gained, axis=1)
        precision = ratio(true_positives, predicted, if_zero=0)
        return ratio((gained * precision).sum(axis=1), true_positives[:, -1])


def _sums(weights, starts):
    """Sums of the columns from each start to the next."""
    return np.add.reduceat(weights, starts, axis=1, dtype=np.int32)
