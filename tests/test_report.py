"""The report: what is in the page, what it shows, and that no name can break it."""
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve as precision_recall_curve_of_sklearn

from common.cli import InputError
from common.label_errors import suspects
from common.version import VERSION
from evaluation import pictures, report
from evaluation.evaluation import Evaluation, LabelledImages, bootstrap, read_measures
from evaluation.history import write_history
from evaluation.pictures import (
    COLOURS,
    OPACITY,
    Photos,
    choose_photos,
    describe_photos,
    embedded_jpeg,
)
from evaluation.report import (
    calibration,
    precision_recall_curves,
    read_history,
    script_json,
    write_report,
)

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>",
           "\"quoted\" & 'single' $x$ {{data}}", "plain, but long " * 20]
NO_MAPS = Photos(SimpleNamespace(has_maps=False, area=None))
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


def write(folder, samples, class_names=HOSTILE, thresholds=None, prefix="net", version="0.9",
          predicted=None, photos=None, **options):
    classifier = SimpleNamespace(prefix=str(folder / prefix), epoch=3, version=version, area=None,
                                 thresholds_list=["fit.lst", ""], training={"recipe": "<b>2</b>"},
                                 has_maps=False)
    evaluation = Evaluation(class_names, samples.label, samples.prob, thresholds, predicted)
    path = write_report(str(folder), classifier, evaluation, samples, photos or Photos(classifier),
                        **options)
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


def test_charts_of_many_classes_are_those_of_the_most_labelled(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_CLASSES", 2)
    page = write(tmp_path, samples)
    data, counts = embedded(page), (samples.label > 0.5).sum(axis=0)
    most = {str(c) for c in np.argsort(-counts, kind="stable")[:2]}
    assert set(data["curves"]) == set(data["calibration"]["classes"]) == most
    assert len(data["sentences"]) == 4 and "of the 2 classes with the most labels" in page
    assert data["meanCurve"] == precision_recall_curves(samples.label, samples.prob)[1]


@pytest.mark.slow
def test_a_page_of_thousands_of_classes_stays_below_30_mb(samples, tmp_path):
    random = np.random.RandomState(0)
    label = (random.uniform(size=(30, 9598)) < 0.1).astype(np.int8)
    prob = random.uniform(size=label.shape).astype(np.float32)
    many = LabelledImages(samples.names, samples.root, label, prob)
    page = write(tmp_path, many, [f"class number {c}" for c in range(9598)])
    # Photos at their most, base64, in place of the few small ones here.
    photos = sum(len(photo["jpeg"]) for photo in embedded(page)["photos"])
    most = (pictures.MAX_BYTES - 9598 * pictures.CLASS_BYTES) * 4 / 3
    assert len(page.encode()) - photos + most < 30e6


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


def test_every_class_has_a_row_and_a_curve(page):
    rows = [attrs["data-class"] for _, attrs in Page(page).elements if "data-class" in attrs]
    assert rows == ["0", "1", "2", "3"] == list(embedded(page)["curves"])
    ids = [attrs.get("id") for _, attrs in Page(page).elements]
    assert len([i for i in ids if i]) == len({i for i in ids if i})


def test_history_is_in_the_page_where_there_is_one(samples, tmp_path):
    hidden = 'id="training" hidden'
    assert hidden in write(tmp_path, samples)
    rows = [{"epoch": e, "train-loss": 2 - e, "val-loss": 2.1 - e, "val-mAP": e / 2}
            for e in range(2)]
    write_history(str(tmp_path / "net"), rows)
    for prefix in ("net", "net-best"):
        page = write(tmp_path, samples, history=read_history(str(tmp_path / prefix)))
        assert hidden not in page and embedded(page)["history"] == rows


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("epoch,train-loss\nfirst,much\n"),
    lambda path: path.write_text("epoch,train-loss\ninf,1\n"),
    lambda path: path.write_text("epoch,train-loss\n-1,1\n"),
    lambda path: path.write_text("train-loss\n1\n"),
    lambda path: path.write_text("epoch,train-loss\n1," + "9" * 200_000 + "\n"),
    lambda path: path.write_bytes(b"epoch\n\xff\n"), os.mkdir, os.mkfifo])
