"""What lists say too little about to train on: classes without present or absent labels.

    counts = ListCounts("train.lst", len(lst), lst.positives, lst.negatives)
    require_present(counts)                       # raises where there is nothing to learn
    warnings = label_warnings(counts, ["cat", "dog"])
"""
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from common.text import printable

MAX_NAMED = 20  # classes that a warning names; of more it gives the number


class ListCounts(NamedTuple):
    """The labels of one list, counted; over all workers where each has a list of its own.

    `positives` and `negatives`, int64 (classes,), are the rows with each class present and absent;
    in the others it is unknown.
    """

    title: str
    num_rows: int
    positives: np.ndarray
    negatives: np.ndarray


def require_present(counts):
    """Raise an InputError for a list without any present label: nothing can be learnt from it."""
    if not counts.positives.any():
        raise InputError(f"no label of its {counts.num_rows} rows is present (1)",
                         file=counts.title)


def label_warnings(counts, class_names):
    """Lines that name the classes without a present label, and those without an absent one."""
    without = [name for name, count in zip(class_names, counts.positives) if not count]
    lines = [f"{counts.title}: without a present label: {_named(without)}"] if without else []
    return lines + [line for line in [absent_warning(counts, class_names)] if line]


def absent_warning(counts, class_names, flag="--label-format signed"):
    """A line about classes that have no absent label, None where all have some.

    Present labels alone teach nothing, and every metric of such classes is perfect. `flag` is what
    reads -1 as absent; None: nothing does.
    """
    without = [name for name, positive, negative in
               zip(class_names, counts.positives, counts.negatives) if positive and not negative]
    if not without:
        return None
    unknown = counts.num_rows - counts.positives - counts.negatives
    hint = f"; if -1 means absent in it, give {flag}" * bool(flag and unknown.any())
    if len(without) == np.count_nonzero(counts.positives):
        return (f"{counts.title}: no label is absent (0), so that there is nothing to tell "
                f"classes apart by{hint}")
    return f"{counts.title}: without an absent label (0): {_named(without)}{hint}"


def _named(classes):
    more = f" and {len(classes) - MAX_NAMED} more" * (len(classes) > MAX_NAMED)
    return ", ".join(map(printable, classes[:MAX_NAMED])) + more
