"""Labels that predictions contradict, by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021 (https://arxiv.org/abs/1911.00068), each class on its own. The probabilities must come from a
network that was not trained on these labels; one that was has learnt their errors too.
"""
import numpy as np


def suspects(label, prob):
    """The places of labels that are likely wrong; both arrays are (samples, classes).

    A class is confidently present in a sample where its probability reaches the mean of those that
    are labelled present, and confidently absent likewise. A label is suspect where the other answer
    is confident, and likelier (as in cleanlab's filter: otherwise most suspects of a rare class are
    samples that the network itself takes for absent). Unknown labels are none.

    Returns two arrays of int, samples and classes, in the order of the probability of the label as
    it stands, the lowest first.

    >>> suspects(np.array([[1], [1], [0], [0]]), np.array([[0.9], [0.1], [0.2], [0.1]]))
    (array([1]), array([0]))
    """
    present, absent = label > 0.5, (label >= 0) & (label <= 0.5)
    confident = prob >= _mean(prob, present), 1 - prob >= _mean(1 - prob, absent)
    own = np.where(present, prob, 1 - prob)
    found = (present | absent) & np.where(present, *confident[::-1]) & (own < 0.5)
    samples, classes = np.nonzero(found)
    order = np.argsort(own[samples, classes], kind="stable")
    return samples[order], classes[order]


def _mean(prob, cells):
    """The mean probability of the cells in each class, (classes,); infinity without any."""
    count = cells.sum(axis=0)
    return np.where(count > 0, (prob * cells).sum(axis=0) / np.maximum(count, 1), np.inf)
