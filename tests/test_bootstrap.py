"""Bootstrap intervals against scipy's, and baselines against simulation and scikit-learn."""
import re

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from common.metrics import average_precision
from evaluation.decisions import baselines
from evaluation.evaluation import Evaluation, bootstrap

RULES = ("mAP", "AP", ("0.5", "CF1"), ("0.5", "OF1"))


@pytest.fixture(scope="module")
def sample():
    """Labels and probabilities of 60 images and 3 classes: ties, a rare class, unknown labels."""
    random = np.random.RandomState(0)
    label = (random.uniform(size=(60, 3)) < [0.5, 0.3, 0.05]).astype(np.int8)
    label[random.uniform(size=label.shape) < 0.1] = -1
    label[7] = -1
    prob = np.round(np.clip(random.normal(0.4 + 0.3 * label, 0.3), 0, 1), 1).astype(np.float32)
    return label, prob


def by_scikit_learn(label, prob):
    """mAP, AP per class, CF1 and OF1, of one drawing of the images."""
    precision, decided = [], []
    for y, p in zip(label.T, prob.T):
        y, p = y[y >= 0], p[y >= 0]
        precision.append(metrics.average_precision_score(y, p) if y.any() else np.nan)
        decided.append((y, p > 0.5))
    has = [(y, p) for y, p in decided if y.any()]
    cp, cr = (np.mean([score(y, p, zero_division=0) for y, p in has])
              for score in (metrics.precision_score, metrics.recall_score))
    of1 = metrics.f1_score(*map(np.concatenate, zip(*decided)))
    return np.array([np.nanmean(precision), *precision, 2 * cp * cr / (cp + cr), of1])


