"""Choosing the probability above which a class counts as present, from labelled samples."""
import numpy as np

DEFAULT = 0.5
NEVER = 1.0  # no probability is above it
ALWAYS = -1.0  # every probability is


def choose_threshold(label, prob, min_precision=None):
    """The threshold of one class that serves best on these samples.

    Parameters
    ----------
    label : np.ndarray, (samples,)
        Above 0.5 present, below 0 unknown (left out), else absent.
    prob : np.ndarray, (samples,)
        0 to 1.
    min_precision : float, optional
        Reach the highest recall that keeps this precision, 0 to 1. None: the best F1.

    Returns
    -------
    float or None
        To be compared with `prob > threshold`. It lies halfway between two probabilities of the
        samples; where several serve equally it is the highest. NEVER where no threshold keeps
        the precision; ALWAYS where a probability of 0 is a yes; None where no label is present.

    Example
    -------
    >>> choose_threshold(np.array([1, 1, 0, 0]), np.array([.9, .5, .25, .1]))
    0.375
    """
    known = label >= 0
    present, prob = label[known] > 0.5, prob[known].astype(np.float64)
    if not present.any():
        return None
    order = np.argsort(-prob, kind="stable")
    prob, found = prob[order], np.cumsum(present[order])
    # Samples of equal probability are on the same side of any threshold.
    last = np.append(np.flatnonzero(np.diff(prob)), len(prob) - 1)
    found, yes = found[last], last + 1
    precision = found / yes
    if min_precision is None:
        best = np.argmax(found / (yes + found[-1]))  # half the F1
    else:
        good = precision >= min_precision
        if not good.any():
            return NEVER
        best = np.argmax(np.where(good, found, -1))
    lowest = prob[last[best]]
    below = prob[last[best] + 1] if last[best] + 1 < len(prob) else 0.0
    return float((lowest + below) / 2) if lowest > 0 else ALWAYS


def fit_thresholds(label, prob, min_precision=None):
    """A threshold for each class.

    Parameters
    ----------
    label, prob : np.ndarray, (samples, classes)
    min_precision : float, optional
        See `choose_threshold`.

    Returns
    -------
    thresholds : np.ndarray, (classes,)
    without : list of int
        Classes without a present label; they keep 0.5.
    unreachable : list of int
        Classes in which nothing keeps the precision; they are never answered yes.
    """
    chosen = [choose_threshold(y, p, min_precision) for y, p in zip(label.T, prob.T)]
    without = [c for c, threshold in enumerate(chosen) if threshold is None]
    unreachable = [c for c, threshold in enumerate(chosen) if threshold == NEVER]
    return (np.array([DEFAULT if t is None else t for t in chosen]), without, unreachable)
