"""The report: what is in the page, what it shows, and that no name can break it."""
import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from common.version import VERSION
from evaluation import report_photos
from evaluation.evaluation import Evaluation, LabelledImages
from evaluation.history import write_history
from evaluation.report import script_json, write_report
from evaluation.report_charts import calibration_chart, co_occurrence, history_charts
from evaluation.report_photos import (
    choose_photos,
    count_images,
    describe_photos,
    thumbnail,
    without_padding,
)

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>",
           "\"quoted\" & 'single' $x$ {{data}}", "plain, but long " * 20]
BROWSER = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A folder of 30 pictures with hostile names, labels, and probabilities near them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    names = [f"{number:02d} <img src=x onerror='alert(3)'> & \"q\".jpg" for number in range(30)]
    for number, name in enumerate(names):
        image = np.full((60, 40 + number, 3), rng.randint(0, 256, 3), np.uint8)
        cv2.imwrite(str(folder / name), image)
    label = rng.choice([-1, 0, 1], (30, 4), p=[0.1, 0.5, 0.4]).astype(np.int8)
    prob = np.clip(0.5 + 0.3 * (label - 0.5) + rng.normal(0, 0.2, label.shape), 0.01, 0.99)
    return LabelledImages(names, str(folder), label, prob.astype(np.float32))


def write(folder, samples, class_names=HOSTILE, thresholds=None, prefix="net", version="0.9"):
    chosen = np.full(len(class_names), 0.5) if thresholds is None else thresholds
    classifier = SimpleNamespace(prefix=str(folder / prefix), epoch=3, thresholds=chosen,
                                 version=version)
    evaluation = Evaluation(class_names, samples.label, samples.prob, thresholds)
    path = write_report(str(folder), classifier, evaluation, samples)
    with open(path, encoding="utf-8") as file:
        return file.read()


