"""Images on storage that fails for a moment, as network file systems do."""
import errno
import io
import os

import cv2
import numpy as np
import pytest

from common import files
from common.cli import InputError, exit_status
from lst_iter import LstIter
from reading import image_file, lst_file
from reading.image_file import ImageError, read_image
from reading.lst_file import read_lst


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.RandomState(0).randint(0, 256, (8, 8, 3)))
    return path


@pytest.fixture
def failing(monkeypatch):
    """A function that makes the next reads fail with these errors; returns what was waited."""
    def fail(*errors):
        errors, waits = list(errors), []
        read_once = image_file.read_file

        def read(path, max_pixels):
            if errors:
                number = errors.pop(0)
                raise OSError(number, os.strerror(number))
            return read_once(path, max_pixels)

        monkeypatch.setattr(image_file, "read_file", read)
        monkeypatch.setattr(files.time, "sleep", waits.append)
        return waits
    return fail


@pytest.mark.parametrize("errors", [[errno.EIO], [errno.ESTALE], [errno.EIO, errno.ESTALE]])
def test_a_passing_error_is_waited_out(errors, failing, photo):
    expected, out = np.empty((2, 3, 8, 8), np.uint8)
    read_image(str(photo), expected)
    waits = failing(*errors)
    read_image(str(photo), out)
    np.testing.assert_array_equal(out, expected)
    assert len(waits) == len(errors) and waits == sorted(waits)


def test_after_three_tries_it_is_an_error(failing, photo):
    waits = failing(*[errno.EIO] * 3)
    with pytest.raises(ImageError, match="input/output error"):
        read_image(str(photo), np.empty((3, 8, 8), np.uint8))
    assert len(waits) == 2


def test_an_iterators_error_by_a_fault_of_the_machine_ends_with_status_75(failing, photo):
    lst = photo.with_suffix(".lst")
    lst.write_text(f"0\t1\t{photo.name}\n")
    failing(*[errno.EIO] * 3)
    with pytest.raises(InputError) as told, LstIter(
            1, (3, 8, 8), str(lst), str(photo.parent), num_threads=1) as batches:
        next(batches)
    assert exit_status(told.value) == 75


def test_what_will_not_pass_is_not_waited_for(failing, photo):
    waits = failing(errno.EACCES)
    with pytest.raises(ImageError, match="permission denied"):
        read_image(str(photo), np.empty((3, 8, 8), np.uint8))
    assert not waits


def test_an_iterator_goes_on_over_passing_errors(failing, photo):
    lst = photo.with_suffix(".lst")
    lst.write_text("".join(f"{row}\t1\t{photo.name}\n" for row in range(6)))
    waits = failing(errno.ESTALE, errno.EIO)
    with LstIter(2, (3, 8, 8), str(lst), str(photo.parent), num_threads=1) as batches:
        assert len(list(batches)) == 3
    assert len(waits) == 2


def test_a_list_is_read_whole_over_passing_errors(tmp_path, monkeypatch):
    path = tmp_path / "long.lst"
    path.write_text("".join(f"{row}\t1\t0\t{row}.jpg\n" for row in range(500)))
    expected = read_lst(path)
    waits, calls = [], []

    class Failing(io.FileIO):
        def read(self, size):
            calls.append(size)
            if len(calls) % 3:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(1000)

    monkeypatch.setattr(lst_file, "open_regular_file", lambda name, **_: Failing(name))
    monkeypatch.setattr(files.time, "sleep", waits.append)
    got = read_lst(path)
    assert len(got) == 500 and got.checksum == expected.checksum and len(waits) > 10
    assert [got.name(row) for row in (0, 250, 499)] == ["0.jpg", "250.jpg", "499.jpg"]
