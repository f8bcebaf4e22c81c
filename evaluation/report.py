"""The report: an index.html with metrics, charts and photos of correct and wrong predictions.

Numbers, photos, style and script are in the file. It needs no network connection and no server.
"""
import base64
import csv
import hashlib
import html
import json
import logging
import math
import os
import re
import time
from pathlib import Path

import numpy as np

from common.files import atomic_file, open_regular_file
from common.label_errors import suspects
from common.metrics import precision_recall_curve
from common.text import counted, printable
from common.version import VERSION
from evaluation import pictures
from evaluation.decisions import CELLS, calibration_bins, ratio
from evaluation.evaluation import TOP
from evaluation.history import COLUMNS, history_files
from evaluation.thresholds import FOLDS

logger = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parent
MAX_ROWS = 100  # of the table of classes that is shown without a scroll bar of its own
MAX_POINTS = 100  # per curve
MAX_CLASSES = 1000  # that have charts of their own, to bound the page
MAX_HISTORY_BYTES = 1 << 22
CHANGE_HEAD = ('<th scope="col" aria-sort="none"><button type="button" title="AP minus that of '
               'the other run">change</button></th>')


def write_report(folder, classifier, evaluation, samples, options, comparison=None, history=()):
    """Write index.html into an existing folder, and return its path.

    `evaluation` is the Evaluation of `samples`, LabelledImages, `options` are Photos,
    `comparison` the Comparison with another run, `history` the rows of read_history.
    """
    label, prob, thresholds = samples.label, samples.prob, evaluation.thresholds
    names = evaluation.class_names
    extra = {"suspects": list(zip(*(places.tolist() for places in suspects(label, prob))))}
    differences = comparison and comparison.against(samples, evaluation.wrong)
    if differences:
        extra.update(fixed=differences.only_right_here, broken=differences.only_right_there)
    sheets, totals = pictures.choose_photos(label, prob, thresholds, extra, options.max_photos)
    photos, sheets = pictures.describe_photos(sheets, samples, thresholds, options)
    curves, mean_curve = precision_recall_curves(label, prob)
    counts = evaluation.per_class[evaluation.rule]
    known = np.count_nonzero(label >= 0, axis=0)
    data = {
        "classes": names, "thresholds": rounded(thresholds, 4), "photos": photos,
        "sheets": sheets, "totals": totals,
        "sentences": [_sentence(evaluation, c) for c in range(len(names))],
        "curves": curves, "meanCurve": mean_curve,
        "points": [rounded(point) for point in zip(counts["recall"], counts["precision"])],
        "shares": rounded(evaluation.support / np.maximum(known, 1)),
        "calibration": calibration(evaluation.calibration, evaluation.intervals["calibration"],
                                   label, prob),
        "history": history if len(history) > 1 else []}
    if any("maps" in photo for photo in photos):
        data["mapColours"] = pictures.MAP_COLOURS
    hidden = {"metrics": not known.any(), "by-class": not known.any(),
              "calibration": not known.any(), "charts": not evaluation.support.any(),
              "training": not history, "decided": not evaluation.fitted_here}
    template = _read("report_page.html")
    for name in filter(hidden.get, hidden):  # the section or note, and the links to it
        template = re.sub(rf'(id="|href="#){name}"', r"\g<0> hidden", template)
    script = "".join(map(_read, ("report_charts.js", "report_maps.js", "report_page.js")))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    number_of_checkpoint = classifier.training.get("checkpoint", classifier.epoch)
    parts = {
        "tall": " tall" * (len(names) > MAX_ROWS),
        "style": _read("report_page.css"),
        "script": script, "scriptHash": f"sha256-{digest}",  # the browser runs no other script
        "data": script_json(data),
        "title": html.escape(f"{os.path.basename(classifier.prefix)}, checkpoint "
                             f"{number_of_checkpoint}"),
        "facts": _facts(classifier, evaluation, samples, comparison),
        "conclusions": "".join(f"<li>{html.escape(line.replace('warning: ', ''))}</li>"
                               for line in evaluation.conclusions()),
        **_tiles(evaluation, comparison, differences), "overall": _overall_rows(evaluation),
        "change": CHANGE_HEAD if comparison else "",
        "classes": _class_rows(evaluation, comparison), "history": _epoch_table(history),
        "options": "".join(f'<option value="{c}">{html.escape(names[c])}</option>'
                           for c in sorted(range(len(names)), key=lambda c: names[c].lower()))}
    path = os.path.join(folder, "index.html")
    with atomic_file(path) as name:
        Path(name).write_text(
            # All at once: nothing is replaced within the parts.
            re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template),
            encoding="utf-8", errors="backslashreplace")
    return path


