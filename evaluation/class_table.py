"""The classes that a network knows best and worst, as a table for a log or a terminal."""
import math

import numpy as np

from common.text import printable


def best_and_worst(class_names, average_precision, support, count=5, columns=None):
    """The classes of the highest and of the lowest average precision, as lines of a table.

    `count` classes at each end; all where there are no more than twice as many. Those without a
    present label, which have NaN, are left out. `support` has the number of present labels, and
    `columns` further ones by their head: for each class a text.

    Example
    -------
    >>> print("\\n".join(best_and_worst(["cat", "dog", "eel"], [0.5, 0.75, 1], [4, 3, 1], 1)))
        AP  labels  class
    1.0000       1  eel
       ...
    0.5000       4  cat
    """
    order = [c for c in np.argsort(-np.asarray(average_precision), kind="stable")
             if not math.isnan(average_precision[c])]
    columns = columns or {}
    widths = {head: max(map(len, [head, *texts])) for head, texts in columns.items()}
    rows = [f"{average_precision[c]:.4f}  {support[c]:6d}  " + "".join(
        f"{texts[c]:>{widths[head]}}  " for head, texts in columns.items())
        + printable(class_names[c]) for c in order]
    if len(rows) > 2 * count:
        rows[count:-count] = ["   ..."]
    without = len(class_names) - len(order)
    if without:
        rows.append(f"{without} {'classes have' if without > 1 else 'class has'} no present label")
    heads = "".join(f"{head:>{width}}  " for head, width in widths.items())
    return [f"    AP  labels  {heads}class", *rows]
