"""Which unlabelled images to label next: those that seem to show the classes with few labels.

Bengar et al., "Class-Balanced Active Learning for Image Classification", WACV 2022
(https://arxiv.org/abs/2110.04543), argue for balance; docs/labels.md has what was measured, also of
methods that choose by uncertainty alone.
"""
import numpy as np

from datasets.out_of_fold import sigmoid, standardised, train_logistic


def choose_next(features, labels, count):
    """Choose images without a known label: their rows, gains and probabilities.

    The image is next for which the sum over classes of prob / (labels + 1) is largest, where the
    labels are the present ones and those to be expected of the images chosen before: so each is
    chosen for other classes than the one before. The probabilities are those of logistic
    regressions. `features` are (images, values), `labels` (images, classes), -1 for unknown.
    Returns at most `count` rows, in the order of choice; the terms of their sums and the
    probabilities of the classes, both (rows, classes).
    """
    known = (labels >= 0).any(axis=1)
    scaled = standardised(features, slice(None))
    weight, bias = train_logistic(scaled[known], labels[known])
    prob = sigmoid(scaled[~known] @ weight + bias)
    expected = 1 + np.count_nonzero(labels > 0.5, axis=0).astype(float)
    chosen, gains, left = [], [], np.ones(len(prob), bool)
    while left.any() and len(chosen) < count:
        row = int(np.argmax(np.where(left, prob @ (1 / expected), -1)))
        chosen.append(row)
        gains.append(prob[row] / expected)
        expected, left[row] = expected + prob[row], False
    return np.flatnonzero(~known)[chosen], np.array(gains), prob[chosen]