class Page(HTMLParser):
    """Elements, their attributes, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


@pytest.fixture(scope="session")
def page(samples, tmp_path_factory):
    thresholds = np.array([0.4, 0.5, 0.6, 0.7])
    return write(tmp_path_factory.mktemp("report"), samples, thresholds=thresholds)


def embedded(page):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text.group(1))


def test_hostile_names_stay_text(page):
    parsed = Page(page)
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 2 and "img" not in tags
    assert not any(name.startswith("on") for _, attrs in parsed.elements for name in attrs)
    assert set(HOSTILE) <= set(parsed.texts["option"]) and set(HOSTILE) <= set(
        parsed.texts["button"])
    assert embedded(page)["classes"] == HOSTILE
    assert all("onerror" in photo["name"] for photo in embedded(page)["photos"])


def test_script_json_cannot_end_its_element():
    text = script_json({"a": "</script><!-- \u2028 &amp;"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!-- \u2028 &amp;"}


def test_page_needs_nothing_else(page):
    for _, attrs in Page(page).elements:
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    style = page[page.index("<style>"):page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\b", page.split("<script>")[-1])


def test_every_class_has_a_row_a_bar_and_a_curve_that_the_script_finds(page):
    ids = [attrs.get("id") for _, attrs in Page(page).elements]
    for c in range(4):
        assert {f"curve-{c}", f"point-{c}", f"bar-{c}"} <= set(ids)
    rows = [attrs["data-class"] for _, attrs in Page(page).elements if "data-class" in attrs]
    assert rows == ["0", "1", "2", "3"]
    assert len([i for i in ids if i]) == len({i for i in ids if i})


def test_charts_take_the_pages_colours(page):
    assert "var(--accent)" in page
    assert not re.search("#0([1-5])0\\1", page.split("</style>")[1])


def test_history_stands_in_the_page_where_there_is_one(samples, tmp_path, caplog):
    assert 'id="training"' not in write(tmp_path, samples)
    write_history(str(tmp_path / "net"), [
        {"epoch": e, "train-loss": 2 - e, "val-loss": 2.1 - e, "val-mAP": e / 2}
        for e in range(2)])
    assert 'id="training"' in write(tmp_path, samples)
    assert 'id="training"' in write(tmp_path, samples, prefix="net-best")
    (tmp_path / "net-history.csv").write_text("epoch,loss\nfirst,much\n")
    assert 'id="training"' not in write(tmp_path, samples)
    assert "no training history" in caplog.text


def test_a_report_where_nothing_can_be_measured(tmp_path, samples):
    nothing = replace(samples, label=np.full_like(samples.label, -1))
    page = Page(write(tmp_path, nothing))
    hidden = {attrs.get("id", attrs.get("href")) for _, attrs in page.elements if "hidden" in attrs}
    assert hidden == {"charts"} | {sign + name for sign in ("", "#") for name in (
        "metrics", "by-class", "calibration", "co-occurrence")}
    assert not any("hidden" in attrs for _, attrs in Page(write(tmp_path, samples)).elements)
    correct = replace(samples, prob=samples.label.clip(0, 1).astype(np.float32))
    sheets = embedded(write(tmp_path, correct))["sheets"]
    assert sheets["wrong"] == sheets["false_negatives"] == sheets["false_positives"] == []


def test_the_page_shows_the_versions_that_trained_and_reported(page, samples, tmp_path):
    assert Page(page).texts["footer"] == [
        f"Network trained by version 0.9, report written by version {VERSION}."]
    assert "a version that it does not name" in write(tmp_path, samples, version=None)


def test_one_epoch_has_one_tick():
    charts = history_charts([{"epoch": 7, "train-loss": 2.0, "val-mAP": 0.5}])
    assert all(re.findall(r">(7|6\.\d+|7\.\d+)</text>", chart) == ["7"] for chart in charts)


def test_every_bin_of_the_calibration_has_a_bar_that_can_be_seen():
    bins = np.zeros((3, 2))
    bins[:, 0], bins[:, 1] = (1e6, 1e4, 1e4), (20, 18, 20)
    svg = calibration_chart(bins)
    tops = [float(y) for y in re.findall(r'd="M [\d.]+ [\d.]+ \nL [\d.]+ [\d.]+ \nL [\d.]+ '
                                         r'([\d.]+) \nL [\d.]+ [\d.]+ \nz', svg)]
    bottom = max(float(y) + float(height) for y, height in re.findall(
        r'<rect x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg))
    assert min(bottom - top for top in tops[-2:]) > 8


def test_sheets_hold_what_their_names_say():
    label = np.int8([[1, 0], [0, 1], [1, 1], [0, -1]])
    prob = np.float32([[0.2, 0.9], [0.6, 0.8], [0.9, 0.4], [0.1, 0.9]])
    sheets = choose_photos(label, prob, np.array([0.5, 0.5]))
    assert sheets["wrong"] == [(0, 1), (1, 0), (2, 1)]
    assert sheets["false_negatives"] == [(0, 0), (2, 1)]
    assert sheets["false_positives"] == [(1, 0), (0, 1)]
    assert sorted(s for s, _ in sheets["random"]) == [0, 1, 2, 3]


def test_totals_count_what_the_sheets_leave_out():
    label = np.zeros((500, 2), np.int8)
    label[:, 0] = 1
    label[0] = -1
    totals = count_images(label, np.full((500, 2), [0.1, 0.4], np.float32), 0.5)
    assert totals["false_negatives"] == {"images": 499, "classes": [499, 0]}
    assert totals["false_positives"] == {"images": 0, "classes": [0, 0]}
    assert (totals["wrong"]["images"], totals["random"]["images"]) == (499, 500)


def test_photos_tell_true_and_false_positives_false_negatives_and_unknown(samples):
    label = np.int8([[1, 0, 1, -1]])
    prob = np.float32([[0.9, 0.8, 0.3, 0.7]])
    one = LabelledImages(samples.names[:1], samples.root, label, prob)
    (photo,), sheets = describe_photos({"random": [(0, -1)]}, one, np.full(4, 0.5))
    assert (photo["true_positives"], photo["false_positives"]) == ([[0, 0.9]], [[1, 0.8]])
    assert (photo["false_negatives"], photo["unknown"]) == ([[2, 0.3]], [[3, 0.7]])
    assert sheets == {"random": [[0, -1]]}


def test_thumbnail_is_the_whole_image_without_padding(samples, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((50, 200, 3), 90, np.uint8))
    text, width, height = thumbnail(str(tmp_path / "wide.png"))
    assert (width, height) == (256, 64) and text
    assert thumbnail(str(tmp_path / "gone.png"))[0] == ""
    grey = np.full((4, 4, 3), 127, np.uint8)
    assert without_padding(grey).shape == (4, 4, 3)


def test_a_thousand_images_stay_below_30_mb(tmp_path):
    rng = np.random.RandomState(0)
    names = [f"{n}.jpg" for n in range(4)]
    for name in names:  # noise is the worst that a JPEG can meet
        cv2.imwrite(str(tmp_path / name), rng.randint(0, 256, (256, 256, 3)).astype(np.uint8))
    label = (rng.uniform(size=(1200, 60)) < 0.1).astype(np.int8)
    prob = rng.uniform(size=label.shape).astype(np.float32)
    many = LabelledImages([names[n % 4] for n in range(1200)], str(tmp_path), label, prob)
    page = write(tmp_path, many, [f"class {c}" for c in range(60)])
    photos = len(embedded(page)["photos"])
    assert photos > 800 and len(page) / photos < 30e6 / report_photos.MAX_PHOTOS


def test_of_more_classes_than_photos_each_gets_its_first(samples):
    rng = np.random.RandomState(0)
    prob = rng.uniform(size=(2000, 300)).astype(np.float32)
    sheets = choose_photos((prob < 0.3).astype(np.int8), prob, np.full(300, 0.5))
    assert len({s for sheet in sheets.values() for s, _ in sheet}) == report_photos.MAX_PHOTOS
    for name in ("false_negatives", "false_positives"):
        assert {c for _, c in sheets[name]} == set(range(300))


def test_co_occurrence_counts_images_with_the_rows_class():
    present = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]], bool)
    shares = co_occurrence(present, np.ones_like(present))
    np.testing.assert_allclose(shares, [[1, 2 / 3, 0], [1, 1, 0], [0, 0, 0]])


WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message));
window.alert = (text) => problems.push("alert " + text);
</script>"""
USE = """<script>
const told = {};
const rows = () => [...document.querySelectorAll("#classes tbody tr")].map((r) => r.dataset.class);
const head = (n) => document.querySelectorAll("#classes thead th")[n].click();
const cards = () => document.querySelectorAll(".card").length;
head(2); told.down = rows(); head(2); told.up = rows(); head(0); told.names = rows();
told.all = cards();
for (const sheet of ["wrong", "false_negatives", "false_positives", "random"]) {
  document.querySelector(`[data-sheet=${sheet}]`).click();
  told[sheet] = cards();
}
document.getElementById("more").click();
told.more = cards();
const filter = document.getElementById("filter");
filter.value = "2"; filter.dispatchEvent(new Event("change"));
told.filtered = cards();
told.curve = [...document.querySelectorAll("#curves .chosen")].map((e) => e.id);
told.name = document.getElementById("curve-name").textContent;
document.querySelector("#classes tr.chosen button").click();
told.back = [filter.value, cards()];
document.getElementById("curve-1").dispatchEvent(new Event("click"));
told.clicked = filter.value;
told.images = [...document.images].every((i) => i.src.startsWith("data:image/jpeg"));
told.wide = document.documentElement.scrollWidth - innerWidth;
told.filterEnds = filter.getBoundingClientRect().right - innerWidth;
const last = document.querySelector("#charts .tall [id^=bar-]");  // drawn at the bottom
const box = last.closest(".tall");
box.style.maxHeight = "4rem";
filter.value = last.id.split("-")[1]; filter.dispatchEvent(new Event("change"));
told.barSeen = last.getBoundingClientRect().bottom <= box.getBoundingClientRect().bottom + 1;
document.querySelector("[data-sheet=false_negatives]").click();
told.which = document.getElementById("which").textContent.split(": ").pop();
told.last = Number(last.id.split("-")[1]);
told.problems = problems;
const result = document.createElement("pre");
result.id = "result"; result.textContent = btoa(JSON.stringify(told));
document.body.append(result);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [1280, 500])  # the narrowest that a window can be
def test_in_a_browser_it_sorts_filters_and_raises_nothing(page, tmp_path, width):
    path = tmp_path / "index.html"
    path.write_text(page.replace("<head>", "<head>" + WATCH).replace("</body>", USE + "</body>"),
                    encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom",
         path.as_uri()], capture_output=True, timeout=120, check=False)
    found = re.search(rb'<pre id="result">([^<]+)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    told = json.loads(base64.b64decode(found.group(1)))
    assert told["problems"] == [] and told["images"] and told["wide"] <= 0
    assert told["filterEnds"] < 0 and told["barSeen"]
    data = embedded(page)
    count = data["totals"]["false_negatives"]["classes"][told["last"]]
    assert told["which"] == f"{count} image{'s' * (count != 1)}."
    cells = [float(attrs["data-value"]) for _, attrs in Page(page).elements
             if "data-value" in attrs]
    columns = len(cells) // 4
    ranked = sorted("0123", key=lambda c: cells[int(c) * columns + 1])
    assert (told["down"], told["up"]) == (ranked[::-1], ranked)
    assert sorted(told["names"]) == list("0123") and told["names"][-1] == "3"
    assert told["random"] == 24
    assert told["wrong"] == told["all"] == min(24, len(data["sheets"]["wrong"]))
    assert told["more"] == len(data["sheets"]["random"]) == 30
    kinds = ("true_positives", "false_positives", "false_negatives", "unknown")
    assert told["filtered"] == sum(any(c == 2 for kind in kinds for c, _ in photo[kind])
                                   for photo in data["photos"])
    assert told["curve"] == ["curve-2", "point-2"] and told["name"] == HOSTILE[2]
    assert told["back"] == ["", 24] and told["clicked"] == "1"
