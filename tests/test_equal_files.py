import logging
import os

import pytest

from common import progress
from common.cli import InputError
from reading import equal_files
from reading.equal_files import check_validation, first_equal, shared_rows
from reading.lst_file import SampleList, read_lst


@pytest.fixture
def photos(tmp_path):
    """A folder, and a function that makes a SampleList of files with given contents in it."""
    def sample_list(title, **contents):
        folder = tmp_path / title
        folder.mkdir()
        for name, content in contents.items():
            (folder / f"{name}.jpg").write_bytes(content)
        (tmp_path / f"{title}.lst").write_text(
            "".join(f"{n}\t1\t{name}.jpg\n" for n, name in enumerate(contents)))
        return SampleList(read_lst(tmp_path / f"{title}.lst"), str(folder))
    return sample_list


def test_files_of_the_same_bytes_are_found_under_any_name(tmp_path):
    contents = [b"x" * 2000, b"y" + b"x" * 1999, b"x" * 2000, b"", b"x" * 1999, b"", b"x" * 2000]
    paths = [tmp_path / f"{number}.jpg" for number in range(len(contents))]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    os.link(paths[1], tmp_path / "link")
    assert first_equal([*paths, tmp_path / "link"]).tolist() == [0, 1, 0, 3, 4, 5, 0, 1]


def test_only_files_of_both_lists_are_compared_when_asked_for(tmp_path):
    for name in "abcde":
        (tmp_path / name).write_bytes(b"x" if name in "abde" else b"z")
    paths = [tmp_path / name for name in "abcde"]
    assert first_equal(paths, 3).tolist() == [0, 0, 2, 0, 0]
    assert first_equal([*paths[:2], paths[2], paths[2]], 2).tolist() == [0, 1, 2, 3]
    assert first_equal([paths[0], paths[1], paths[2]], 2).tolist() == [0, 1, 2]


def test_a_long_search_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(equal_files, "AT_ONCE", 1)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    caplog.set_level(logging.INFO)
    first_equal([tmp_path / str(number) for number in range(9)])
    assert "Looking for equal images: 8 of 9 files" in caplog.text


def test_what_cannot_be_read_equals_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    paths = [tmp_path / name for name in ("pipe", "empty", "missing", "missing", "pipe")]
    assert first_equal(paths).tolist() == [0, 1, 2, 3, 4]


def test_lists_without_a_common_image_share_no_row(photos):
    train, val = photos("train", a=b"1", b=b"2"), photos("val", a=b"3", b=b"4", c=b"5")
    assert not shared_rows(train, val).any()
    assert check_validation(train, val) is None


@pytest.mark.parametrize("val", [{"a": b"1", "c": b"3"}, {"z": b"3", "y": b"2"},
                                 {"b": b"x" * 9999 + b"1", "q": b"r"}])
def test_some_common_images_are_counted_and_named(photos, val):
    train = photos("train", a=b"1", b=b"2", long=b"x" * 9999 + b"1")
    val = photos("val", **val)
    assert shared_rows(train, val).sum() == 1
    assert "1 of 2 images" in check_validation(train, val)
    assert check_validation(train, val).startswith(
        f"{val.lst.path}:{1 + shared_rows(train, val).argmax()}: ")


def test_validation_on_the_training_list_is_an_error(photos, tmp_path):
    train = photos("train", a=b"1", b=b"2", c=b"3")
    (tmp_path / "other.lst").write_text("9\t1\tc.jpg\n5\t0\t./a.jpg\n")
    other = SampleList(read_lst(tmp_path / "other.lst"), train.folder)
    for val in (train, other, photos("copies", x=b"2", y=b"1")):
        with pytest.raises(InputError) as caught:
            check_validation(train, val)
        assert (caught.value.file, caught.value.flag) == (val.lst.path, "--data-val")