@pytest.mark.slow
def test_intervals_are_those_of_scipys_standard_error(sample):
    label, prob = sample
    labelled = np.flatnonzero((label >= 0).any(axis=1))
    scipys = [by_scikit_learn(label[labelled[rows]], prob[labelled[rows]]) for rows in
              np.random.default_rng(5).integers(0, len(labelled), (400, len(labelled)))]
    error = np.nanstd(scipys, axis=0, ddof=1)
    # scipy draws the same images.
    result = stats.bootstrap(
        (labelled,), lambda rows: by_scikit_learn(label[rows], prob[rows])[0], vectorized=False,
        n_resamples=400, batch=400, method="percentile", random_state=np.random.default_rng(5))
    assert error[0] == pytest.approx(result.standard_error)
    value = by_scikit_learn(label, prob)
    expected = np.clip([value - 1.959964 * error, value + 1.959964 * error], 0, 1)
    ours = bootstrap(label, prob, {"0.5": prob > 0.5}, draws=400, seed=5)
    got = np.concatenate([ours[name].reshape(2, -1) for name in RULES], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Degrees of freedom")
def test_calibration_intervals_come_from_the_same_drawings(sample):
    label, prob = sample
    edges, shares = np.linspace(0, 1, 16), []
    labelled = np.flatnonzero((label >= 0).any(axis=1))
    for rows in np.random.default_rng(0).integers(0, len(labelled), (50, len(labelled))):
        y, p = label[labelled[rows]], prob[labelled[rows]].astype(np.float64)
        place = np.clip(np.digitize(p, edges, right=True) - 1, 0, 14)
        shares.append([(y[(place == b) & (y >= 0)] > 0.5).mean() if ((place == b) & (y >= 0)).any()
                       else np.nan for b in range(15)])
    low, high = bootstrap(label, prob, {}, draws=50)["calibration"]
    filled = (low > 0) & (high < 1)
    assert filled.sum() >= 3
    np.testing.assert_allclose((high - low)[filled], 2 * 1.959964 * np.nanstd(
        shares, axis=0, ddof=1)[filled], rtol=1e-5)


def test_without_a_known_label_nothing_is_known():
    unknown = np.full((4, 2), -1, np.int8)
    intervals = bootstrap(unknown, np.full((4, 2), 0.3, np.float32), {"0.5": unknown > 0})
    assert all(np.isnan(ends).all() for ends in intervals.values())


def test_differences_are_those_of_two_runs_on_the_same_draws(sample):
    label, prob = np.maximum(sample[0], 0), sample[1]
    other = np.random.RandomState(5).permutation(prob)
    found = bootstrap(label, prob, {"0.5": prob > 0.5}, draws=16, seed=5,
                      other=(other, {"0.5": other > 0.5}))
    drawn = [by_scikit_learn(label[rows], prob[rows]) - by_scikit_learn(label[rows], other[rows])
             for rows in np.random.default_rng(5).integers(0, len(label), (16, len(label)))]
    value = by_scikit_learn(label, prob) - by_scikit_learn(label, other)
    margin = 1.959964 * np.nanstd(drawn, axis=0, ddof=1)
    got = np.concatenate([found[name].reshape(2, -1) for name in RULES], axis=1)
    np.testing.assert_allclose(got, [value - margin, value + margin], atol=1e-6)
    same = bootstrap(label, prob, {"x": prob > 0.5}, other=(prob, {"x": prob > 0.5}))
    assert same["mAP"].tolist() == same["x", "CF1"].tolist() == [0, 0]


def test_baselines_are_what_constant_answers_and_random_rankings_score():
    random = np.random.RandomState(1)
    label = (random.uniform(size=(40, 4)) < [0.9, 0.5, 0.1, 0.0]).astype(int)
    label[:, 2] = 0
    label[:2, 2] = 1
    scored = baselines(label.sum(axis=0), (1 - label).sum(axis=0))
    constant = np.tile(label.mean(axis=0) > 0.5, (40, 1)).astype(int)
    assert scored["acc"] == pytest.approx(metrics.accuracy_score(label.ravel(), constant.ravel()))
    assert scored["OF1"] == pytest.approx(metrics.f1_score(label.ravel(), np.ones(160)))
    cp = np.mean([metrics.precision_score(y, np.ones(40)) for y in label.T[:3]])
    assert scored["CF1"] == pytest.approx(2 * cp / (cp + 1))
    draws = [[average_precision(y, random.uniform(size=40)) for y in label.T[:3]]
             for _ in range(3000)]
    assert scored["mAP"] == pytest.approx(np.mean(draws), abs=0.005)
    assert scored["mAP"] > label[:, :3].mean() + 0.02  # the mean share of present labels


def test_baselines_of_no_labels_and_of_one():
    assert np.isnan(list(baselines(np.zeros(2, int), np.zeros(2, int)).values())).all()
    assert baselines(np.array([1]), np.array([0])) == {"acc": 1, "mAP": 1, "OF1": 1, "CF1": 1}


def test_evaluation_shows_baselines_beside_the_network_and_warns_below_them():
    random = np.random.RandomState(0)
    label = (random.uniform(size=(50, 2)) < 0.8).astype(np.int8)
    lines = list(Evaluation(["a", "b"], label, (1 - label) * 0.9).lines())
    text = "\n".join(lines)
    assert sum(line.startswith("warning: ") for line in lines) == 4
    share = label.mean()
    always = next(line.split() for line in lines if line.strip().startswith("always"))
    assert float(always[6]) == pytest.approx(2 * share / (1 + share), abs=1e-4)
    constant = next(line.split() for line in lines if line.strip().startswith("constant"))
    assert float(constant[7]) == pytest.approx(1 - share, abs=1e-4)
    assert "warning: " not in "\n".join(Evaluation(["a", "b"], label, label * 0.9).lines())
    assert f"warning: acc 0.0000 is not above the {share:.4f}" in text


def test_thresholds_of_the_same_images_are_evaluated_by_the_decisions_of_other_folds():
    label, prob = np.eye(2, dtype=np.int8), np.eye(2) * 0.7
    for predicted in (None, label == 0):
        evaluation = Evaluation(["a", "b"], label, prob, np.array([0.5, 0.5]), predicted)
        assert any("folds" in line for line in evaluation.lines()) == evaluation.fitted_here
        assert evaluation.overall["chosen"]["exact"] == (predicted is None)


def test_conclusions_name_classes_whose_answer_never_varies_and_scores_of_chance():
    random = np.random.RandomState(0)
    label = (random.uniform(size=(40, 3)) < [0.5, 0.5, 0.9]).astype(np.int8)
    prob = random.uniform(size=label.shape) * [1, 0.4, 0.4] + [0, 0, 0.6]
    said = "\n".join(Evaluation(["a", "rare", "b"], label, prob).conclusions())
    assert "1 of 3 classes with labels is never predicted: rare" in said
    assert "1 of 3 classes with labels is predicted on every image: b" in said
    assert re.search(r"mAP 0\.\d+ is not distinguishable from the .* on 40 images", said)
    assert "What to do next" in said and "same answer" not in said
    recall, precision = (score(label.ravel(), prob.ravel() > 0.5)
                         for score in (metrics.recall_score, metrics.precision_score))
    assert (f"At a threshold of 0.5 {recall:.0%} of the labels are found, and {precision:.0%} of "
            "the predictions are right") in said
    assert "the network gives every image the same answer" in "\n".join(
        Evaluation(["a", "b", "c"], label, np.full(label.shape, 0.3)).conclusions())