def test_a_strangers_history_is_passed_over_with_a_warning(make, tmp_path, caplog):
    make(tmp_path / "net-history.csv")
    assert read_history(str(tmp_path / "net-best")) == []
    assert f"{tmp_path}/net-history.csv: not a history" in caplog.text


def test_what_is_not_finite_in_a_history_is_left_out(tmp_path):
    (tmp_path / "net-history.csv").write_text("epoch,x,train-loss,val-mAP\n1,2,nan,0.5\n")
    assert read_history(str(tmp_path / "net")) == [{"epoch": 1, "val-mAP": 0.5}]


def test_the_page_says_where_photos_and_metrics_go_by_other_thresholds(tmp_path, samples):
    thresholds = np.full(4, 0.4)
    for predicted, is_shown in ((None, False), (samples.prob > 0.45, True)):
        page = write(tmp_path, samples, thresholds=thresholds, predicted=predicted)
        assert ('id="decided" class' in page) == is_shown


def test_a_report_where_nothing_can_be_measured(tmp_path, samples):
    nothing = replace(samples, label=np.full_like(samples.label, -1))
    page = Page(write(tmp_path, nothing))
    hidden = {attrs.get("id", attrs.get("href")) for _, attrs in page.elements if "hidden" in attrs}
    sections = {"metrics", "by-class", "calibration", "training"}
    assert hidden == {"charts", "decided", "tip"} | sections | {f"#{name}" for name in sections}
    hidden = {attrs.get("id", attrs.get("href"))
              for _, attrs in Page(write(tmp_path, samples)).elements if "hidden" in attrs}
    assert hidden == {"decided", "tip", "training", "#training"}
    correct = replace(samples, prob=samples.label.clip(0, 1).astype(np.float32))
    sheets = embedded(write(tmp_path, correct))["sheets"]
    assert sheets["wrong"] == sheets["false_negatives"] == sheets["false_positives"] == []


def test_the_header_says_what_this_is(page, samples, tmp_path):
    facts = dict(zip(*(Page(page).texts[tag] for tag in ("dt", "dd"))))
    assert facts["recipe"] == "<b>2</b>" and facts["thresholds"].endswith("chosen on fit.lst")
    assert facts["versions"].startswith(
        f"network trained by version 0.9, report written by version {VERSION} on 20")
    assert facts["evaluated on"].startswith("30 labelled images, 4 classes, ")
    other = write(tmp_path, replace(samples, list_name="val.lst"), version=None)
    assert "that it does not name" in other and "val.lst, 30 labelled images" in other


def test_one_epoch_is_a_table(samples, tmp_path):
    write_history(str(tmp_path / "net"), [{"epoch": 7, "train-loss": 2.0, "val-mAP": 0.5}])
    page = write(tmp_path, samples, history=read_history(str(tmp_path / "net")))
    assert embedded(page)["history"] == []
    assert '<th scope="row">7</th><td>2.000</td><td>0.500</td>' in page


def test_numbers_have_the_digits_that_tell_them_from_0_and_1():
    values = (0.1234, 0.9995, 0.99999, 1.0, 0.0, 0.0004, 1e-9, float("nan"), -0.25)
    assert [report.number(value) for value in values] == [
        "0.123", "0.9995", "0.99999", "1.000", "0.000", "0.0004", "0.000000", "–", "-0.250"]


def test_calibration_of_a_class_is_scikit_learns(samples):
    label, prob = samples.label, samples.prob
    evaluation = Evaluation(HOSTILE, label, prob)
    data = calibration(evaluation.calibration, evaluation.intervals["calibration"], label, prob)
    assert len(data["classes"]) == label.shape[1]
    for c, rows in data["classes"].items():
        known = label[:, c] >= 0
        share, mean = calibration_curve(label[known, c], prob[known, c], n_bins=15)
        np.testing.assert_allclose([row[1:] for row in rows], np.stack([mean, share], 1), atol=6e-5)
        assert sum(row[0] for row in rows) == known.sum()
    assert all(row[3] <= row[2] <= row[4] for row in data["all"])


def test_curves_pass_through_scikit_learns_points(samples):
    known = samples.label[:, 1] >= 0
    precision, recall, _ = precision_recall_curve_of_sklearn(
        samples.label[known, 1], samples.prob[known, 1])
    points = set(zip(recall.round(3), precision.round(3)))
    curves, mean = precision_recall_curves(samples.label, samples.prob)
    assert set(list(zip(*curves[1]))[1:]) <= points and len(mean) == 101


