"""Thresholds: the probability above which a class counts as present, chosen on labelled samples.

    thresholds = choose_thresholds(label, prob)
    predicted = cross_fitted(label, prob)       # decisions that are honest on the same samples

An objective is a text: "f1", the highest F1 of each class; "of1", one threshold for all classes,
with the highest F1 over all decisions; "precision 0.9", the highest recall of each class at this
precision or a higher one. The best F1 of a class with two present labels says little, and may
predict it on most images: so under "f1" a class is predicted on at most MOST_PREDICTED times as
many samples as carry it, and its threshold is averaged, as logits, with that of "of1", which weighs
as much as SHARED_LABELS present labels. docs/recipes.md has what was measured.
"""
import os

import numpy as np

from common.cli import InputError, require
from common.metrics import ranking
from common.text import printable
from network import checkpoint

DEFAULT = 0.5
NEVER = 1.0  # no probability is above it
ALWAYS = -1.0  # every probability is above it
OBJECTIVES = ("f1", "of1", "precision")
MOST_PREDICTED = 8
SHARED_LABELS = 1
MOST_DECISIONS = 200_000  # from which the threshold of all classes is chosen
FOLDS = 20


def add_objective_args(add):
    """Declare --threshold-objective and --min-precision; `add` is a parser's add_argument."""
    add("--threshold-objective", choices=OBJECTIVES,
        help="what thresholds are chosen for: the highest F1 of each class (f1, the default); of "
             "all decisions, by one threshold (of1); the highest recall of each class at "
             "--min-precision (precision)")
    add("--min-precision", type=float, metavar="P",
        help="the least precision, with --threshold-objective precision, which may be left out")


def objective_from_args(args):
    """The objective, as text, of those two flags."""
    least = args.min_precision
    require(least is None or 0 <= least <= 1, "--min-precision", "0 to 1", least)
    objective = args.threshold_objective or ("f1" if least is None else "precision")
    if (objective == "precision") != (least is not None):
        raise InputError("{flag} goes with --threshold-objective precision, and has to be given "
                         "there", flag="--min-precision")
    return objective if least is None else f"precision {least:.6f}"


def choose_threshold(label, prob, min_precision=None, most=np.inf):
    """The best threshold of one class on samples with `label` and `prob`, both (samples,).

    A sample with `prob > threshold` is predicted positive. The threshold has the highest F1 of
    those that predict at most `most` times as many samples as are present, or, with
    `min_precision`, the highest recall at this precision or a higher one, 0 to 1. It lies halfway
    between two probabilities of the samples; of several equally good ones it is the highest. NEVER
    where no threshold is allowed; ALWAYS where a probability of 0 is to be predicted positive; None
    where no label is present.

    Example
    -------
    >>> choose_threshold(np.array([1, 1, 0, 0]), np.array([.9, .5, .25, .1]))
    0.375
    """
    if not (label > 0.5).any():
        return None
    prob, true_positives, predicted = ranking(label, prob.astype(np.float64))
    if min_precision is None:
        allowed = predicted <= most * true_positives[-1]
        score = true_positives / (predicted + true_positives[-1])  # half the F1
    else:
        allowed, score = true_positives / predicted >= min_precision, true_positives
    if not allowed.any():
        return NEVER
    best = np.argmax(np.where(allowed, score, -1))
    lowest, below = np.append(prob, 0)[best:best + 2]
    return float((lowest + below) / 2) if lowest > 0 else ALWAYS


def choose_thresholds(label, prob, objective="f1"):
    """The threshold of each class, (classes,); `label` and `prob` are (samples, classes).

    A class without a present label gets that of "of1" (0.5 where no class has any); under
    "precision" it is never predicted, nor is one that reaches the precision nowhere.
    """
    name, _, least = objective.partition(" ")
    if name == "precision":
        chosen = (choose_threshold(y, p, float(least)) for y, p in zip(label.T, prob.T))
        return np.array([NEVER if threshold is None else threshold for threshold in chosen])
    rows = slice(None, None, max(1, label.size // MOST_DECISIONS))
    shared = choose_threshold(label[rows].ravel(), prob[rows].ravel())
    if shared is None or name == "of1":
        return np.full(label.shape[1], DEFAULT if shared is None else shared)
    chosen = (choose_threshold(y, p, most=MOST_PREDICTED) for y, p in zip(label.T, prob.T))
    chosen = np.array([shared if threshold is None else threshold for threshold in chosen])
    present = np.count_nonzero(label > 0.5, axis=0)
    logit = (present * _logit(chosen) + SHARED_LABELS * _logit(shared)) / (present + SHARED_LABELS)
    return 1 / (1 + np.exp(-logit))


def _logit(probability):
    probability = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(probability / (1 - probability))


def cross_fitted(label, prob, objective="f1"):
    """The predicted positives, each by thresholds that the other folds of the samples chose.

    Metrics at thresholds on the samples that chose them are too high; those of these decisions are
    not. Bool, (samples, classes).
    """
    fold = np.random.RandomState(0).permutation(len(label)) % FOLDS
    predicted = np.empty(label.shape, bool)
    for number in range(FOLDS):
        own = fold == number
        predicted[own] = prob[own] > choose_thresholds(label[~own], prob[~own], objective)
    return predicted


def with_thresholds(symbol, thresholds, epoch, path, checksum, objective="f1"):
    """The symbol with thresholds for the .params of this number, chosen on the .lst at `path`."""
    return checkpoint.set_attributes(
        symbol, thresholds=[float(t) for t in thresholds], thresholds_epoch=epoch,
        thresholds_list=[printable(os.path.basename(path)), checksum[:1000]],
        thresholds_objective=objective)
