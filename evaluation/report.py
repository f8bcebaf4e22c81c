"""The report: an index.html with metrics, charts and photos of correct and wrong predictions.

Charts, photos, style and script are in the file. It needs no network connection and no server.
"""
import html
import json
import logging
import math
import os
import re
import time
from pathlib import Path

import numpy as np

from common.cli import InputError
from common.files import write_atomically
from common.metrics import CALIBRATION_BINS
from common.text import printable
from common.version import VERSION
from evaluation import report_charts as charts
from evaluation.evaluation import TOP
from evaluation.history import history_files, read_history
from evaluation.report_photos import choose_photos, count_images, describe_photos
from reading.image_reader import Augment

logger = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parent
METRICS = {
    "CP": "precision, averaged over classes", "CR": "recall, averaged over classes",
    "CF1": "harmonic mean of CP and CR", "OP": "precision over all decisions",
    "OR": "recall over all decisions", "OF1": "harmonic mean of OP and OR",
    "hamming": "share of decisions that are wrong",
    "exact": "share of images without a wrong decision"}


def write_report(folder, classifier, evaluation, samples, max_pixels=Augment.max_pixels):
    """Write index.html into an existing folder, and return its path.

    `evaluation` is the Evaluation of `samples`, LabelledImages. Images of more than `max_pixels`
    get no thumbnail.
    """
    label, prob, thresholds = samples.label, samples.prob, classifier.thresholds
    names = evaluation.class_names
    photos, sheets = describe_photos(choose_photos(label, prob, thresholds), samples, thresholds,
                                     max_pixels)
    data = {"classes": names, "photos": photos, "sheets": sheets,
            "totals": count_images(label, prob, thresholds),
            "sentences": [_sentence(evaluation, c) for c in range(len(names))]}
    title = f"{os.path.basename(classifier.prefix)}, epoch {classifier.epoch}"
    history = _history_section(classifier.prefix)
    template = hide_sections(_read("report_page.html"), empty_sections(evaluation, label))
    page = fill_template(template, {
        "style": _read("report_page.css"), "script": _read("report_page.js"),
        "data": script_json(data), "title": html.escape(title), "subtitle": _subtitle(evaluation),
        "versions": html.escape(_versions(classifier)), "tiles": _tiles(evaluation),
        "overall": _overall_table(evaluation), "classes": _class_table(evaluation),
        "bars": charts.average_precision_bars(
            names, evaluation.average_precision, evaluation.support),
        "curves": charts.precision_recall_curves(
            label, prob, list(evaluation.per_class.values())[-1]),
        "calibration": charts.calibration_chart(evaluation.calibration),
        "bins": str(CALIBRATION_BINS),
        "co_occurrence": _figures(charts.co_occurrence_charts(names, label, prob > thresholds),
                                  ("<b>Labels</b>", "<b>Predictions</b>"), wide=True),
        "history": history, "training": history and '<a href="#training">Training</a>\n    ',
        "options": "".join(f'<option value="{c}">{html.escape(names[c])}</option>'
                           for c in sorted(range(len(names)), key=lambda c: names[c].lower()))})
    path = os.path.join(folder, "index.html")
    write_atomically(path, lambda name: Path(name).write_text(
        page, encoding="utf-8", errors="backslashreplace"))
    return path


def fill_template(template, parts):
    """Replace each {{name}} of the template by its part, and nothing within the parts."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def script_json(data):
    """JSON for a <script> element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name):
    return (PAGE / name).read_text(encoding="utf-8")


def _subtitle(evaluation):
    counts = (_count(evaluation.num_samples, "labelled image"),
              _count(len(evaluation.class_names), "class", "classes"),
              _count(int(evaluation.support.sum()), "label"))
    return f"{', '.join(counts)}; {time.strftime('%Y-%m-%d %H:%M')}"


def _versions(classifier):
    trained = "a version that it does not name"
    if classifier.version:
        trained = f"version {printable(str(classifier.version))}"
    return f"Network trained by {trained}, report written by version {VERSION}."


def _count(number, noun, plural=None):
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _number(value):
    return "–" if math.isnan(value) else f"{value:.3f}"


def _percent(value):
    return "–" if math.isnan(value) else f"{100 * value:.1f}<small> %</small>"


