"""Choosing the probability above which a class counts as present, from labelled samples."""
import numpy as np

from common.metrics import ranking

DEFAULT = 0.5
NEVER = 1.0  # no probability is above it
ALWAYS = -1.0  # every probability is above it


def choose_threshold(label, prob, min_precision=None):
    """The best threshold of one class on samples with `label` and `prob`, both (samples,).

    A sample with `prob > threshold` is predicted positive. The threshold has the highest F1, or,
    with `min_precision`, the highest recall at this precision or a higher one, 0 to 1. It lies
    halfway between two probabilities of the samples; of several equally good ones it is the
    highest. NEVER where no threshold reaches the precision; ALWAYS where a probability of 0 is to
    be predicted positive; None where no label is present.

    Example
    -------
    >>> choose_threshold(np.array([1, 1, 0, 0]), np.array([.9, .5, .25, .1]))
    0.375
    """
    if not (label > 0.5).any():
        return None
    prob, true_positives, predicted = ranking(label, prob.astype(np.float64))
    if min_precision is None:
        best = np.argmax(true_positives / (predicted + true_positives[-1]))  # half the F1
    else:
        precise = true_positives / predicted >= min_precision
        if not precise.any():
            return NEVER
        best = np.argmax(np.where(precise, true_positives, -1))
    lowest, below = np.append(prob, 0)[best:best + 2]
    return float((lowest + below) / 2) if lowest > 0 else ALWAYS


def fit_thresholds(label, prob, min_precision=None):
    """Choose a threshold for each class, as `choose_threshold`; arrays are (samples, classes).

    Returns
    -------
    thresholds : np.ndarray, (classes,)
    without : list of int
        Classes without a present label; their threshold is 0.5.
    unreachable : list of int
        Classes in which no threshold reaches the precision; they are never predicted.
    """
    chosen = [choose_threshold(y, p, min_precision) for y, p in zip(label.T, prob.T)]
    without = [c for c, threshold in enumerate(chosen) if threshold is None]
    unreachable = [c for c, threshold in enumerate(chosen) if threshold == NEVER]
    return np.array([DEFAULT if t is None else t for t in chosen]), without, unreachable
