"""NAME-history.csv and NAME-history.png: the metrics of each epoch of a run."""
import csv

from common.files import atomic_file

COLUMNS = ("epoch", "seconds", "images_per_second", "learning_rate", "train-loss", "train-acc",
           "train-mAP", "val-loss", "val-acc", "val-mAP", "val-CF1", "val-OF1")


def history_files(prefix):
    """The names of a run's table and of its chart."""
    return f"{prefix}-history.csv", f"{prefix}-history.png"


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

    figure = Figure(figsize=(9, 3.6))
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "mAP")):
        for column, label, colour in ((f"train-{metric}", "training", "#4878a8"),
                                      (f"val-{metric}", "validation", "#d1622b")):
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            if points:
                axes.plot(*zip(*points), "o-", color=colour, markersize=4, label=label)
        axes.set(title=metric, xlabel="epoch (0: the new classifier alone)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    # Finding the margins would draw it twice.
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.15, top=0.9)
    figure.savefig(path, format="png", dpi=110)
