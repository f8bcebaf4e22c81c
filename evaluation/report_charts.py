"""The report's charts, as SVG text whose colours are the page's own.

What is drawn in one of the COLOURS appears in the page as a CSS variable, so that one
drawing serves light and dark. Lettering stays text, in the page's font.
"""
import io
import re

import numpy as np

from evaluation.metrics import precision_recall_curve, ratio

# Stand-ins: colours that nothing else is drawn in, and the CSS variable each one becomes.
INK, SOFT, LINE, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = {INK: "--ink", SOFT: "--soft", LINE: "--line", ACCENT: "--accent", SECOND: "--second"}
MOST_POINTS = 200  # of a curve
MOST_TOGETHER = 30  # classes of the co-occurrence picture
MOST_BARS = 100


def _figure(width, height):
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _style(axes, grid="both"):
    for spine in axes.spines.values():
        spine.set_visible(False)
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
    # Fixed: the same data give the same file. Each picture's own: ids must not meet in one page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    # What would hold for the whole page, or say nothing in it.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="(?!curve-|point-|bar-)[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"',
                  rf'\1 role="img" aria-label="{description}"', text, count=1)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return text


def average_precision_bars(class_names, average_precision, support):
    """A bar a class, the best on top, with its average precision and number of labels.

    Of more than MOST_BARS classes, the best and the worst.
    """
    order = [c for c in np.argsort(-average_precision, kind="stable")
             if not np.isnan(average_precision[c])][::-1]
    if len(order) > MOST_BARS:
        order[MOST_BARS // 2:-MOST_BARS // 2] = []
    figure = _figure(4.8, 0.7 + 0.21 * len(order))
    axes = figure.subplots()
    values = average_precision[order]
    places = range(len(order))
    axes.barh(places, 1, color=LINE, height=0.62, alpha=0.55)
    bars = axes.barh(places, values, color=ACCENT, height=0.62)
    for place, c, value, bar in zip(places, order, values, bars):
        bar.set_gid(f"bar-{c}")
        for x, text, side, colour in ((1.02, f"{value:.2f}", "left", INK),
                                      (1.28, str(support[c]), "right", SOFT)):
            axes.text(x, place, text, va="center_baseline", ha=side, size=9, color=colour)
    if order:
        top = len(order) - 0.2
        axes.text(1.02, top, "AP", size=9, color=SOFT)
        axes.text(1.28, top, "labels", ha="right", size=9, color=SOFT)
    axes.set_yticks(places, [_plain(_short(class_names[c])) for c in order])
    axes.set(xlim=(0, 1.3), ylim=(-0.6, len(order) + 0.3), xticks=(0, 0.5, 1))
    _style(axes, grid=None)
    axes.tick_params(axis="y", labelcolor=INK)
    return _svg(figure, "Average precision and number of labels of each class")


def precision_recall_curves(label, prob, per_class):
    """A curve a class, and the point of its threshold; the page brings one of them forward.

    Parameters
    ----------
    label, prob : np.ndarray, (samples, classes)
    per_class : dict of str to np.ndarray, (classes,)
        precision and recall at the thresholds.
    """
    figure = _figure(4.8, 4.2)
    axes = figure.subplots()
    grid = np.linspace(0, 1, MOST_POINTS + 1)
    mean, count = np.zeros(len(grid)), 0
    for c in range(label.shape[1]):
        if not (label[:, c] > 0.5).any():
            continue
        precision, recall = precision_recall_curve(label[:, c], prob[:, c])
        precision, recall = np.append(precision[0], precision), np.append(0, recall)
        # The best precision at this recall or a higher one: curves of few samples are jagged.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        mean, count = mean + best[np.searchsorted(recall, grid - 1e-9)], count + 1
        if len(recall) > MOST_POINTS:
            keep = np.unique(np.linspace(0, len(recall) - 1, MOST_POINTS).astype(int))
            recall, precision = recall[keep], precision[keep]
        axes.plot(recall, precision, color=SOFT, linewidth=1, gid=f"curve-{c}")
        axes.plot(per_class["recall"][c], per_class["precision"][c], "o", color=ACCENT,
                  markersize=7, clip_on=False, gid=f"point-{c}")
    if count:
        axes.plot(grid, mean / count, color=INK, linewidth=2, linestyle=(0, (5, 2)),
                  gid="curve-mean")
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    _style(axes)
    return _svg(figure, "Precision against recall, a curve for each class")


def calibration_chart(bins):
    """Share of labels that are present against the probability given, and how many there are."""
    figure = _figure(4.8, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
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


def together(yes, known):
    """How often a class (column) is there where another one (row) is: shares, 0 to 1."""
    yes = yes.astype(np.float64)
    return ratio(yes.T @ yes, yes.T @ known.astype(np.float64), of_nothing=0)


def co_occurrence(class_names, label, yes):
    """Which classes come together, truly and as predicted: two pictures of the same classes.

    The most frequent classes only, where there are more than MOST_TOGETHER.

    Returns
    -------
    list of str
        SVG of the truth and of the prediction.
    """
    known, present = label >= 0, label > 0.5
    classes = np.sort(np.argsort(-present.sum(axis=0), kind="stable")[:MOST_TOGETHER])
    known, present, yes = (cells[:, classes] for cells in (known, present, yes & known))
    # Side by side, similar rows make blocks that the eye finds.
    truth = together(present, known)
    order = _similar_together(truth)
    names = [_plain(_short(class_names[c], 14)) for c in classes[order]]
    return [_matrix(shares[np.ix_(order, order)], names, what) for shares, what in (
        (truth, "Labels that truly come together"),
        (together(yes, known), "Labels that are predicted together"))]


def _similar_together(shares):
    """An order in which each class is followed by the one most like it."""
    if not len(shares):
        return []
    rest = list(range(1, len(shares)))
    order = [0]
    likeness = shares + shares.T
    while rest:
        following = max(rest, key=lambda c: likeness[order[-1], c])
        rest.remove(following)
        order.append(following)
    return order


def _matrix(shares, names, description):
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    size = len(names)
    figure = _figure(4.8, 4.8)
    axes = figure.subplots()
    letters = 9 if size <= 12 else 7
    axes.set_xticks(range(size), names, rotation=90)
    axes.set_yticks(range(size), names)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    rows, columns = np.nonzero(shares * (1 - np.eye(size)) >= 0.005)
    corners = 0.46 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    axes.add_collection(PolyCollection(
        np.stack([columns, rows], axis=1)[:, np.newaxis] + corners, linewidths=0,
        facecolors=[to_rgba(ACCENT, round(share, 2)) for share in shares[rows, columns]]))
    axes.plot(range(size), range(size), ".", color=LINE, markersize=letters / 2)
    _style(axes, grid=None)
    axes.tick_params(labelcolor=INK, labelsize=letters, pad=1)
    return _svg(figure, description)


def history_charts(rows):
    """Loss and mAP over the epochs, from the rows of history.csv: two SVG, or none."""
    charts = []
    if not rows:
        return charts
    for measure in ("loss", "mAP"):
        figure = _figure(4.8, 2.7)
        axes = figure.subplots()
        for name, colour, style in (("train", SECOND, (0, (4, 2))), ("val", ACCENT, "solid")):
            points = [(row["epoch"], row[f"{name}-{measure}"]) for row in rows
                      if f"{name}-{measure}" in row]
            if points:
                axes.plot(*zip(*points), color=colour, linestyle=style, marker="o", markersize=4.5,
                          label={"train": "training", "val": "validation"}[name])
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(rows) == 1:
            axes.set(xlim=(rows[0]["epoch"] - 0.5, rows[0]["epoch"] + 0.5),
                     xticks=[rows[0]["epoch"]])
        _style(axes)
        if axes.lines:
            axes.legend(frameon=False, labelcolor=INK, fontsize=9)
        charts.append(_svg(figure, f"{measure} over the epochs"))
    return charts


def _short(name, most=22):
    return name if len(name) <= most else name[:most - 1] + "…"


def _plain(name):
    """A name that matplotlib takes as it stands: a dollar sign would begin a formula."""
    return name.replace("$", r"\$")
