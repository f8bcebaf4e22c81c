"""NAME-history.csv and NAME-history.png: the metrics of each epoch of a run."""
import csv
import logging
import math
import os
import re

from common.files import atomic_file, open_regular_file

logger = logging.getLogger(__name__)

COLUMNS = ("epoch", "seconds", "images_per_second", "learning_rate", "train-loss", "train-acc",
           "train-mAP", "val-loss", "val-acc", "val-mAP", "val-CF1", "val-OF1")
MAX_BYTES = 1 << 22


def history_files(prefix):
    """The names of a run's table and of its chart."""
    return f"{prefix}-history.csv", f"{prefix}-history.png"


def read_history(prefix):
    """Rows of the history beside a checkpoint, oldest first: dicts of column to float.

    The table may be a stranger's. Without one there are no rows; where it cannot be read, a warning
    says why.
    """
    path, _ = history_files(re.sub("-best$", "", prefix))
    if not os.path.lexists(path):
        return []
    try:
        with open_regular_file(path, "r", newline="", encoding="utf-8") as file:
            text = file.read(MAX_BYTES)
        rows = [{name: round(float(row[name]), 6) for name in COLUMNS if row.get(name)}
                for row in csv.DictReader(text.splitlines())]
        if not all(0 <= row["epoch"] < 1e9 and row["epoch"] % 1 == 0 for row in rows):
            raise ValueError("an epoch is no whole number")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        logger.warning("warning: %s: not a history of epochs, and not in the report: %.200s", path,
                       reason)
        return []
    return [{name: value for name, value in row.items() if math.isfinite(value)}
            for row in sorted(rows, key=lambda row: row["epoch"])]


def write_history(prefix, rows):
    """Write a run's table and its chart: loss and mAP over the epochs."""
    table, chart = history_files(prefix)
    with atomic_file(table) as name, open(name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    with atomic_file(chart) as name:
        _draw_history(name, rows)


def _draw_history(path, rows):
    """Draw loss and mAP over the epochs into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "mAP")):
        for column, label, colour in ((f"train-{metric}", "training", "#4878a8"),
                                      (f"val-{metric}", "validation", "#d1622b")):
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            if points:
                axes.plot(*zip(*points), "o-", color=colour, markersize=4, label=label)
        axes.set(title=metric, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=110)
