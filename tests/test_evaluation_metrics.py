"""Precision, recall and their kin, calibration and thresholds, against scikit-learn's."""
import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics
from sklearn.calibration import calibration_curve

from common.metrics import precision_recall_curve, ranking
from evaluation import thresholds
from evaluation.decisions import (
    best_and_worst,
    calibration_bins,
    count_decisions,
    decision_metrics,
    expected_calibration_error,
    per_class_metrics,
    top_k,
)
from evaluation.evaluation import Evaluation
from evaluation.thresholds import (
    ALWAYS,
    FOLDS,
    MOST_DECISIONS,
    MOST_PREDICTED,
    NEVER,
    choose_threshold,
    choose_thresholds,
    cross_fitted,
)

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5))


@st.composite
def scored(draw, lowest_label=0):
    """Labels and probabilities: few samples, one class, ties and constants among them."""
    shape = draw(SHAPES)
    label = draw(arrays(np.float32, shape, elements=st.integers(lowest_label, 1).map(float)))
    # Sixteenths, so that many are equal, and 0.5 itself occurs.
    prob = draw(arrays(np.float32, shape, elements=st.integers(0, 16).map(lambda i: i / 16)))
    return label, prob


def f1_score(truth, predicted):
    """scikit-learn's; before release 1.4 it takes an F1 with an undefined part for undefined."""
    undefined = not truth.any() and not predicted.any()
    return metrics.f1_score(truth, predicted, zero_division=np.nan if undefined else 0.0)


def expected(label, predicted):
    """The metrics, from scikit-learn alone; no label is unknown."""
    label, predicted = label.astype(int), predicted.astype(int)
    has = np.flatnonzero(label.any(axis=0))
    cp, cr = (np.mean([score(label[:, c], predicted[:, c], zero_division=0) for c in has])
              if len(has) else np.nan
              for score in (metrics.precision_score, metrics.recall_score))
    op, or_ = (score(label.ravel(), predicted.ravel(), zero_division=np.nan)
               for score in (metrics.precision_score, metrics.recall_score))
    of1 = f1_score(label.ravel(), predicted.ravel())
    return {"CP": cp, "CR": cr, "CF1": 2 * cp * cr / (cp + cr) if cp + cr != 0 else 0.0,
            "OP": op, "OR": or_, "OF1": of1,
            "hamming": metrics.hamming_loss(label.ravel(), predicted.ravel()),
            "exact": np.mean((label == predicted).all(axis=1))}


