"""The numbers behind the report's charts, which the page's script draws."""
import numpy as np

from common.metrics import calibration_bins, precision_recall_curve, ratio

MAX_POINTS = 100  # per curve
MAX_CO_OCCURRENCE_CLASSES = 30


def precision_recall_curves(label, prob):
    """Curves of the classes with a present label, of MAX_POINTS at most, and their mean.

    Returns
    -------
    curves : dict of int to list
        [recall, precision], lists of equal length, by class.
    mean : list
        The mean precision on a grid of recall from 0 to 1.
    """
    curves, on_grid = {}, []
    grid = np.linspace(0, 1, MAX_POINTS + 1)
    for c in np.flatnonzero((label > 0.5).any(axis=0)):
        precision, recall = precision_recall_curve(label[:, c], prob[:, c])
        precision, recall = np.append(precision[0], precision), np.append(0, recall)
        # The best precision at this recall or a higher one: curves of few samples are jagged.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        on_grid.append(best[np.searchsorted(recall, grid - 1e-9)])
        keep = np.unique(np.linspace(0, len(recall) - 1, MAX_POINTS).astype(int))
        curves[int(c)] = [rounded(recall[keep]), rounded(precision[keep])]
    return curves, rounded(np.mean(on_grid, axis=0)) if on_grid else []


def calibration(bins, interval, label, prob):
    """Per bin that holds decisions: their number, mean probability and share of present labels.

    `bins` and `interval` are those of the Evaluation. Returns a dict: "all", with the ends of the
    share's interval too, and "classes", a list by class.
    """
    count, probability, present = bins
    rows = np.stack([count, ratio(probability, count), ratio(present, count), *interval], axis=1)
    return {"all": [rounded(row, 4) for row in rows[count > 0]],
            "classes": [_class_calibration(label[:, [c]], prob[:, [c]])
                        for c in range(label.shape[1])]}


def _class_calibration(label, prob):
    count, probability, present = calibration_bins(label, prob)
    rows = np.stack([count, ratio(probability, count), ratio(present, count)], axis=1)
    return [rounded(row, 4) for row in rows[count > 0]]


def co_occurrence(positive, known):
    """Share of the samples with one class (row) that have another class (column) too, 0 to 1."""
    positive = positive.astype(np.float64)
    return ratio(positive.T @ positive, positive.T @ known.astype(np.float64), if_zero=0)


def co_occurrence_charts(label, predicted):
    """Co-occurrence of the most frequent classes in labels and in predictions.

    Returns a dict: "classes", their numbers, similar ones next to each other; "counts", the images
    with each, and "shares", (classes, classes), both in the labels and in the predictions.
    """
    frequent = np.argsort(-(label > 0.5).sum(axis=0), kind="stable")[:MAX_CO_OCCURRENCE_CLASSES]
    classes = np.sort(frequent)
    label, predicted = label[:, classes], predicted[:, classes]
    known, present = label >= 0, label > 0.5
    truth = co_occurrence(present, known)
    order = _order_by_similarity(truth)  # similar rows next to each other form visible blocks
    guessed = co_occurrence(predicted & known, known)
    return {"classes": classes[order].tolist(),
            "counts": [(cells.sum(axis=0)[order]).tolist()
                       for cells in (present, predicted & known)],
            "shares": [[rounded(row) for row in shares[np.ix_(order, order)]]
                       for shares in (truth, guessed)]}


def _order_by_similarity(shares):
    """An order in which each class is followed by the most similar of the remaining ones."""
    rest, order = list(range(len(shares))), []
    similarity = shares + shares.T
    while rest:
        following = max(rest, key=lambda c: similarity[order[-1], c]) if order else 0
        rest.remove(following)
        order.append(following)
    return order


def rounded(values, digits=3):
    """The values as a list for JSON, None for NaN."""
    return [None if np.isnan(value) else round(float(value), digits) for value in values]
