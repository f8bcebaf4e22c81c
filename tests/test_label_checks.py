import numpy as np
import pytest

from common.cli import InputError
from reading.classes import ListCounts, absent_warning, label_warnings
from reading.lst_file import read_lst

NAMES = ["cat", "dog", "bird"]


def counted(*labels):
    labels = np.array(labels)
    positives, negatives = ((labels == value).sum(axis=0) for value in (1, 0))
    return ListCounts("train.lst", len(labels), positives, negatives)


def test_labels_of_both_kinds_need_no_warning():
    counts = counted([1, 0, -1], [0, 1, 1], [0, 0, 0])
    assert label_warnings(counts, NAMES) == []


@pytest.mark.parametrize("labels", [[[0, 0, 0]], [[-1, -1, -1]], [[0, -1, 0], [-1, 0, 0]]])
def test_a_list_without_any_present_label_is_an_error(labels):
    with pytest.raises(InputError) as caught:
        label_warnings(counted(*labels), NAMES)
    assert caught.value.file == "train.lst"


@pytest.mark.parametrize("labels, named, hinted", [
    ([[1, -1, -1], [-1, 1, 1]], "cat, dog, bird", True),
    ([[1, 1, 1], [1, 1, 1]], "cat, dog, bird", False),
    ([[1, -1, -1], [1, -1, -1]], "cat", True),  # dog and bird are unknown throughout
    ([[1, -1, 0], [-1, 1, 1]], "cat, dog", True),
    ([[1, 1, 0], [1, 0, 1]], "cat", False),
])
def test_labels_without_an_absent_one_are_told(labels, named, hinted):
    text = absent_warning(counted(*labels), NAMES)
    assert named in text
    assert ("--label-format signed" in text) == hinted


def test_classes_without_a_present_label_are_named():
    warnings = label_warnings(counted([1, 0, -1], [0, 0, -1]), NAMES)
    assert warnings == ["train.lst: without a present label: dog, bird"]


def test_of_many_classes_some_are_named():
    positives = np.eye(1, 500, 499, int)[0]  # of the last class alone
    text, = label_warnings(ListCounts("v.lst", 9, positives, np.full(500, 8)),
                           [f"c{n}" for n in range(500)])
    assert "c19 and 479 more" in text and "c20" not in text


def write_lst(tmp_path, *rows):
    path = tmp_path / "train.lst"
    path.write_text("".join("\t".join([str(n), *row.split(), f"{n}.jpg"]) + "\n"
                            for n, row in enumerate(rows)))
    return path


@pytest.mark.parametrize("rows", [("1 -1 -1", "-1 1 1"), ("1.000000 -1.000000 -1.0", "-1.0 1 1.0"),
                                  ("+1 -1 -1.00", "-1 1e0 1")])
def test_signed_lists_have_minus_1_for_absent(tmp_path, rows):
    path = write_lst(tmp_path, *rows)
    lst = read_lst(path, label_format="signed")
    assert lst.labels([0, 1]).tolist() == [[1, 0, 0], [0, 1, 1]]
    assert lst.negatives.tolist() == [1, 1, 1]
    assert read_lst(path).labels([0]).tolist() == [[1, -1, -1]]


@pytest.mark.parametrize("row", ["1 0 -1", "0 0 0", "1 0.500000 -1", "1 2 -1", "1 -1"])
def test_other_labels_in_a_signed_list_are_refused(tmp_path, row):
    path = write_lst(tmp_path, "1 -1 -1", "-1 1 1", row)
    with pytest.raises(InputError, match=r"train\.lst:3: "):
        read_lst(path, label_format="signed")