@settings(max_examples=30, deadline=None)
@given(scored())
def test_decision_metrics_are_scikit_learns(sample):
    label, prob = sample
    predicted = prob > 0.5
    assert decision_metrics(count_decisions(label, predicted)) == pytest.approx(
        expected(label, predicted), nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(scored())
def test_per_class_metrics_are_scikit_learns(sample):
    label, prob = sample
    predicted = prob > 0.5
    ours = per_class_metrics(count_decisions(label, predicted))
    np.testing.assert_allclose(ours["support"], label.sum(axis=0))
    for name, score in (("precision", metrics.precision_score), ("recall", metrics.recall_score)):
        np.testing.assert_allclose(ours[name], [
            score(*columns, zero_division=np.nan) for columns in zip(label.T, predicted.T)])
    np.testing.assert_allclose(
        ours["F1"], [f1_score(*columns) for columns in zip(label.T, predicted.T)])


@settings(max_examples=30, deadline=None)
@given(scored(lowest_label=-1))
def test_unknown_labels_count_nowhere(sample):
    label, prob = sample
    known, predicted = label >= 0, prob > 0.5
    counts = count_decisions(label, predicted)
    values = decision_metrics(counts)
    if not known.any():
        assert all(np.isnan(value) for value in values.values())
        return
    truth, decided = label[known] > 0.5, predicted[known]
    assert values["OP"] == pytest.approx(
        metrics.precision_score(truth, decided, zero_division=np.nan), nan_ok=True)
    assert values["hamming"] == pytest.approx(metrics.hamming_loss(truth, decided))
    recalls = [metrics.recall_score(label[known[:, c], c] > 0.5, predicted[known[:, c], c])
               for c in range(label.shape[1]) if (label[:, c] > 0.5).any()]
    assert values["CR"] == pytest.approx(np.mean(recalls) if recalls else np.nan, nan_ok=True)
    exact = [np.array_equal(y[k] > 0.5, p[k])
             for y, p, k in zip(label, predicted, known) if k.any()]
    assert values["exact"] == pytest.approx(np.mean(exact))


@settings(max_examples=30, deadline=None)
@given(scored(), st.integers(1, 4))
def test_top_k_predicts_the_first_of_a_stable_ranking(sample, k):
    label, prob = sample
    predicted = top_k(prob, k)
    for row, decided in zip(prob, predicted):
        ranking = sorted(range(len(row)), key=lambda c: (-row[c], c))
        assert sorted(np.flatnonzero(decided)) == sorted(ranking[:k])
    assert decision_metrics(count_decisions(label, predicted)) == pytest.approx(
        expected(label, predicted), nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(scored(lowest_label=-1), st.integers(1, 20))
def test_calibration_error_is_scikit_learns_curve_weighted(sample, bins):
    label, prob = sample
    known = label >= 0
    error = expected_calibration_error(calibration_bins(label, prob, bins).sum(axis=1))
    if not known.any():
        assert np.isnan(error)
        return
    truth, prob = label[known] > 0.5, prob[known]
    shares, means = calibration_curve(truth, prob, n_bins=bins, strategy="uniform")
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], prob)
    count = np.bincount(place, minlength=bins)
    assert error == pytest.approx(
        np.average(np.abs(shares - means), weights=count[count > 0]), abs=1e-6)


def test_curve_is_scikit_learns_where_labels_are_known():
    rng = np.random.RandomState(0)
    label, prob = rng.choice([-1, 0, 1], 60), rng.randint(0, 12, 60) / 12
    known = label >= 0
    precision, recall, _ = metrics.precision_recall_curve(label[known], prob[known])
    ours = precision_recall_curve(label, prob)
    np.testing.assert_allclose(ours, [precision[:-1][::-1], recall[:-1][::-1]])


@settings(max_examples=30, deadline=None)
@given(scored(lowest_label=-1))
def test_no_threshold_has_a_better_f1(sample):
    label, prob = sample[0][:, 0], sample[1][:, 0]
    chosen = choose_threshold(label, prob)
    known = label >= 0
    truth, prob = label[known] > 0.5, prob[known]
    if not truth.any():
        assert chosen is None
        return
    best = max(metrics.f1_score(truth, prob > t, zero_division=0)
               for t in [-1, *np.unique(prob)])
    assert metrics.f1_score(truth, prob > chosen, zero_division=0) == pytest.approx(best)