def test_sheets_hold_what_their_names_say():
    label = np.int8([[1, 0], [0, 1], [1, 1], [0, -1]])
    prob = np.float32([[0.2, 0.9], [0.6, 0.8], [0.9, 0.4], [0.1, 0.9]])
    sheets, _ = choose_photos(label, prob, np.array([0.5, 0.5]))
    assert sheets["wrong"] == [(0, 1), (1, 0), (2, 1)]
    assert sheets["false_negatives"] == [(0, 0), (2, 1)]
    assert sheets["false_positives"] == [(1, 0), (0, 1)]
    assert sorted(s for s, _ in sheets["random"]) == [0, 1, 2, 3]


def test_totals_count_what_the_sheets_leave_out():
    label = np.zeros((500, 2), np.int8)
    label[:, 0] = 1
    label[0] = -1
    _, totals = choose_photos(label, np.full((500, 2), [0.1, 0.4], np.float32), 0.5)
    assert totals["false_negatives"] == {"images": 499, "classes": [499, 0]}
    assert totals["false_positives"] == {"images": 0, "classes": [0, 0]}
    assert (totals["wrong"]["images"], totals["random"]["images"]) == (499, 500)


def test_photos_tell_true_and_false_positives_false_negatives_and_unknown(samples):
    label = np.int8([[1, 0, 1, -1]])
    prob = np.float32([[0.9, 0.8, 0.3, 0.7]])
    one = LabelledImages(samples.names[:1], samples.root, label, prob)
    (photo,), sheets = describe_photos({"random": [(0, -1)]}, one, np.full(4, 0.5), NO_MAPS)
    assert (photo["true_positives"], photo["false_positives"]) == ([[0, 0.9]], [[1, 0.8]])
    assert (photo["false_negatives"], photo["unknown"]) == ([[2, 0.3]], [[3, 0.7]])
    assert sheets == {"random": [[0, -1]]}


def size_of(text):
    image = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
    return image.shape[1::-1]


def test_a_photo_is_the_whole_image_without_padding_and_never_enlarged(tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((50, 200, 3), 90, np.uint8))
    text, width, height, full = embedded_jpeg(str(tmp_path / "wide.png"), 50_000)
    assert (width, height) == (200, 50) == size_of(text) == full
    assert embedded_jpeg(str(tmp_path / "gone.png"), 50_000)[0] == ""


def test_a_photo_keeps_edges_of_the_colour_of_padding(tmp_path):
    image = np.full((1500, 3000, 3), 127, np.uint8)
    image[700:800, 1400:1600] = 255
    cv2.imwrite(str(tmp_path / "grey.png"), image)
    assert embedded_jpeg(str(tmp_path / "grey.png"), 1e6)[1:] == (1024, 512, (3000, 1500))


