"""The report: an index.html with metrics, charts and photos of correct and wrong predictions.

Numbers, photos, style and script are in the file. It needs no network connection and no server.
"""
import base64
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

from common.files import atomic_file
from common.label_errors import suspects
from common.text import counted, printable
from common.version import VERSION
from evaluation import report_charts as charts
from evaluation.class_maps import MAP_COLOURS
from evaluation.evaluation import CELLS, TOP
from evaluation.report_photos import PhotoOptions, choose_photos, count_images, describe_photos
from evaluation.thresholds import FOLDS

logger = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parent
METRICS = {
    "CP": "precision, averaged over classes", "CR": "recall, averaged over classes",
    "CF1": "harmonic mean of CP and CR", "OP": "precision over all decisions",
    "OR": "recall over all decisions", "OF1": "harmonic mean of OP and OR",
    "hamming": "share of decisions that are wrong",
    "exact": "share of images without a wrong decision"}
MOST_ROWS = 100  # of the table of classes that is shown without a scroll bar of its own
HEADS = {
    "labels": "images that show the class", "AP": "average precision, with its 95 % interval",
    "change": "AP minus that of the other run",
    "threshold": "the class is predicted above this probability", "TP": "true positives",
    "FP": "false positives", "FN": "false negatives", "TN": "true negatives"}


def write_report(folder, classifier, evaluation, samples, options=None, comparison=None,
                 history=()):
    """Write index.html into an existing folder, and return its path.

    `evaluation` is the Evaluation of `samples`, LabelledImages, `options` a PhotoOptions, and
    `comparison` the Comparison with another run, `history` the rows of read_history.
    """
    options = options or PhotoOptions()
    label, prob, thresholds = samples.label, samples.prob, evaluation.class_thresholds()
    names = evaluation.class_names
    differences = 0, {}
    extra = {"suspects": list(zip(*(places.tolist() for places in suspects(label, prob))))}
    if comparison:
        extra.update(zip(("fixed", "broken"), comparison.changed(samples.names, evaluation.wrong)))
        differences = comparison.differences(samples.names, label, prob, evaluation.wrong)
    photos, sheets = describe_photos(
        choose_photos(label, prob, thresholds, extra, options.max_photos), samples, thresholds,
        options)
    curves, mean_curve = charts.precision_recall_curves(label, prob)
    number = classifier.training.get("checkpoint", classifier.epoch)
    title = f"{os.path.basename(classifier.prefix)}, checkpoint {number}"
    data = {
        "classes": names, "thresholds": charts.rounded(thresholds, 4), "photos": photos,
        "sheets": sheets, "totals": {**count_images(label, prob, thresholds), **{
            name: {"images": len({s for s, _ in places})} for name, places in extra.items()}},
        "sentences": [_sentence(evaluation, c) for c in range(len(names))],
        "curves": curves, "meanCurve": mean_curve,
        "points": [charts.rounded(point) for point in zip(
            *(evaluation.per_class[evaluation.rule][name] for name in ("recall", "precision")))],
        "shares": charts.rounded(_shares(label)),
        "calibration": charts.calibration(evaluation.calibration,
                                          evaluation.intervals["calibration"], label, prob),
        "history": history if len(history) > 1 else []}
    if any("maps" in photo for photo in photos):
        data["mapColours"] = MAP_COLOURS
    hidden = empty_sections(evaluation) + ([] if history else ["training"])
    script = "".join(map(_read, ("report_charts.js", "report_maps.js", "report_page.js")))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = fill_template(hide_sections(_read("report_page.html"), hidden), {
        "tall": " tall" * (len(names) > MOST_ROWS),
        "style": _read("report_page.css"),
        "script": script, "scriptHash": f"sha256-{digest}",  # the browser runs no other script
        "data": script_json(data), "title": html.escape(title),
        "facts": _facts(classifier, evaluation, samples, comparison),
        "conclusions": "".join(f"<li>{html.escape(line.replace('warning: ', ''))}</li>"
                               for line in evaluation.conclusions()),
        "tiles": _tiles(evaluation, comparison, *differences),
        "overall": _overall_table(evaluation),
        "classes": _class_table(evaluation, comparison), "history": _epoch_table(history),
        "options": "".join(f'<option value="{c}">{html.escape(names[c])}</option>'
                           for c in sorted(range(len(names)), key=lambda c: names[c].lower()))})
    path = os.path.join(folder, "index.html")
    with atomic_file(path) as name:
        Path(name).write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def fill_template(template, parts):
    """Replace each {{name}} of the template by its part, and nothing within the parts."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


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


def _read(name):
    return (PAGE / name).read_text(encoding="utf-8")


def _shares(label):
    known = np.count_nonzero(label >= 0, axis=0)
    return np.count_nonzero(label > 0.5, axis=0) / np.maximum(known, 1)


def _facts(classifier, evaluation, samples, comparison):
    """The header's list of what this is."""
    evaluated = (counted(evaluation.num_samples, "labelled image"),
                 counted(len(evaluation.class_names), "class", "classes"),
                 counted(int(evaluation.support.sum()), "label"))
    if evaluation.rule == "0.5":
        thresholds = "0.5 for every class"
    else:
        thresholds = "one per class"
        if len(set(evaluation.thresholds)) == 1:
            thresholds = f"{evaluation.thresholds[0]:.3g} for every class"
        if classifier.thresholds_list:
            thresholds += f", chosen on {classifier.thresholds_list[0]}"
        if evaluation.fitted_here:
            thresholds += (": these images, so that in the metrics each image is decided by "
                           f"thresholds of the other {FOLDS - 1} of {FOLDS} folds")
    trained = classifier.version or "that it does not name"
    facts = {**classifier.training,
             "evaluated on": ", ".join(filter(None, (samples.list_name, *evaluated))),
             "charts": len(evaluation.class_names) > charts.MAX_CLASSES and (
                 f"of the {charts.MAX_CLASSES:,} classes with the most labels; tables have all"),
             "thresholds": thresholds, "compared with": comparison and comparison.title,
             "versions": f"network trained by version {trained}, report written by version "
                         f"{VERSION} on {time.strftime('%Y-%m-%d, %H:%M')}"}
    return "".join(f"<div><dt>{html.escape(printable(name))}</dt>"
                   f"<dd>{html.escape(printable(text, None))}</dd></div>"
                   for name, text in facts.items() if text)


