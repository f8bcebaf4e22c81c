"""Thresholds: the probability above which a class counts as present, chosen on labelled samples.

    thresholds = choose_thresholds(label, prob)
    predicted = cross_fitted(label, prob)       # decisions that are honest on the same samples

An objective is a text: "f1", the highest F1 of each class; "of1", one threshold for all classes,
with the highest F1 over all decisions; "precision 0.9", the highest recall of each class at this
precision or a higher one. The best F1 of a class with two present labels says little, and may
predict it on most images: so under "f1" its threshold is averaged, as logits, with that of "of1",
which weighs as much as SHARED_LABELS present labels; and it is so high that the class is predicted
on at most MOST_PREDICTED times as many samples as carry it, and one more. docs/recipes.md has what
was measured.
"""
import os

import numpy as np

from common.text import printable
from network import checkpoint

DEFAULT = 0.5
NEVER = 1.0  # no probability is above it
ALWAYS = -1.0  # every probability is above it
MOST_PREDICTED = 2
SHARED_LABELS = 1
MOST_DECISIONS = 200_000  # from which the threshold of all classes is chosen
FOLDS = 20


def choose_threshold(label, prob, min_precision=None):
    """The best threshold of one class on samples with `label` and `prob`, both (samples,).

    A sample with `prob > threshold` is predicted positive. The threshold has the highest F1 or,
    with `min_precision`, the highest recall at this precision or a higher one, 0 to 1. It lies
    halfway between two probabilities of the samples; of several equally good ones it is the
    highest. NEVER where no threshold is allowed; ALWAYS where a probability of 0 is to be predicted
    positive; None where no label is present.

    Example
    -------
    >>> choose_threshold(np.array([1, 1, 0, 0]), np.array([.9, .5, .25, .1]))
    0.375
    """
    threshold, = _best_without(label, prob, np.zeros(len(label), int), [1], min_precision)
    return None if np.isnan(threshold) else float(threshold)


def _best_without(label, prob, fold, left_out, min_precision=None):
    """The `choose_threshold` of one class on all samples but those of a fold, for several folds.

    `fold`, (samples,), is the number of each sample's, `left_out` a sequence of such numbers.
    Returns (len(left_out),), float64, NaN where no label is present.
    """
    known, folds = label >= 0, max(left_out) + 1
    present, prob, fold = label[known] > 0.5, prob[known].astype(np.float64), fold[known]
    if not present.any():
        return np.full(len(left_out), np.nan)
    # Of two thresholds with no present sample between them the higher one is as good or better: so
    # a threshold is right below a present sample, or, if these are too low, below the highest one.
    highest = [prob[fold == number].max(initial=0) for number in range(folds)]
    candidates = np.unique(np.append(prob[present], highest))[::-1]
    place = np.searchsorted(-candidates, -prob) + fold * (len(candidates) + 1)

    def count(places):
        """How many samples outside each fold reach each candidate."""
        counts = np.bincount(places, minlength=folds * (len(candidates) + 1))
        counts = counts.reshape(folds, -1)[:, :-1]
        return np.cumsum(counts.sum(axis=0) - counts[left_out], axis=1)

    true_positives, predicted = count(place[present]), count(place)
    labelled = true_positives[:, -1:]
    allowed, score = predicted > 0, true_positives
    if min_precision is None:
        score = true_positives / np.maximum(predicted + labelled, 1)  # half the F1
    else:
        allowed &= true_positives / np.maximum(predicted, 1) >= min_precision
    lowest = candidates[np.argmax(np.where(allowed, score, -1), axis=1)]
    below = [prob[(prob < least) & (fold != number)].max(initial=0)
             for least, number in zip(lowest, left_out)]
    threshold = np.where(lowest > 0, (lowest + below) / 2, ALWAYS)
    threshold[~allowed.any(axis=1)] = NEVER
    return np.where(labelled[:, 0] > 0, threshold, np.nan)


def choose_thresholds(label, prob, objective="f1"):
    """The threshold of each class, (classes,); `label` and `prob` are (samples, classes).

    A class without a present label gets that of "of1" (0.5 where no class has any), or under "f1" a
    higher one, so that one sample at most is predicted; under "precision" it is never predicted,
    nor is one that reaches the precision nowhere.
    """
    return _choose_without(label, prob, np.zeros(len(label), int), [1], objective)[0]


def _choose_without(label, prob, fold, left_out, objective):
    """The `choose_thresholds` of all samples but those of a fold: (len(left_out), classes)."""
    def of_each_class(choose, **options):
        return np.array([choose(y, p, fold, left_out, **options)
                         for y, p in zip(label.T, prob.T)]).T

    name, _, least = objective.partition(" ")
    if name == "precision":
        chosen = of_each_class(_best_without, min_precision=float(least))
        return np.where(np.isnan(chosen), NEVER, chosen)
    shared = np.array([[_choose_shared(label, prob, np.flatnonzero(fold != number))]
                       for number in left_out])
    if name == "of1":
        return np.repeat(shared, label.shape[1], axis=1)
    chosen = of_each_class(_best_without)
    present = np.array([np.count_nonzero(label[fold != number] > 0.5, axis=0)
                        for number in left_out])
    logit = ((present * _logit(np.where(np.isnan(chosen), shared, chosen))
              + SHARED_LABELS * _logit(shared)) / (present + SHARED_LABELS))
    return np.maximum(1 / (1 + np.exp(-logit)), of_each_class(_least_without))


def _least_without(label, prob, fold, left_out):
    """The lowest threshold of one class that MOST_PREDICTED allows; see `_best_without`."""
    known = label >= 0
    order = np.argsort(-prob[known], kind="stable")
    present, prob, fold = (values[known][order] for values in (label > 0.5, prob, fold))
    thresholds = []
    for number in left_out:
        rows = np.flatnonzero(fold != number)
        most = MOST_PREDICTED * np.count_nonzero(present[rows]) + 1
        thresholds.append(prob[rows[most - 1:most + 1]].astype(np.float64).mean()
                          if most < len(rows) else ALWAYS)
    return thresholds


def _choose_shared(label, prob, rows):
    """The threshold of all classes together, on about MOST_DECISIONS decisions in these rows.

    More of them where these hold no present label; 0.5 where no row has one.
    """
    threshold, step = None, max(1, len(rows) * label.shape[1] // MOST_DECISIONS)
    while threshold is None and step:
        part = rows[::step]
        threshold, step = choose_threshold(label[part].ravel(), prob[part].ravel()), step // 2
    return DEFAULT if threshold is None else threshold


def _logit(probability):
    probability = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(probability / (1 - probability))


def cross_fitted(label, prob, objective="f1"):
    """The predicted positives, each by thresholds that the other folds of the samples chose.

    Metrics at thresholds on the samples that chose them are too high; those of these decisions are
    not. Bool, (samples, classes).
    """
    fold = np.random.RandomState(0).permutation(len(label)) % FOLDS
    thresholds = _choose_without(label, prob, fold, range(FOLDS), objective)
    predicted = np.empty(label.shape, bool)
    for number in range(FOLDS):
        predicted[fold == number] = prob[fold == number] > thresholds[number]
    return predicted


def with_thresholds(symbol, thresholds, epoch, path, checksum, objective="f1"):
    """The symbol with thresholds for the .params of this number, chosen on the .lst at `path`."""
    return checkpoint.set_attributes(
        symbol, thresholds=[float(t) for t in thresholds], thresholds_epoch=epoch,
        thresholds_list=[printable(os.path.basename(path)), checksum[:1000]],
        thresholds_objective=objective)