@pytest.mark.parametrize("max_bytes, longest", [(1e6, 1024), (60_000, 512), (3_000, 256)])
def test_a_photo_is_as_large_as_its_share_of_the_page_allows(tmp_path, max_bytes, longest):
    image = np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.resize(image, (1600, 1200)))
    text, width, height, _ = embedded_jpeg(str(tmp_path / "a.png"), max_bytes)
    assert (width, height) == size_of(text) == (longest, longest * 3 // 4)
    assert len(text) * 3 / 4 <= max_bytes or longest == 256


def test_fewer_photos_leave_the_first_of_each_sheet(samples):
    sheets, _ = choose_photos(samples.label, samples.prob, np.full(4, 0.5),
                              {"suspects": [(3, 1)]}, 3)
    assert len({s for sheet in sheets.values() for s, _ in sheet}) == 3
    assert sheets["suspects"] == [(3, 1)] and len(sheets["wrong"]) >= 1


def test_suspect_labels_have_a_sheet(page, samples):
    data = embedded(page)
    shown = [(data["photos"][number]["name"], c) for number, c in data["sheets"]["suspects"]]
    expected = zip(*suspects(samples.label, samples.prob))
    assert shown == [(samples.names[s], c) for s, c in expected][:60]


def test_a_comparison_shows_differences_and_what_changed_sides(samples, tmp_path):
    other = replace(samples, prob=samples.prob[::-1].copy())
    there = Evaluation(HOSTILE, other.label, other.prob)
    measures = tmp_path / "other.json"
    measures.write_text(json.dumps(there.as_json(samples.names[:20])))
    here = Evaluation(HOSTILE, samples.label, samples.prob)
    page = write(tmp_path, samples, comparison=read_measures(str(measures), HOSTILE))
    change = here.mean_average_precision - there.mean_average_precision
    assert f"other run {there.mean_average_precision:.3f}: {change:+.3f}".replace("-", "−") in page
    apart = bootstrap(samples.label[:20], samples.prob[:20], {},
                      other=(other.prob[:20].round(4), {}))["mAP"]
    assert " to ".join(f"{end:+.3f}".replace("-", "−") for end in apart) in page
    assert "20 images of both" in page and "other run (" in page
    cells = [attrs["data-value"] for _, attrs in Page(page).elements if "data-value" in attrs]
    assert float(cells[2]) == pytest.approx(
        here.average_precision[0] - there.average_precision[0], abs=1e-6)
    data = embedded(page)
    for sheet, cells in (("fixed", there.wrong & ~here.wrong),
                         ("broken", here.wrong & ~there.wrong)):
        expected = [(samples.names[s], c) for s, c in np.argwhere(cells) if s < 20]
        shown = [(data["photos"][n]["name"], c) for n, c in data["sheets"][sheet]]
        assert shown == expected[:60] and expected


def test_classes_that_the_other_run_lacks_change_no_sides(tmp_path):
    label = np.int8([[1, 1]])
    there = Evaluation(["b", "z"], label, np.float32([[0.9, 0.1]]))
    (tmp_path / "m.json").write_text(json.dumps(there.as_json(["x"])))
    other = read_measures(str(tmp_path / "m.json"), ["a", "b"])
    here = LabelledImages(["x", "y"], "", np.int8([[0, 0]] * 2), np.float32([[0.9, 0.9]] * 2))
    assert other.against(here, np.full((2, 2), True))[:3] == ([], [[0, 1]], 1)
    apart = replace(here, names=["v", "w"])
    found = other.against(apart, np.full((2, 2), True))
    assert found[:3] == ([], [], 0) and np.isnan(found.intervals["CF1"]).all()
    assert np.isnan(other.average_precision[0]) and other.average_precision[1] == 1


@pytest.mark.parametrize("text", [
    "{", "[]", "{}", '{"classes": 1}', '{"classes": [], "mAP": 1}', "[" * 100_000,
    '{"classes": [{"class": "a", "AP": "x"}], "mAP": 1, "ECE": 1, "rule": "0.5", "decisions": '
    '{"0.5": {}}, "mistakes": {}}',
    '{"classes": [{"class": "b", "AP": 1}], "mAP": 1, "ECE": 1, "rule": "0.5", "decisions": '
    '{"0.5": {}}, "mistakes": {"x": [9]}}',
    '{"classes": [{"class": "a", "AP": 1}], "mAP": 1, "ECE": 1, "rule": "0.5", "decisions": '
    '{"0.5": {}}, "mistakes": {}, "probabilities": {"x": [[1]]}}'])
def test_measures_of_other_kinds_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match="m.json: "):
        read_measures(str(tmp_path / "m.json"), ["a"])


@pytest.mark.slow
def test_a_thousand_images_stay_below_30_mb(tmp_path):
    rng = np.random.RandomState(0)
    names = [f"{n}.jpg" for n in range(4)]
    for name in names:  # noise is the worst that a JPEG can meet
        cv2.imwrite(str(tmp_path / name), rng.randint(0, 256, (256, 256, 3)).astype(np.uint8))
    label = (rng.uniform(size=(1200, 60)) < 0.1).astype(np.int8)
    prob = rng.uniform(size=label.shape).astype(np.float32)
    many = LabelledImages([names[n % 4] for n in range(1200)], str(tmp_path), label, prob)
    page = write(tmp_path, many, [f"class {c}" for c in range(60)])
    assert len(embedded(page)["photos"]) > 800 and len(page) < 30e6


