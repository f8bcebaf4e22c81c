"""Splitting rows in two so that each class keeps its share on both sides.

    is_val = split(labels, 0.2, seed=0)
    train, val = labels[~is_val], labels[is_val]

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
Multi-label Data", ECML PKDD 2011) deals the rows out, the rarest class first. Frequent classes
come last and find most rows dealt, so single rows are moved afterwards as long as that helps.
"""
import numpy as np

from common.cli import InputError

MAX_MOVABLE = 50_000  # rows looked at for a move; of more, every second or third will do


def split(labels, fraction, seed=0):
    """Choose the rows of one side; raises an InputError when there are not two rows to split.

    Parameters
    ----------
    labels : numpy.ndarray
        (rows, classes). 1: the row is an example of the class; absent (0) and unknown (-1): it
        is none.
    fraction : float
        Share of the rows to choose, above 0 and below 1.
    seed : int
        The same seed chooses the same rows.

    Returns
    -------
    numpy.ndarray
        bool, (rows,). Of a class with at least two examples either side gets at least one,
        wherever rarer classes leave a choice.

    Example
    -------
    >>> split(np.array([[1], [1], [0], [0]]), 0.5).sum()
    2
    """
    num_rows = len(labels)
    if num_rows < 2:
        raise InputError(f"{num_rows} images cannot be split in two: use --val-fraction 0")
    # RandomState, unlike its successor, gives the same under every version of numpy.
    order = np.random.RandomState(seed).permutation(num_rows)
    # One more class that every row carries makes the number of rows a share like any other.
    carries = np.column_stack([labels[order] == 1, np.ones(num_rows, bool)])
    rows, classes = np.nonzero(carries)
    wanted = _shares(carries.sum(axis=0), fraction)
    side = _deal(rows, classes, wanted, num_rows)

    step = -(-num_rows // MAX_MOVABLE)
    movable = rows % step == 0
    _balance(rows[movable] // step, classes[movable], wanted[1], side[::step])
    if side.min() == side.max():  # a few rows whose classes are all singletons
        row = carries.sum(axis=1).argmin()
        side[row] = 1 - side[row]
    is_chosen = np.empty(num_rows, bool)
    is_chosen[order] = side == 1
    return is_chosen


def split_together(labels, first, fraction, seed=0):
    """As `split`, with rows that belong together on one side.

    `first`, int64 (rows,), has for each row the first one that it belongs to, itself included.
    """
    groups, group = np.unique(first, return_inverse=True)
    merged = labels[groups]
    for row in np.flatnonzero(first != np.arange(len(first))):
        merged[group[row]] = np.maximum(merged[group[row]], labels[row])
    return split(merged, fraction, seed)[group]


def _shares(counts, fraction):
    """How many of each count either side wants: int64, (2, counts), the chosen side second."""
    second = np.rint(counts * fraction).astype(np.int64)
    # One example of two or more is worth more on the side that would have none.
    second = np.clip(second, np.minimum(counts // 2, 1), np.maximum(counts - 1, 0))
    return np.stack([counts - second, second])


def _deal(rows, classes, wanted, num_rows):
    """The paper's algorithm: side of each row. What is left of `wanted` stays in it."""
    row_ends = np.searchsorted(rows, np.arange(num_rows + 1))
    examples = wanted.sum(axis=0)
    class_ends = np.concatenate([[0], np.cumsum(examples)])
    rows_by_class = rows[np.argsort(classes, kind="stable")]
    side = np.full(num_rows, -1, np.int8)
    done = num_rows + 1  # more than any class can have
    remaining = np.where(examples > 0, examples, done)
    while remaining.min() < done:
        rarest = remaining.argmin()
        for row in rows_by_class[class_ends[rarest]:class_ends[rarest + 1]]:
            if side[row] >= 0:
                continue
            lead = wanted[1, rarest] - wanted[0, rarest] or wanted[1, -1] - wanted[0, -1]
            side[row] = lead > 0
            carried = classes[row_ends[row]:row_ends[row + 1]]
            wanted[side[row], carried] -= 1
            remaining[carried] -= 1
        remaining[rarest] = done
    return side


def _balance(rows, classes, missing, side):
    """Move rows, one or one each way, as long as that lessens the classes' squared errors.

    `missing` says how many examples the chosen side lacks, below zero where it has too many;
    the other side mirrors it.
    """
    row_ends = np.searchsorted(rows, np.arange(len(side) + 1))
    lengths = np.diff(row_ends)
    examples = np.zeros((2, len(missing)), np.int64)  # of each class on either side
    np.add.at(examples, (side[rows], classes), 1)

    def gains():
        sign = np.where(side == 1, -1, 1)
        gain = 2 * sign * np.bincount(rows, missing[classes]) - lengths
        # However much it would help the frequent classes: no class loses its last example.
        gain[rows[examples[side[rows], classes] == 1]] = -np.inf
        return gain

    def move(row):
        carried = classes[row_ends[row]:row_ends[row + 1]]
        examples[side[row], carried] -= 1
        side[row] = 1 - side[row]
        examples[side[row], carried] += 1
        missing[carried] += 1 - 2 * side[row]

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