def script_json(data):
    """JSON for a <script> element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value):
    """Three digits after the point, more only where these would round to 0 or 1."""
    if math.isnan(value):
        return "–"
    digits = 3
    while digits < 6 and 0 < abs(value) < 1 and round(abs(value), digits) in (0, 1):
        digits += 1
    return f"{value:.{digits}f}"


def _difference(value):
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def _read(name):
    return (PAGE / name).read_text(encoding="utf-8")


def _facts(classifier, evaluation, samples, comparison):
    """The header's list of what this is."""
    evaluated = (counted(evaluation.num_samples, "labelled image"),
                 counted(len(evaluation.class_names), "class", "classes"),
                 counted(int(evaluation.support.sum()), "label"))
    thresholds = "one per class"
    if len(set(evaluation.thresholds)) == 1:
        thresholds = f"{evaluation.thresholds[0]:.3g} for every class"
    if evaluation.rule == "chosen" and classifier.thresholds_list:
        thresholds += f", chosen on {classifier.thresholds_list[0]}"
    trained = classifier.version or "that it does not name"
    facts = {**classifier.training,
             "evaluated on": ", ".join(filter(None, (samples.list_name, *evaluated))),
             "charts": len(evaluation.class_names) > MAX_CLASSES and (
                 f"of the {MAX_CLASSES:,} classes with the most labels; tables have all"),
             "thresholds": thresholds, "compared with": comparison and comparison.title,
             "versions": f"network trained by version {trained}, report written by version "
                         f"{VERSION} on {time.strftime('%Y-%m-%d, %H:%M')}"}
    return "".join(f"<div><dt>{html.escape(printable(name))}</dt>"
                   f"<dd>{html.escape(printable(text, None))}</dd></div>"
                   for name, text in facts.items() if text)


def _tiles(evaluation, comparison, differences):
    """The page's parts about the metrics over all classes."""
    rule = evaluation.rule
    parts = {"at": "at threshold 0.5" if rule == "0.5" else "at the class's threshold",
             "random_mAP": number(evaluation.baselines["mAP"])}
    for baseline in ("constant", "always"):
        parts.update({f"{baseline}_{name}": number(value)
                      for name, value in evaluation.overall[baseline].items()})
    for name, value in {"mAP": evaluation.mean_average_precision, **evaluation.overall[rule],
                        "ECE": evaluation.calibration_error}.items():
        text = f"<p>{number(value)}</p>"
        if name != "ECE":
            low, high = map(number, evaluation.interval(name))
            text += f'<span class="interval">95 %: {low} to {high}</span>'
        if comparison:
            other = comparison.values.get(name, math.nan)
            text += f'<span class="change">other run {number(other)}: {_difference(value - other)}'
            if name in differences.intervals:
                low, high = map(_difference, differences.intervals[name])
                text += (f" (95 %, {counted(differences.num_images, 'image')} of both: {low} to "
                         f"{high})")
            text += "</span>"
        parts[name] = text
    return parts


def _overall_rows(evaluation):
    rules = {"0.5": "above 0.5", "chosen": "above the class's threshold",
             f"top-{TOP}": f"among the {TOP} highest", "constant": "constant answer per class",
             "always": "always"}
    if evaluation.fitted_here:
        rules["chosen"] += f", chosen by the other {FOLDS - 1} of {FOLDS} folds of these images"
    return "".join(
        f'<tr class="{"baseline" if rule in ("constant", "always") else ""}">'
        f'<th scope="row">{rules[rule]}</th>'
        + "".join(f"<td>{number(value)}</td>" for value in values.values()) + "</tr>"
        for rule, values in evaluation.overall.items())