class FixedMaps:
    """In place of Photos: of classes 0 and 1 bright in two places, of 2 in all, else in none."""

    max_photos, max_pixels = pictures.MAX_PHOTOS, pictures.ReadOptions.max_pixels

    def maps(self, paths, classes, max_bytes):
        two = np.zeros((15, 10), np.uint8)
        two[0, 0], two[14, 5] = 255, 100
        grids = {0: two, 1: two, 2: np.full_like(two, 255)}
        return [{c: grids.get(c, 0 * two) for c in chosen[:max_bytes // two.size]}
                for chosen in classes]

    def area(self, full):
        return 0.25, 0.0, 0.5, 1.0


def test_maps_and_photos_share_the_bytes_of_the_page(samples, monkeypatch):
    label = np.zeros((30, 80), np.int8)
    label[:, 79] = 1
    prob = np.tile(np.linspace(0.6, 0.9, 80, dtype=np.float32), (30, 1))
    prob[:, 79] = 0.1
    many, shares = replace(samples, label=label, prob=prob), []

    def recorded(path, max_bytes, max_pixels):
        shares.append(max_bytes)
        return embedded_jpeg(path, max_bytes, max_pixels)

    monkeypatch.setattr(pictures, "embedded_jpeg", recorded)
    monkeypatch.setattr(pictures, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(pictures, "MAX_MAP_BYTES", 30 * 3050)
    sheets = {"random": [(s, -1) for s in range(30)]}
    photos, _ = describe_photos(sheets, many, 0.5, FixedMaps())
    for photo in photos:  # the labelled class, then the most probable
        assert sorted(map(int, photo["maps"]["classes"])) == list(range(60, 80))
    map_bytes = sum(len(base64.b64decode(text)) for photo in photos
                    for text in photo["maps"]["classes"].values())
    assert map_bytes + sum(shares) == pytest.approx(1_000_000 - 80 * pictures.CLASS_BYTES)


def test_of_more_classes_than_photos_each_gets_its_first(samples):
    rng = np.random.RandomState(0)
    prob = rng.uniform(size=(2000, 300)).astype(np.float32)
    sheets, _ = choose_photos((prob < 0.3).astype(np.int8), prob, np.full(300, 0.5))
    assert len({s for sheet in sheets.values() for s, _ in sheet}) == pictures.MAX_PHOTOS
    for name in ("false_negatives", "false_positives"):
        assert {c for _, c in sheets[name]} == set(range(300))


WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message));
window.alert = (text) => problems.push("alert " + text);
addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
  problems.push(`${violatedDirective} ${blockedURI}`));
</script>"""
USE = """<script>
const told = {};
const get = (id) => document.getElementById(id);
const rows = () => [...document.querySelectorAll("#classes tbody tr")].map((r) => r.dataset.class);
const head = (n) => document.querySelectorAll("#classes thead th")[n].click();
const cards = () => document.querySelectorAll(".card").length;
const press = (part, key) =>
  part.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const choose = (c) => { filter.value = c; filter.dispatchEvent(new Event("change")); };
head(2); told.down = rows(); head(2); told.up = rows(); head(0); told.names = rows();
told.all = cards();
for (const sheet of ["wrong", "false_negatives", "false_positives", "suspects", "random"]) {
  document.querySelector(`[data-sheet=${sheet}]`).click();
  told[sheet] = cards();
}
get("more").click();
told.more = cards();
const filter = get("filter");
choose("2");
told.filtered = cards();
told.name = get("curve-name").textContent;
told.curves = document.querySelectorAll("#curves .curve.chosen").length;
told.dots = document.querySelectorAll("#calibration-chart circle.dot").length;
document.querySelector("#classes tr.chosen button").click();
told.back = [filter.value, cards()];
document.querySelector("#curves .target[data-class='1']").dispatchEvent(new Event("click"));
told.clicked = filter.value;
press(get("curves"), "ArrowRight");
told.pressed = filter.value;
document.querySelector("#classes tr.chosen button").click();
told.images = [...document.images].every((i) => i.src.startsWith("data:image/jpeg"));
document.querySelectorAll(".open")[1].click();
told.open = [get("photo").open, get("photo-path").textContent, get("photo-classes").rows.length];
press(get("photo"), "ArrowLeft");
told.turned = get("photo-name").textContent;
get("close").click();
told.closed = get("photo").open;
told.wide = document.documentElement.scrollWidth - innerWidth;
told.links = [...document.querySelectorAll("nav a")].filter((a) => a.offsetWidth).length;
const last = [...document.querySelectorAll("#classes tbody tr")].pop();
const box = last.closest(".scroll");
box.style.maxHeight = "6rem";
choose(last.dataset.class);
told.rowSeen = last.getBoundingClientRect().bottom <= box.getBoundingClientRect().bottom + 1;
document.querySelector("[data-sheet=false_negatives]").click();
told.which = get("which").textContent.split(": ").pop();
told.last = Number(last.dataset.class);

