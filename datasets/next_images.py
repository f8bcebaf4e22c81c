"""Which unlabelled images to label next: those that the classifier is unsure of, each for its own
reason.

    chosen, prob = choose_next(features, labels, candidates, 100)

BADGE: Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", ICLR
2020 (https://arxiv.org/abs/1906.03671). docs/labels.md has what was measured.
"""
import numpy as np

from datasets.out_of_fold import sigmoid, standardised, train_logistic


def choose_next(features, labels, candidates, count, seed=0):
    """The candidates to label next, and the probabilities of the classes in all candidates.

    An image is represented by the gradient that its loss would have at the classifier's weights if
    its labels were as predicted: (prob - predicted) times the features. It is long where the
    classifier is unsure. Images are drawn as the centres of k-means++ are: with probabilities
    proportional to the squared distance from the nearest one that was drawn before, the longest
    first. One that equals a drawn one is not drawn, so that there may be fewer than `count`.

    Parameters
    ----------
    features, labels : np.ndarray, (labelled, values) and (labelled, classes)
        Labels are 1, 0, or -1 for unknown.
    candidates : np.ndarray, (images, values)

    Returns
    -------
    chosen : list of int, in the order of drawing
    prob : np.ndarray, (images, classes)
    """
    scaled = standardised(np.concatenate([features, candidates]), slice(None))
    known, new = scaled[:len(features)], scaled[len(features):]
    weight, bias = train_logistic(known, labels)
    prob = sigmoid(new @ weight + bias)
    error = prob - (prob > 0.5)
    square = (error ** 2).sum(axis=1) * (new ** 2).sum(axis=1)
    random = np.random.RandomState(seed)
    chosen, distance = [int(np.argmax(square))], np.full(len(new), np.inf)
    while True:
        last = chosen[-1]
        # Of outer products, which would be (images, classes * values).
        product = (error @ error[last]) * (new @ new[last])
        distance = np.minimum(distance, np.maximum(square + square[last] - 2.0 * product, 0))
        distance[last] = 0
        if len(chosen) == count or not distance.any():
            return chosen, prob
        chosen.append(int(random.choice(len(new), p=distance / distance.sum())))