def _tiles(evaluation):
    chosen = "chosen" in evaluation.overall
    best = evaluation.overall["chosen" if chosen else "0.5"]
    at = "at the chosen thresholds" if chosen else "at threshold 0.5"
    tiles = (("mAP", evaluation.mean_average_precision, "mean average precision of the classes"),
             ("CF1", best["CF1"], f"F1 over classes, {at}"),
             ("OF1", best["OF1"], f"F1 over all decisions, {at}"),
             ("Exact match", best["exact"], f"images without a wrong decision, {at}"),
             ("Hamming loss", best["hamming"], f"wrong decisions, {at}"),
             ("ECE", evaluation.calibration_error, "expected calibration error"))
    return "".join(f'<div class="tile"><h3>{name}</h3><p>{_percent(value)}</p>'
                   f"<span>{text}</span></div>" for name, value, text in tiles)


def _overall_table(evaluation):
    rules = {"0.5": "above 0.5", "chosen": "above the class's threshold",
             f"top-{TOP}": f"among the {TOP} highest"}
    head = "".join(f'<th scope="col"><abbr title="{text}">{name}</abbr></th>'
                   for name, text in METRICS.items())
    rows = "".join(
        f'<tr><th scope="row">{rules[rule]}</th>'
        + "".join(f"<td>{_number(values[name])}</td>" for name in METRICS) + "</tr>"
        for rule, values in evaluation.overall.items())
    return (f'<table><thead><tr><th scope="col">Predicted where</th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table>")


def _class_table(evaluation):
    columns = {"labels": evaluation.support, "AP": evaluation.average_precision}
    for rule, values in evaluation.per_class.items():
        if rule == "chosen":
            columns["threshold"] = evaluation.thresholds
        small = f"<small>&gt; {'0.5' if rule == '0.5' else 'threshold'}</small>"
        columns.update({name + small: values[name] for name in ("precision", "recall", "F1")})
    head = "".join(f'<th scope="col" aria-sort="none"><button type="button">{name}</button></th>'
                   for name in ("class", *columns))
    rows = "".join(
        f'<tr data-class="{c}"><th scope="row"><button type="button">{html.escape(name)}'
        "</button></th>" + "".join(_cell(column, values[c]) for column, values in columns.items())
        + "</tr>" for c, name in enumerate(evaluation.class_names))
    return f'<table id="classes"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _cell(column, value):
    if isinstance(value, (int, np.integer)):
        return f'<td data-value="{value}">{value}</td>'
    known = not math.isnan(value)
    bar = f' class="bar" style="--value: {value:.4f}"' if column == "AP" and known else ""
    return f'<td data-value="{value if known else ""}"{bar}>{_number(value)}</td>'


def _sentence(evaluation, c):
    """The metrics of a class as plain text."""
    text = [f"{_count(evaluation.support[c], 'label')}, average precision "
            f"{_number(evaluation.average_precision[c])}."]
    for rule, values in evaluation.per_class.items():
        threshold = "0.5" if rule == "0.5" else f"its threshold {evaluation.thresholds[c]:.3f}"
        text.append(f"Above {threshold}: " + ", ".join(
            f"{name} {_number(values[name][c])}" for name in ("precision", "recall", "F1")) + ".")
    dot = evaluation.support[c] and not math.isnan(values["precision"][c])
    return " ".join(text) + (" The dot marks the threshold." if dot else "")


def _figures(drawings, captions, wide=False):
    if wide:  # scrolls on a phone, where the text would be too small
        drawings = [f'<div class="wide">{svg}</div>' for svg in drawings]
    return "".join(f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"
                   for svg, caption in zip(drawings, captions))


def empty_sections(evaluation, label):
    """Ids of the page's sections that have nothing to show for these labels."""
    empty = [] if evaluation.num_samples else ["metrics", "by-class", "calibration"]
    if not evaluation.support.any():
        return [*empty, "charts", "co-occurrence"]
    return empty if label.shape[1] > 1 else [*empty, "co-occurrence"]


def hide_sections(template, names):
    """The template with these sections and the links to them hidden."""
    for name in names:
        template = re.sub(rf'(id="|href="#){name}"', r"\g<0> hidden", template)
    return template


def _history_section(prefix):
    """The training history's section, where the run's table stands beside the checkpoint."""
    path, _ = history_files(re.sub("-best$", "", prefix))
    try:
        drawings = charts.history_charts(read_history(path))
    except InputError as error:
        logger.warning("warning: no training history in the report: %s", error)
        return ""
    figures = _figures(drawings, ("<b>Loss</b>", "<b>Mean average precision</b>"))
    return figures and ('<section id="training"><h2>Training</h2><div class="pair">'
                        f"{figures}</div></section>")