def _tiles(evaluation, comparison, num_shared, differences):
    values, at = evaluation.overall[evaluation.rule], "at threshold 0.5"
    if evaluation.rule == "chosen":
        at = "at the class's threshold"
    constant, always = (evaluation.overall[rule] for rule in ("constant", "always"))
    tiles = (
        ("mAP", "mAP", evaluation.mean_average_precision, "mean average precision of the classes",
         f"random rankings: {number(evaluation.baselines['mAP'])}"),
        ("CF1", "CF1", values["CF1"], f"F1 averaged over classes, {at}",
         f"predicting every class: {number(always['CF1'])}"),
        ("OF1", "OF1", values["OF1"], f"F1 over all decisions, {at}",
         f"predicting every class: {number(always['OF1'])}"),
        ("Exact match", "exact", values["exact"], f"images without a wrong decision, {at}",
         f"constant answer: {number(constant['exact'])}"),
        ("Hamming loss", "hamming", values["hamming"], f"share of wrong decisions, {at}",
         f"constant answer: {number(constant['hamming'])}"),
        ("ECE", "ECE", evaluation.calibration_error, "expected calibration error", ""))
    def change(name, value):
        if not comparison:
            return ""
        other = comparison.values.get(name, math.nan)
        text = f"other run {number(other)}: {_change(value - other)}"
        if name in differences:
            low, high = map(_change, differences[name])
            text += f" (95 %, {counted(num_shared, 'image')} of both: {low} to {high})"
        return text

    return "".join(_tile(evaluation, change(name, value), title, name, value, text, baseline)
                   for title, name, value, text, baseline in tiles)


