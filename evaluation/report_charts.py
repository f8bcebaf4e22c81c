"""The report's charts, as SVG text in the colours of the page.

Each of the COLOURS becomes a CSS variable, so that one drawing serves the light and the dark page.
Text stays text, in the page's font.
"""
import io
import re

import numpy as np

from common.metrics import precision_recall_curve, ratio
from evaluation.history import plot_metric

# Placeholder colours, and the CSS variable that takes the place of each.
INK, SOFT, LINE, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = {INK: "--ink", SOFT: "--soft", LINE: "--line", ACCENT: "--accent", SECOND: "--second"}
MAX_POINTS = 200  # per curve
MAX_CO_OCCURRENCE_CLASSES = 30
MAX_BARS = 100


def _figure(width, height, **subplots):
    """A figure of this size, in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def _style(axes, grid="both"):
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=SOFT, labelsize=9)
    axes.xaxis.label.set(color=SOFT, size=9)
    axes.yaxis.label.set(color=SOFT, size=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(True, axis=grid, color=LINE, linewidth=0.8)


def _svg(figure, description):
    """The figure as an <svg> element; `description` must be plain words without markup."""
    import matplotlib

    buffer = io.StringIO()
    # Fixed, so that the same data give the same file; one per chart, so that ids differ.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    # A <style> would apply to the whole page.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="(?!curve-|point-|bar-)[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"',
                  rf'\1 role="img" aria-label="{description}"', text, count=1)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return text


def average_precision_bars(class_names, average_precision, support):
    """One bar per class, the best on top, with average precision and number of labels.

    Of more than MAX_BARS classes only the best and the worst are drawn.
    """
    order = [c for c in np.argsort(-average_precision, kind="stable")
             if not np.isnan(average_precision[c])][::-1]
    if len(order) > MAX_BARS:
        order[MAX_BARS // 2:-MAX_BARS // 2] = []
    figure, axes = _figure(4.8, 0.7 + 0.21 * len(order))
    places = range(len(order))
    axes.barh(places, 1, color=LINE, height=0.62, alpha=0.55)
    bars = axes.barh(places, average_precision[order], color=ACCENT, height=0.62)
    for place, c, bar in zip(places, order, bars):
        bar.set_gid(f"bar-{c}")
        for x, text, side, colour in ((1.02, f"{average_precision[c]:.2f}", "left", INK),
                                      (1.28, str(support[c]), "right", SOFT)):
            axes.text(x, place, text, va="center_baseline", ha=side, size=9, color=colour)
    if order:
        top = len(order) - 0.2
        axes.text(1.02, top, "AP", size=9, color=SOFT)
        axes.text(1.28, top, "labels", ha="right", size=9, color=SOFT)
    axes.set_yticks(places, [_tick_label(class_names[c], 22) for c in order])
    axes.set(xlim=(0, 1.3), ylim=(-0.6, len(order) + 0.3), xticks=(0, 0.5, 1))
    _style(axes, grid=None)
    axes.tick_params(axis="y", labelcolor=INK)
    return _svg(figure, "Average precision and number of labels of each class")


def precision_recall_curves(label, prob, per_class):
    """One curve per class, and the point of its threshold; the page highlights one of them.

    `per_class` has precision and recall at the thresholds, both (classes,).
    """
    figure, axes = _figure(4.8, 4.2)
    grid = np.linspace(0, 1, MAX_POINTS + 1)
    on_grid = []
    for c in np.flatnonzero((label > 0.5).any(axis=0)):
        precision, recall = precision_recall_curve(label[:, c], prob[:, c])
        precision, recall = np.append(precision[0], precision), np.append(0, recall)
        # The best precision at this recall or a higher one: curves of few samples are jagged.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        on_grid.append(best[np.searchsorted(recall, grid - 1e-9)])
        if len(recall) > MAX_POINTS:
            keep = np.unique(np.linspace(0, len(recall) - 1, MAX_POINTS).astype(int))
            recall, precision = recall[keep], precision[keep]
        axes.plot(recall, precision, color=SOFT, linewidth=1, gid=f"curve-{c}")
        axes.plot(per_class["recall"][c], per_class["precision"][c], "o", color=ACCENT,
                  markersize=7, clip_on=False, gid=f"point-{c}")
    if on_grid:
        axes.plot(grid, np.mean(on_grid, axis=0), color=INK, linewidth=2, linestyle=(0, (5, 2)),
                  gid="curve-mean")
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    _style(axes)
    return _svg(figure, "Precision against recall, a curve for each class")


def calibration_chart(bins):
    """Share of present labels against predicted probability, and the number of decisions."""
    figure, (upper, lower) = _figure(4.8, 4.2, nrows=2, sharex=True, height_ratios=(3, 1))
    count, probability, present = bins
    filled = count > 0
    upper.plot((0, 1), (0, 1), color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    upper.plot(ratio(probability, count)[filled], ratio(present, count)[filled], color=ACCENT,
               marker="o", markersize=4.5, linewidth=1.8)
    upper.set(ylabel="share that is present", ylim=(-0.03, 1.03), xlim=(-0.01, 1.01))
    edges = np.linspace(0, 1, len(count) + 1)
    lower.bar(edges[:-1], count, width=np.diff(edges) * 0.86, align="edge", color=SECOND)
    lower.set(ylabel="decisions", xlabel="probability")
    if filled.any():
        lower.set_yscale("log")
        lower.set_ylim(bottom=0.5)  # a bar of one decision has a height too
        lower.minorticks_off()
        lower.yaxis.set_major_formatter("{x:,.0f}")
    for axes in (upper, lower):
        _style(axes)
    return _svg(figure, "Calibration: share of present labels against probability")


def co_occurrence(positive, known):
    """Share of the samples with one class (row) that have another class (column) too, 0 to 1."""
    positive = positive.astype(np.float64)
    return ratio(positive.T @ positive, positive.T @ known.astype(np.float64), if_zero=0)


def co_occurrence_charts(class_names, label, predicted):
    """Co-occurrence of the classes in labels and in predictions: two charts of the same classes.

    Of more than MAX_CO_OCCURRENCE_CLASSES classes only the most frequent are drawn.
    """
    frequent = np.argsort(-(label > 0.5).sum(axis=0), kind="stable")[:MAX_CO_OCCURRENCE_CLASSES]
    classes = np.sort(frequent)
    label, predicted = label[:, classes], predicted[:, classes]
    known = label >= 0
    truth = co_occurrence(label > 0.5, known)
    order = _order_by_similarity(truth)  # similar rows next to each other form visible blocks
    names = [_tick_label(class_names[c], 14) for c in classes[order]]
    return [_matrix(shares[np.ix_(order, order)], names, description) for shares, description in (
        (truth, "Co-occurrence of classes in the labels"),
        (co_occurrence(predicted & known, known), "Co-occurrence of classes in the predictions"))]


def _order_by_similarity(shares):
    """An order in which each class is followed by the most similar of the remaining ones."""
    rest, order = list(range(len(shares))), []
    similarity = shares + shares.T
    while rest:
        following = max(rest, key=lambda c: similarity[order[-1], c]) if order else 0
        rest.remove(following)
        order.append(following)
    return order


def _matrix(shares, names, description):
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    size = len(names)
    figure, axes = _figure(4.8, 4.8)
    font_size = 9 if size <= 12 else 7
    axes.set_xticks(range(size), names, rotation=90)
    axes.set_yticks(range(size), names)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    rows, columns = np.nonzero(shares * (1 - np.eye(size)) >= 0.005)
    corners = 0.46 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    axes.add_collection(PolyCollection(
        np.stack([columns, rows], axis=1)[:, np.newaxis] + corners, linewidths=0,
        facecolors=[to_rgba(ACCENT, round(share, 2)) for share in shares[rows, columns]]))
    axes.plot(range(size), range(size), ".", color=LINE, markersize=font_size / 2)
    _style(axes, grid=None)
    axes.tick_params(labelcolor=INK, labelsize=font_size, pad=1)
    return _svg(figure, description)


def history_charts(rows):
    """Loss and mAP over the epochs, from the rows of NAME-history.csv: two SVG, or none."""
    charts = []
    for metric in ("loss", "mAP") if rows else ():
        figure, axes = _figure(4.8, 2.7)
        plot_metric(axes, rows, metric,
                    training={"color": SECOND, "linestyle": (0, (4, 2)), "markersize": 4.5},
                    validation={"color": ACCENT, "markersize": 4.5})
        axes.set_ylabel(metric)
        if len(rows) == 1:
            epoch = rows[0]["epoch"]
            axes.set(xlim=(epoch - 0.5, epoch + 0.5), xticks=[epoch])
        _style(axes)
        if axes.lines:
            axes.legend(frameon=False, labelcolor=INK, fontsize=9)
        charts.append(_svg(figure, f"{metric} over the epochs"))
    return charts


def _tick_label(name, length):
    """The name, shortened, with escaped dollar signs, in which matplotlib would see formulas."""
    return (name if len(name) <= length else name[:length - 1] + "…").replace("$", r"\$")