@settings(max_examples=30, deadline=None)
@given(scored(), st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
def test_no_threshold_keeps_the_precision_at_a_better_recall(sample, least):
    label, prob = sample[0][:, 0] > 0.5, sample[1][:, 0]
    if not label.any():
        return
    chosen = choose_threshold(label.astype(np.float32), prob, least)
    recalls = [metrics.recall_score(label, prob > t) for t in [-1, *np.unique(prob)]
               if (prob > t).any() and metrics.precision_score(label, prob > t) >= least]
    assert metrics.recall_score(label, prob > chosen) == max(recalls, default=0)
    if chosen != NEVER:
        assert metrics.precision_score(label, prob > chosen) >= least


def by_sorting(label, prob, min_precision=None):
    """choose_threshold from the counts at every threshold of the sorted samples."""
    if not (label > 0.5).any():
        return None
    prob, true_positives, predicted = ranking(label, prob.astype(np.float64))
    if min_precision is None:
        allowed, score = predicted > 0, true_positives / (predicted + true_positives[-1])
    else:
        allowed, score = true_positives / predicted >= min_precision, true_positives
    if not allowed.any():
        return NEVER
    best = np.argmax(np.where(allowed, score, -1))
    lowest, below = np.append(prob, 0)[best:best + 2]
    return float((lowest + below) / 2) if lowest > 0 else ALWAYS


@settings(max_examples=200, deadline=None)
@given(scored(lowest_label=-1), st.sampled_from([
    {}, {"min_precision": 0.0}, {"min_precision": 0.6}]))
def test_a_threshold_is_to_the_bit_that_of_sorting_all_samples(sample, limit):
    label, prob = sample[0][:, 0], sample[1][:, 0]
    assert choose_threshold(label, prob, **limit) == by_sorting(label, prob, **limit)


@pytest.mark.parametrize("objective", ["f1", "of1", "precision 0.5"])
def test_cross_fitted_decisions_are_those_of_choosing_anew_without_each_fold(objective):
    label, prob = classes_of_many_and_few_labels()
    fold = np.random.RandomState(0).permutation(len(label)) % FOLDS
    expected = np.empty(label.shape, bool)
    for own in (fold == number for number in range(FOLDS)):
        expected[own] = prob[own] > choose_thresholds(label[~own], prob[~own], objective)
    assert np.array_equal(cross_fitted(label, prob, objective), expected)


def test_the_few_labels_of_a_large_list_choose_a_threshold():
    label, prob = np.zeros((1000, 1000), np.int8), np.full((1000, 1000), 0.125)
    label[1, 3], prob[1, 3] = 1, 0.375
    assert label.size > MOST_DECISIONS
    assert choose_thresholds(label, prob, "of1") == pytest.approx(0.25)


def test_threshold_of_constant_and_of_extreme_probabilities():
    one = np.ones(3, np.float32)
    assert choose_threshold(one, one * 0.25) == 0.125
    assert choose_threshold(one, one * 0) == ALWAYS
    nearly = np.float32([1 - 2 ** -24, 1 - 2 ** -24, 1])
    chosen = np.array([choose_threshold(np.float32([0, 0, 1]), nearly)])
    assert (nearly > chosen).tolist() == [False, False, True]


def test_classes_without_labels_or_out_of_reach_are_never_predicted_where_precision_counts():
    label = np.float32([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    prob = np.float32([[0.9, 0.9, 0.9], [0.2, 0.9, 0.1], [0.8, 0.9, 0.8]])
    assert choose_thresholds(label, prob, "precision 0.9") == pytest.approx([0.5, NEVER, NEVER])


def classes_of_many_and_few_labels(seed=0):
    """300 samples of four classes, of which 150, 30, 2 and none are present, and probabilities."""
    random = np.random.RandomState(seed)
    label = np.zeros((300, 4), np.int8)
    for c, count in enumerate((150, 30, 2)):
        label[random.permutation(300)[:count], c] = 1
    prob = 1 / (1 + np.exp(-(2 * label - [1, 2, 4, 4] + random.normal(size=label.shape))))
    return label, prob.astype(np.float32)


def test_one_threshold_for_all_has_the_f1_of_scikit_learns_best():
    label, prob = classes_of_many_and_few_labels()
    chosen = choose_thresholds(label, prob, "of1")
    precision, recall, _ = metrics.precision_recall_curve(label.ravel(), prob.ravel())
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-9))
    assert len(set(chosen)) == 1
    assert metrics.f1_score(label, prob > chosen, average="micro") == pytest.approx(best)


def test_thresholds_of_few_labels_are_nearer_to_the_one_of_all():
    label, prob = classes_of_many_and_few_labels()
    shared = choose_thresholds(label, prob, "of1")[0]
    chosen = choose_thresholds(label, prob)
    logit = np.log(chosen / (1 - chosen)) - np.log(shared / (1 - shared))
    for c, count in enumerate((150, 30)):
        own = choose_threshold(label[:, c], prob[:, c])
        apart = np.log(own / (1 - own)) - np.log(shared / (1 - shared))
        assert logit[c] == pytest.approx(count / (count + 1) * apart, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(scored(lowest_label=-1))
def test_no_class_is_predicted_on_many_times_its_labels(sample):
    label, prob = sample
    predicted = (label >= 0) & (prob > choose_thresholds(label, prob))
    assert (predicted.sum(axis=0) <= MOST_PREDICTED * (label > 0.5).sum(axis=0) + 1).all()


@pytest.mark.parametrize("label, prob", [
    (np.zeros((3, 2), np.int8), np.full((3, 2), 0.3)), (np.ones((1, 1), np.int8), np.ones((1, 1))),
    (np.zeros((0, 2), np.int8), np.zeros((0, 2))), (np.ones((9, 2), np.int8), np.zeros((9, 2))),
    (np.eye(20, 2, dtype=np.int8), np.full((20, 2), 0.25))])
@pytest.mark.parametrize("objective", ["f1", "of1", "precision 0.5"])
def test_thresholds_of_extreme_samples_are_thresholds(label, prob, objective):
    chosen = choose_thresholds(label, prob, objective)
    assert chosen.shape == label.shape[1:] and (chosen >= -1).all() and (chosen <= 1).all()
    assert cross_fitted(label, prob, objective).shape == label.shape


def test_no_label_of_a_fold_has_a_part_in_its_decisions():
    label, prob = classes_of_many_and_few_labels()
    before = cross_fitted(label, prob)
    for row in range(0, 300, 30):
        changed = label.copy()
        changed[row] = 1 - changed[row]
        assert (cross_fitted(changed, prob)[row] == before[row]).all()


def test_cross_fitted_scores_are_those_of_other_samples_and_not_those_of_the_same():
    scores = []
    for seed in range(16):
        (label, prob), (others, their_prob) = map(classes_of_many_and_few_labels, (seed, seed + 16))
        thresholds = choose_thresholds(label, prob, "precision 0.6")
        scores.append([metrics.f1_score(y[:, 1:3], predicted[:, 1:3], average="macro",
                                        zero_division=0)
                       for y, predicted in ((label, prob > thresholds),
                                            (label, cross_fitted(label, prob, "precision 0.6")),
                                            (others, their_prob > thresholds))])
    same, honest, new = np.mean(scores, axis=0)
    assert honest < same - 0.01 and abs(honest - new) < same - new


def test_evaluation_of_one_sample_and_of_none_present():
    one = Evaluation(["a", "b"], np.int8([[1, 0]]), np.float32([[0.7, 0.2]]), np.array([0.8, 0.1]))
    assert one.mean_average_precision == 1
    assert (one.overall["0.5"]["exact"], one.overall["chosen"]["exact"]) == (1, 0)
    none = Evaluation(["a", "b"], np.int8([[0, -1]]), np.float32([[0.7, 0.2]]))
    assert np.isnan(none.mean_average_precision)
    assert none.as_json()["mAP"] is None
    assert none.as_json()["classes"][0]["AP"] is None
    assert any("2 classes have no present label" in line for line in none.lines())


def test_best_and_worst_shows_both_ends_only_of_many_classes():
    names = [f"class {c}" for c in range(30)]
    lines = best_and_worst(names, np.linspace(0, 1, 30), np.arange(30))
    assert len(lines) == 1 + 5 + 1 + 5
    assert lines[1].split() == ["1.0000", "29", "class", "29"]
    assert lines[-1].endswith("class 0")
    assert len(best_and_worst(names[:10], np.linspace(0, 1, 10), np.arange(10))) == 11
    assert best_and_worst(["a", "b"], [np.nan, 0.5], [0, 2])[1:] == [
        "0.5000       2  b", "1 class has no present label"]


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(thresholds).failed == 0