def _tile(evaluation, change, title, name, value, text, baseline):
    interval = evaluation.intervals.get(name, evaluation.intervals.get((evaluation.rule, name)))
    lines = [f"<h3>{title}</h3><p>{number(value)}</p>"]
    if interval is not None:
        low, high = map(number, interval)
        lines.append(f'<span class="interval">95 %: {low} to {high}</span>')
    if change:
        lines.append(f'<span class="change">{change}</span>')
    lines += [f"<span>{part}</span>" for part in (text, baseline) if part]
    return f'<div class="tile">{"".join(lines)}</div>'


def _change(difference):
    return "–" if math.isnan(difference) else f"{difference:+.3f}".replace("-", "−")


def _overall_table(evaluation):
    rules = {"0.5": "above 0.5", "chosen": "above the class's threshold",
             f"top-{TOP}": f"among the {TOP} highest", "constant": "constant answer per class",
             "always": "always"}
    if evaluation.fitted_here:
        rules["chosen"] += ", chosen by other folds of these images"
    head = "".join(f'<th scope="col"><abbr title="{text}">{name}</abbr></th>'
                   for name, text in METRICS.items())
    rows = "".join(
        f'<tr class="{"baseline" if rule in ("constant", "always") else ""}">'
        f'<th scope="row">{rules[rule]}</th>'
        + "".join(f"<td>{number(values[name])}</td>" for name in METRICS) + "</tr>"
        for rule, values in evaluation.overall.items())
    return (f'<table><thead><tr><th scope="col">Predicted where</th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table>")


def _class_table(evaluation, comparison):
    metrics = evaluation.per_class[evaluation.rule]
    columns = {"labels": evaluation.support, "AP": evaluation.average_precision}
    if comparison:
        columns["change"] = evaluation.average_precision - comparison.average_precision
    columns.update({"threshold": evaluation.class_thresholds(),
                    **{name: metrics[name] for name in ("precision", "recall", "F1", *CELLS)}})
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button" title="{HEADS.get(name, name)}">'
        f"{name}</button></th>" for name in ("class", *columns))
    rows = "".join(
        f'<tr data-class="{c}"><th scope="row"><button type="button">{html.escape(name)}'
        "</button></th>" + "".join(
            _cell(column, values[c], evaluation.intervals["AP"][:, c])
            for column, values in columns.items()) + "</tr>"
        for c, name in enumerate(evaluation.class_names))
    return f'<table id="classes"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


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
    text = _change(value) if column == "change" else number(value)
    return f'<td data-value="{value:.6f}">{text}</td>'


def _sentence(evaluation, c):
    """The metrics of a class as plain text."""
    values = evaluation.per_class[evaluation.rule]
    low, high = evaluation.intervals["AP"][:, c]
    return (f"{counted(evaluation.support[c], 'label')}, average precision "
            f"{number(evaluation.average_precision[c])} (95 %: {number(low)} to {number(high)}). "
            f"Above {number(evaluation.class_thresholds()[c])}: " + ", ".join(
                f"{name} {number(values[name][c])}" for name in ("precision", "recall", "F1"))
            + ".")


def empty_sections(evaluation):
    """Ids of the page's sections that have nothing to show."""
    empty = [] if evaluation.num_samples else ["metrics", "by-class", "calibration"]
    if not evaluation.support.any():
        empty.append("charts")
    return empty


def hide_sections(template, names):
    """The template with these sections and the links to them hidden."""
    for name in names:
        template = re.sub(rf'(id="|href="#){name}"', r"\g<0> hidden", template)
    return template


def _epoch_table(rows):
    """A single epoch as a table; more of them are drawn."""
    if len(rows) != 1:
        return ""
    shown = [(name, value) for name, value in rows[0].items() if name[:3] in ("tra", "val")]
    return ('<div class="scroll"><table><thead><tr><th scope="col">Epoch</th>' + "".join(
        f'<th scope="col">{html.escape(name)}</th>' for name, _ in shown)
        + f'</tr></thead><tbody><tr><th scope="row">{rows[0]["epoch"]:g}</th>' + "".join(
            f"<td>{number(value)}</td>" for _, value in shown) + "</tr></tbody></table></div>")
