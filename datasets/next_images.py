"""Which unlabelled images to label next: those that a classifier is unsure of, for many reasons.

BADGE: Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", ICLR
2020 (https://arxiv.org/abs/1906.03671). docs/labels.md has what was measured.
"""
import numpy as np

from datasets.out_of_fold import sigmoid, standardised, train_logistic


def choose_next(features, labels, count, seed=0):
    """Choose images without a known label, and predict them: rows, and (chosen, classes).

    An image stands for the gradient that its loss would have at the classifier's weights if it were
    labelled as predicted, (prob - predicted) times the features: it is long where the classifier is
    unsure. Images are drawn as k-means++ draws its centres: the longest first, then by the squared
    distance from the nearest one drawn. None that equals a drawn one is, so that there may be fewer
    than `count`. `features` are (images, values), `labels` (images, classes), -1 for unknown.
    """
    scaled = standardised(features, slice(None))
    known = (labels >= 0).any(axis=1)
    new = scaled[~known]
    weight, bias = train_logistic(scaled[known], labels[known])
    prob = sigmoid(new @ weight + bias)
    error = prob - (prob > 0.5)
    square = (error ** 2).sum(axis=1) * (new ** 2).sum(axis=1)
    chosen, distance = [int(np.argmax(square))], np.full(len(new), np.inf)
    random = np.random.RandomState(seed)
    while True:
        last = chosen[-1]
        product = (error @ error[last]) * (new @ new[last])  # of the gradients, never made
        distance = np.minimum(distance, np.maximum(square + square[last] - 2 * product, 0))
        distance[last] = 0
        if len(chosen) == count or not distance.any():
            return np.flatnonzero(~known)[chosen], prob[chosen]
        chosen.append(int(random.choice(len(new), p=distance / distance.sum())))