def _class_rows(evaluation, comparison):
    counts = evaluation.per_class[evaluation.rule]
    columns = {"labels": evaluation.support, "AP": evaluation.average_precision}
    if comparison:
        columns["change"] = evaluation.average_precision - comparison.average_precision
    columns.update({"threshold": evaluation.thresholds,
                    **{name: counts[name] for name in ("precision", "recall", "F1", *CELLS)}})
    return "".join(
        f'<tr data-class="{c}"><th scope="row"><button type="button">{html.escape(name)}'
        "</button></th>" + "".join(
            _cell(column, values[c], evaluation.intervals["AP"][:, c])
            for column, values in columns.items()) + "</tr>"
        for c, name in enumerate(evaluation.class_names))


def _cell(column, value, interval):
    if isinstance(value, (int, np.integer)):
        return f'<td data-value="{value}">{value}</td>'
    if math.isnan(value):
        return '<td data-value="">–</td>'
    if column == "AP":
        low, high = interval
        return (f'<td data-value="{value:.6f}" class="bar" style="--value:{value:.4f};--low:'
                f'{low:.4f};--high:{high:.4f}" title="95 %: {number(low)} to {number(high)}">'
                f"<i></i>{number(value)}</td>")
    text = _difference(value) if column == "change" else number(value)
    return f'<td data-value="{value:.6f}">{text}</td>'


def _sentence(evaluation, c):
    """The metrics of a class as plain text."""
    values = evaluation.per_class[evaluation.rule]
    low, high = evaluation.intervals["AP"][:, c]
    return (f"{counted(evaluation.support[c], 'label')}, average precision "
            f"{number(evaluation.average_precision[c])} (95 %: {number(low)} to {number(high)}). "
            f"Above {number(evaluation.thresholds[c])}: " + ", ".join(
                f"{name} {number(values[name][c])}" for name in ("precision", "recall", "F1"))
            + ".")


def _epoch_table(rows):
    """A single epoch as a table; more of them are drawn."""
    if len(rows) != 1:
        return ""
    shown = [name for name in rows[0] if name[:3] in ("tra", "val")]
    heads = "".join(f'<th scope="col">{name}</th>' for name in ["Epoch", *shown])
    cells = "".join(f"<td>{number(rows[0][name])}</td>" for name in shown)
    return (f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody><tr>'
            f'<th scope="row">{rows[0]["epoch"]:g}</th>{cells}</tr></tbody></table></div>')


def charted_classes(label):
    """The classes that have charts of their own: those with the most present labels, a set."""
    return {*np.argsort(-np.count_nonzero(label > 0.5, axis=0), kind="stable")[:MAX_CLASSES]}


def precision_recall_curves(label, prob):
    """Curves of the classes with a present label, of MAX_POINTS at most, and their mean.

    Returns a dict by class, of `charted_classes` only, of [recall, precision], lists of equal
    length, and the mean precision of all classes on a grid of recall from 0 to 1.
    """
    curves, on_grid, charted = {}, [], charted_classes(label)
    grid = np.linspace(0, 1, MAX_POINTS + 1)
    for c in np.flatnonzero((label > 0.5).any(axis=0)):
        precision, recall = precision_recall_curve(label[:, c], prob[:, c])
        precision, recall = np.append(precision[0], precision), np.append(0, recall)
        # The best precision at this recall or a higher one: curves of few samples are jagged.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        on_grid.append(best[np.searchsorted(recall, grid - 1e-9)])
        keep = np.unique(np.linspace(0, len(recall) - 1, MAX_POINTS).astype(int))
        if c in charted:
            curves[int(c)] = [rounded(recall[keep]), rounded(precision[keep])]
    return curves, rounded(np.mean(on_grid, axis=0)) if on_grid else []


def calibration(bins, interval, label, prob):
    """Per bin that holds decisions: their number, mean probability and share of present labels.

    `bins` and `interval` are those of the Evaluation. Returns a dict: "all", with the ends of the
    share's interval too, and "classes", a dict by class of `charted_classes`.
    """
    def rows(bins, *ends):
        count, probability, present = bins
        columns = count, ratio(probability, count), ratio(present, count), *ends
        return [rounded(row, 4) for row in np.stack(columns, axis=1)[count > 0]]

    return {"all": rows(bins, *interval),
            "classes": {int(c): rows(calibration_bins(label[:, [c]], prob[:, [c]]).sum(axis=1))
                        for c in charted_classes(label)}}


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
            text = file.read(MAX_HISTORY_BYTES)
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


def rounded(values, digits=3):
    """The values as a list for JSON, None for NaN."""
    return [None if np.isnan(value) else round(float(value), digits) for value in values]
