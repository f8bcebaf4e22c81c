import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cli import InputError
from datasets.divide import join_groups, split
from reading.lst_file import read_lst


def largest_deviation(labels, is_val, fraction):
    """By how many rows the class that is furthest off misses its share."""
    present = labels == 1
    return np.abs(present[is_val].sum(axis=0) - present.sum(axis=0) * fraction).max()


def random_labels(rows, classes, seed=0):
    """From classes of which some are rare to some that most rows carry."""
    rng = np.random.RandomState(seed)
    return (rng.rand(rows, classes) < rng.beta(0.3, 2, classes)).astype(np.int8)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_class_of_real_labels_keeps_its_share_within_two_images(ccp, fraction, seed):
    lst = read_lst(ccp / "train.lst")
    labels = lst.labels(range(len(lst)))
    is_val = split(labels, fraction, seed)
    assert largest_deviation(labels, is_val, fraction) <= 2
    assert abs(is_val.sum() - fraction * len(lst)) <= 2


def test_classes_of_two_images_or_more_are_on_both_sides_of_real_labels(ccp):
    lst = read_lst(ccp / "train.lst")
    labels = lst.labels(range(len(lst)))
    is_val = split(labels, 0.1)
    enough = labels.sum(axis=0) >= 2
    assert (labels[is_val].sum(axis=0)[enough] >= 1).all()
    assert (labels[~is_val].sum(axis=0)[enough] >= 1).all()


def test_a_plain_random_split_would_fail_these_tests(ccp):
    lst = read_lst(ccp / "train.lst")
    labels = lst.labels(range(len(lst)))
    is_val = np.random.RandomState(0).rand(len(lst)) < 0.2
    assert largest_deviation(labels, is_val, 0.2) > 4


@pytest.mark.parametrize("rows, classes", [(50, 5), (300, 30), (1000, 80)])
def test_each_class_of_random_labels_keeps_its_share(rows, classes):
    labels = random_labels(rows, classes)
    assert largest_deviation(labels, split(labels, 0.25), 0.25) <= 2


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.floats(0.01, 0.99), st.integers(0, 1 << 32 - 1))
def test_both_sides_have_rows_whatever_the_labels(rows, classes, fraction, seed):
    labels = np.random.RandomState(seed % 1000).randint(-1, 2, (rows, classes))
    is_val = split(labels, fraction, seed)
    assert is_val.shape == (rows,)
    assert 0 < is_val.sum() < rows


def test_unknown_labels_are_no_examples():
    labels = random_labels(200, 8)
    unknown = np.where((labels == 0) & (np.random.RandomState(1).rand(*labels.shape) < 0.5),
                       -1, labels)
    np.testing.assert_array_equal(split(unknown, 0.3), split(labels, 0.3))


def test_rows_without_labels_are_divided_too():
    is_val = split(np.zeros((100, 3), np.int8), 0.2)
    assert is_val.sum() == 20


def test_the_seed_decides():
    labels = random_labels(200, 8)
    np.testing.assert_array_equal(split(labels, 0.3, 5), split(labels, 0.3, 5))
    assert (split(labels, 0.3, 5) != split(labels, 0.3, 6)).any()


def test_one_image_cannot_be_split():
    for groups in ([0], [7, 7, 7]):
        with pytest.raises(InputError) as caught:
            split(np.ones((len(groups), 3)), 0.5, groups=np.array(groups))
        assert caught.value.flag == "--val-fraction"


@pytest.mark.parametrize("sizes", ["equal", "uneven"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_stay_together_and_classes_keep_their_share_of_images(sizes, seed):
    rng = np.random.RandomState(seed)
    groups = rng.randint(0, 800, 4000)
    if sizes == "uneven":  # from 1 to 60 images each
        groups = np.repeat(np.arange(4000), rng.zipf(1.5, 4000).clip(0, 60))[:4000]
    labels = (rng.rand(4000, 10) < rng.uniform(0.02, 0.4, 10)).astype(np.int8)
    is_val = split(labels, 0.2, seed, groups)
    assert not set(groups[is_val]) & set(groups[~is_val])
    assert abs(is_val.mean() - 0.2) < 0.01
    np.testing.assert_allclose(labels[is_val].sum(axis=0), 0.2 * labels.sum(axis=0), rtol=0.15)


def test_a_class_in_two_groups_is_on_both_sides_though_the_groups_are_large():
    labels, groups = np.zeros((60, 2), np.int8), np.repeat(np.arange(12), 5)
    labels[groups < 2, 0] = 1
    is_val = split(labels, 0.2, groups=groups)
    assert 0 < labels[is_val, 0].sum() < 10


def test_groupings_are_joined_along_chains():
    joined = join_groups(np.array([5, 5, 1, 1, 2, 3]), np.array([0, 8, 8, 4, 9, 0]))
    same = joined[:, None] == joined
    assert same[0].tolist() == [True, True, True, True, False, True]
    assert same[4].tolist() == [False, False, False, False, True, False]


@pytest.mark.slow
def test_four_times_as_many_rows_take_about_four_times_as_long():
    labels = (np.random.RandomState(0).rand(100_000, 80) < 0.04).astype(np.int8)
    seconds = []
    for count in (25_000, 100_000):
        start = time.process_time()
        is_val = split(labels[:count], 0.2)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 10 * seconds[0]  # 16 times, if each row looked at all others
    assert largest_deviation(labels, is_val, 0.2) <= 2