// Contrast of each text with what is behind it (WCAG 2)
const parse = (text) => {
  const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
  return text.startsWith("color(") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
};
const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const luminance = (colour) => colour.slice(0, 3).map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
get("photo").showModal();
told.pale = [];
for (const part of document.querySelectorAll("body *")) {
  const own = [...part.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !part.getClientRects().length || part.tagName === "OPTION") continue;
  const behind = [];
  for (let up = part; up; up = up.parentElement) {
    if (part.classList.contains("inside") && up === part) {
      behind.push(parse(getComputedStyle(part.parentNode.firstChild).fill));
    } else behind.push(parse(getComputedStyle(up).backgroundColor));
  }
  const paper = behind.reverse().reduce((under, colour) => over(colour, under), [255, 255, 255, 1]);
  const style = getComputedStyle(part);
  const ink = over(parse(part instanceof SVGElement ? style.fill : style.color), paper);
  const [light, dark] = [luminance(ink), luminance(paper)].sort((a, b) => b - a);
  if ((light + 0.05) / (dark + 0.05) < 4.5) told.pale.push(part.outerHTML.slice(0, 100));
}
told.dark = matchMedia("(prefers-color-scheme: dark)").matches;
told.problems = problems;
const result = document.createElement("pre");
result.id = "result"; result.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(told))));
document.body.append(result);
</script>"""


USE_MAPS = """<script>
const told = {};
const get = (id) => document.getElementById(id);
document.querySelector("[data-sheet=random]").click();
document.querySelectorAll(".open")[1].click();
const rows = [...get("photo-classes").tBodies[0].rows];
const { classes } = JSON.parse(get("data").textContent);
const number = (row) => classes.indexOf(row.querySelector("button").textContent);
const mapped = rows.filter((row) => row.classList.contains("mapped"))
  .sort((a, b) => number(a) - number(b));
told.mapped = mapped.map(number);
const point = (row, type, pointerType) =>
  row.dispatchEvent(new PointerEvent(`pointer${type}`, { pointerType }));
const layer = document.querySelector(".layer");
const isShown = (row) => row.classList.contains("shown");
const shown = () => (layer.hidden ? -1 : mapped.findIndex(isShown));
const box = (part) => {
  const { left, top, width, height } = part.getBoundingClientRect();
  return [left, top, width, height];
};
told.hint = document.querySelector(".hint").textContent;
told.first = shown();
point(mapped[0], "enter", "mouse"); told.pointed = shown();
told.image = box(document.querySelector(".stage img"));
const canvas = layer.querySelector("canvas");
told.canvas = box(canvas);
const enlarged = canvas.width / 10;
told.pixels = [[0.5, 0.5], [0, 0], [5.5, 14.5], [8.5, 7.5]].map(([x, y]) =>
  [...canvas.getContext("2d").getImageData(x * enlarged, y * enlarged, 1, 1).data]);
