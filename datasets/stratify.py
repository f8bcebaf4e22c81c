"""Splitting rows in two so that each class keeps its share on both sides.

    is_val = split(labels, 0.2, seed=0)
    train, val = labels[~is_val], labels[is_val]

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
Multi-label Data", ECML PKDD 2011) deals the rows out, the rarest class first. Frequent classes
come last and find most rows dealt, so single rows are moved afterwards as long as that helps.
Rows of one group, the pictures of one patient for example, go to the same side.
"""
import numpy as np

from common.cli import InputError

MAX_MOVABLE = 50_000  # groups looked at for a move; of more, every second or third will do


def split(labels, fraction, seed=0, groups=None):
    """Choose the rows of one side; raises an InputError when there are not two groups to split.

    Parameters
    ----------
    labels : numpy.ndarray
        (rows, classes). 1: the row is an example of the class; absent (0) and unknown (-1): it
        is none.
    fraction : float
        Share of the rows to choose, above 0 and below 1.
    seed : int
        The same seed chooses the same rows.
    groups : numpy.ndarray, optional
        int, (rows,): the group of each row. Default: each row is one of its own.

    Returns
    -------
    numpy.ndarray
        bool, (rows,). Of a class with examples in at least two groups either side gets at least
        one, wherever rarer classes leave a choice.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    num_groups = int(groups.max(initial=-1)) + 1
    if num_groups < 2:
        raise InputError(f"{len(labels)} images in {num_groups} groups cannot be split in two: "
                         "use {flag} 0", flag="--val-fraction")
    # RandomState, unlike its successor, gives the same under every version of numpy.
    order = np.random.RandomState(seed).permutation(num_groups)
    place = np.argsort(order)[groups]
    # One more class that every row carries makes the number of rows a share like any other.
    num_classes = labels.shape[1] + 1
    rows, classes = np.nonzero(labels == 1)
    cells = np.concatenate([place[rows] * num_classes + classes,
                            place * num_classes + num_classes - 1])
    cells, weights = np.unique(cells, return_counts=True)
    rows, classes = np.divmod(cells, num_classes)  # from here on, a row is a group
    wanted = _shares(np.bincount(classes, weights, num_classes).astype(np.int64), fraction)
    side = _deal(rows, classes, weights, wanted, num_groups)

    step = -(-num_groups // MAX_MOVABLE)
    movable = rows % step == 0
    _balance(rows[movable] // step, classes[movable], weights[movable], wanted[1], side[::step])
    if side.min() == side.max():  # a few rows whose classes are all singletons
        row = np.bincount(rows).argmin()
        side[row] = 1 - side[row]
    return side[place] == 1


def join_groups(first, second):
    """The groups of rows that belong together by either of two groupings: int64, (rows,).

    Each numbers groups of rows, (rows,). A chain counts: where one joins rows 0 and 1, the other
    1 and 2, all three are a group.
    """
    first, second = (np.unique(groups, return_inverse=True)[1].reshape(-1)
                     for groups in (first, second))
    joined = np.arange(len(first))
    while True:
        before = joined
        for groups in (first, second):
            smallest = np.full(len(first), len(first))
            np.minimum.at(smallest, groups, joined)
            joined = smallest[groups]
        if np.array_equal(joined, before):
            return joined


def _shares(counts, fraction):
    """How many of each count either side wants: int64, (2, counts), the chosen side second."""
    second = np.rint(counts * fraction).astype(np.int64)
    # One example of two or more is worth more on the side that would have none.
    second = np.clip(second, np.minimum(counts // 2, 1), np.maximum(counts - 1, 0))
    return np.stack([counts - second, second])


def _deal(rows, classes, weights, wanted, num_rows):
    """The paper's algorithm: side of each row. What is left of `wanted` stays in it.

    `weights` says how many examples of a class are in a row, which is a group.
    """
    row_ends = np.searchsorted(rows, np.arange(num_rows + 1))
    examples = np.bincount(classes, minlength=wanted.shape[1])
    class_ends = np.concatenate([[0], np.cumsum(examples)])
    rows_by_class = rows[np.argsort(classes, kind="stable")]
    side = np.full(num_rows, -1, np.int8)
    done = num_rows + 1  # more than any class can have
    remaining = np.where(examples > 0, examples, done)
    is_without = np.ones(wanted.shape, bool)  # whether a side has no example of a class yet
    while remaining.min() < done:
        rarest = remaining.argmin()
        for row in rows_by_class[class_ends[rarest]:class_ends[rarest + 1]]:
            if side[row] >= 0:
                continue
            lead = wanted[1, rarest] - wanted[0, rarest] or wanted[1, -1] - wanted[0, -1]
            if remaining[rarest] == 1 and is_without[0, rarest] != is_without[1, rarest]:
                lead = 1 if is_without[1, rarest] else -1  # though this group may be too large
            side[row] = lead > 0
            here = slice(row_ends[row], row_ends[row + 1])
            carried = classes[here]
            wanted[side[row], carried] -= weights[here]
            remaining[carried] -= 1
            is_without[side[row], carried] = False
        remaining[rarest] = done
    return side


def _balance(rows, classes, weights, missing, side):
    """Move rows, one or one each way, as long as that lessens the classes' squared errors.

    `missing` says how many examples the chosen side lacks, below zero where it has too many;
    the other side mirrors it.
    """
    row_ends = np.searchsorted(rows, np.arange(len(side) + 1))
    own_errors = np.bincount(rows, weights**2, len(side))
    examples = np.zeros((2, len(missing)), np.int64)  # rows with each class on either side
    np.add.at(examples, (side[rows], classes), 1)

    def gains():
        sign = np.where(side == 1, -1, 1)
        gain = 2 * sign * np.bincount(rows, weights * missing[classes]) - own_errors
        # However much it would help the frequent classes: no class loses its last example.
        gain[rows[examples[side[rows], classes] == 1]] = -np.inf
        return gain

    def move(row):
        here = slice(row_ends[row], row_ends[row + 1])
        carried = classes[here]
        examples[side[row], carried] -= 1
        side[row] = 1 - side[row]
        examples[side[row], carried] += 1
        missing[carried] += (1 - 2 * side[row]) * weights[here]

    while True:
        gain = gains()
        if gain.max() > 0:
            move(gain.argmax())
            continue
        for first_side in (0, 1):
            first = np.where(side == first_side, gain, -np.inf).argmax()
            first_gain = gain[first]
            if side[first] != first_side or first_gain == -np.inf:
                continue
            move(first)
            second_gain = gains()
            second = second_gain.argmax()
            if first_gain + second_gain[second] > 0:
                move(second)
                break
            move(first)
        else:
            return
