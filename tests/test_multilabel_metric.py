"""The measures against scikit-learn's."""
import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, log_loss

import multilabel_metric
from common.mx_compat import mx
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision, average_precision
from training.compute import Alone
from training.data import make_metrics


def updated(metric, label, prob, batch=7):
    for start in range(0, len(label), batch):
        rows = slice(start, start + batch)
        metric.update([mx.nd.array(label[rows])], [mx.nd.array(prob[rows])])
    return metric.get()[1]


@pytest.fixture
def scored():
    rng = np.random.RandomState(0)
    label = rng.randint(0, 2, (50, 6)).astype(np.float32)
    prob = np.clip(rng.uniform(0, 1, label.shape) * 0.7 + label * 0.2, 0.01, 0.99)
    return label, prob.astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=30))
def test_average_precision_is_scikit_learns_with_ties(pairs):
    label, score = np.array(pairs, np.float32).T
    if label.any():
        assert average_precision(label, score) == pytest.approx(
            average_precision_score(label, score), abs=1e-12)
    else:
        assert np.isnan(average_precision(label, score))


def test_map_is_scikit_learns_over_batches(scored):
    label, prob = scored
    assert updated(MeanAveragePrecision(), label, prob) == pytest.approx(
        average_precision_score(label, prob), abs=1e-6)


def test_map_leaves_out_classes_without_a_present_label(scored):
    label, prob = scored
    label[:, 2] = 0
    rest = [0, 1, 3, 4, 5]
    assert updated(MeanAveragePrecision(), label, prob) == pytest.approx(
        average_precision_score(label[:, rest], prob[:, rest]), abs=1e-6)
    assert np.isnan(updated(MeanAveragePrecision(), label * 0, prob))


def test_unknown_labels_and_padding_rows_count_nowhere(scored):
    label, prob = scored
    label[3:9, 1] = -1
    padded_label = np.concatenate([label, -np.ones((5, 6), np.float32)])
    padded_prob = np.concatenate([prob, np.ones((5, 6), np.float32)])
    known = label >= 0
    assert updated(MeanAveragePrecision(), padded_label, padded_prob) == pytest.approx(np.mean([
        average_precision_score(label[known[:, c], c], prob[known[:, c], c]) for c in range(6)]))
    assert updated(Accuracy(), padded_label, padded_prob) == pytest.approx(
        accuracy_score(label[known], prob[known] > 0.5))
    assert updated(Loss(), padded_label, padded_prob) == pytest.approx(
        log_loss(label[known], prob[known].astype(np.float64)) * known.sum() / len(label),
        rel=1e-5)


def test_loss_takes_the_operators_options(scored):
    label, prob = scored
    plain = updated(Loss(), label, prob)
    weighted = updated(Loss({"pos_weight": 2}), label, prob)
    present = -np.log(prob[label == 1]).sum() / len(label)
    assert weighted == pytest.approx(plain + present, rel=1e-5)


def test_speedometers_local_reset_keeps_the_epochs_value(scored):
    label, prob = scored
    metric = Accuracy()
    whole = updated(metric, label, prob)
    metric.reset_local()
    assert np.isnan(metric.get()[1])
    assert metric.get_global()[1] == whole


@pytest.mark.parametrize("count", [1, 2, 3])
def test_merged_samples_are_in_the_order_of_the_list(count):
    """Workers get its rows in turn; what is dealt into folds must not depend on how many."""
    labels, scores = np.eye(7, 4), np.random.RandomState(0).uniform(size=(7, 4))
    whole, *parts = (MeanAveragePrecision() for _ in range(count + 1))
    whole.update([mx.nd.array(labels)], [mx.nd.array(scores)])
    for rank, part in enumerate(parts):
        part.update([mx.nd.array(labels[rank::count])], [mx.nd.array(scores[rank::count])])
    merged = whole.merge([part.state() for part in parts])
    for key, values in whole.state().items():
        np.testing.assert_array_equal(merged[key], values)


@pytest.mark.parametrize("make", [Loss, Accuracy, MeanAveragePrecision])
def test_goes_on_from_a_state_and_merges_states(make, scored):
    label, prob = scored
    whole, (first, second) = updated(make(), label, prob), (make(), make())
    updated(first, label[:20], prob[:20])
    updated(second, label[20:], prob[20:])
    merged, resumed = make(), make()
    merged.load_state(make.merge([first.state(), second.state()]))
    assert merged.get()[1] == pytest.approx(whole)
    resumed.load_state(first.state())
    assert updated(resumed, label[20:], prob[20:]) == pytest.approx(whole)
    resumed.reset()
    assert np.isnan(resumed.get()[1])


def test_a_speedometers_lines_have_no_ranking_and_the_epochs_all(scored):
    label, prob = scored
    metrics = make_metrics({}, 80, Alone()).train
    metrics.update([mx.nd.array(label)], [mx.nd.array(prob)])
    assert [name for name, _ in metrics.get_name_value()] == ["loss", "acc"]
    assert [name for name, _ in metrics.get_global_name_value()] == ["loss", "acc", "mAP"]


@pytest.mark.parametrize("classes, samples", [(80, 20000), (9598, 1000)])
def test_the_map_of_training_is_bounded_in_samples_and_in_bytes(classes, samples):
    metric = make_metrics({}, classes, Alone()).train.metrics[2]
    label, prob = mx.nd.ones((500, classes)), mx.nd.zeros((500, classes))
    for _ in range(samples // 500 + 3):
        metric.update([label], [prob])
    kept = metric.state()
    assert samples <= len(kept["labels"]) < 21000
    assert sum(array.nbytes for array in kept.values()) < 80e6


def test_in_a_composite_with_mxnets_own(scored):
    label, prob = scored
    both = mx.metric.CompositeEvalMetric([MeanAveragePrecision(), mx.metric.MSE()])
    both.update([mx.nd.array(label)], [mx.nd.array(prob)])
    assert [name for name, _ in both.get_name_value()] == ["mAP", "mse"]
    both.reset()
    assert np.isnan(both.get()[1][0])


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(multilabel_metric).failed == 0