told.label = canvas.getAttribute("aria-label");
point(mapped[0], "leave", "mouse"); told.left = shown();
mapped[1].querySelector("button").click(); told.tapped = shown();
told.pressed = mapped[1].querySelector("button").getAttribute("aria-pressed");
point(mapped[0], "enter", "mouse"); told.over = shown();
point(mapped[0], "leave", "mouse"); told.back = shown();
mapped[0].click(); told.other = shown();
point(mapped[1], "enter", "touch"); told.touched = shown();
mapped[0].click(); told.again = shown();
told.notes = [0, 2, 3].map((i) => {
  mapped[i].click();
  return layer.querySelector("p").textContent;
});
told.wide = get("photo").scrollWidth - get("photo").clientWidth;
get("after").click();
told.turned = document.querySelectorAll(".layer:not([hidden])").length;
told.problems = problems;
const result = document.createElement("pre");
result.id = "result"; result.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(told))));
document.body.append(result);
</script>"""


def use_in_browser(page, script, tmp_path, width, dark):
    """What a script at the end of the page found, in a window of so many pixels."""
    path = tmp_path / "index.html"
    own = re.search("<script>(.*)</script>", script, re.S).group(1)
    allowed = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    path.write_text(page.replace("<head>", "<head>" + WATCH)
                    .replace("script-src ", f"script-src 'sha256-{allowed}' ", 1)
                    .replace("</body>", script + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom",
         path.as_uri()], capture_output=True, timeout=120, check=False)
    found = re.search(rb'<pre id="result">([^<]+)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(base64.b64decode(found.group(1)))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width, dark", [(1280, True), (500, False)])  # no window is narrower
def test_in_a_browser_it_sorts_filters_and_raises_nothing(page, samples, tmp_path, width, dark):
    told = use_in_browser(page, USE, tmp_path, width, dark)
    assert told["problems"] == [] and told["images"] and told["wide"] <= 0
    assert told["pale"] == [] and told["dark"] == dark
    assert told["links"] == 4 and told["rowSeen"]
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
    assert told["suspects"] == min(24, len(data["sheets"]["suspects"]))
    assert told["more"] == len(data["sheets"]["random"]) == 30
    kinds = ("true_positives", "false_positives", "false_negatives", "unknown")
    assert told["filtered"] == sum(any(c == 2 for kind in kinds for c, _ in photo[kind])
                                   for photo in data["photos"])
    assert told["name"] == HOSTILE[2] and told["curves"] == 1
    assert told["dots"] == len(data["calibration"]["classes"]["2"])
    assert told["back"] == ["", 24] and (told["clicked"], told["pressed"]) == ("1", "2")
    first, second = (data["photos"][number] for number, _ in data["sheets"]["random"][:2])
    assert told["open"] == [True, f"{samples.root}/{second['name']}",
                            1 + sum(len(second[kind]) for kind in kinds)]
    assert told["turned"] == first["name"] and told["closed"] is False


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [1280, 500])
def test_in_a_browser_a_class_shows_its_map_over_the_photo(samples, tmp_path, width):
    certain = replace(samples, prob=np.full_like(samples.prob, 0.9))
    page = write(tmp_path, certain, photos=FixedMaps())
    told = use_in_browser(page, USE_MAPS, tmp_path, width, False)
    assert told["problems"] == [] and told["wide"] <= 0
    assert told["mapped"] == [0, 1, 2, 3] and "Point at a class" in told["hint"]
    steps = ("first", "pointed", "left", "tapped", "over", "back", "other", "touched", "again")
    assert [told[step] for step in steps] == [-1, 0, -1, 1, 0, 1, 0, 0, -1]
    assert told["notes"] == ["", "Everywhere: no place stands out", "Nowhere above the threshold"]
    assert told["pressed"] == "true" and told["turned"] == 0
    assert told["label"] == f"Where {HOSTILE[0]} was seen"
    left, top, across, down = told["image"]
    np.testing.assert_allclose(told["canvas"], [left + across / 4, top, across / 2, down], atol=0.1)
    expected = [[*COLOURS[value][::-1], 255 * OPACITY] for value in (255, 255, 100, 0)]
    np.testing.assert_allclose(told["pixels"], expected, atol=6)


FOREIGN = """<script>problems.push("a foreign script ran")</script>
<img src="https://example.org/x.png"><p onclick="problems.push('a handler ran')"></p>"""
TELL = """<script>
document.querySelector("[onclick]").click();
addEventListener("load", () => {
  const result = document.createElement("pre");
  result.id = "result"; result.textContent = btoa(JSON.stringify(problems));
  document.body.append(result);
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_in_a_browser_no_foreign_script_runs_and_nothing_is_fetched(page, tmp_path):
    page = page.replace("</main>", FOREIGN + "</main>")
    assert sorted(use_in_browser(page, TELL, tmp_path, 1280, False)) == [
        "img-src https://example.org/x.png", "script-src-attr inline", "script-src-elem inline"]
