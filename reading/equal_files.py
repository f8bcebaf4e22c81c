"""Images that are the same file, under any names: within a list, and in two lists."""
from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Sequence

import numpy as np

from common.cli import InputError
from common.files import existing_path
from common.progress import Progress
from reading.lst_file import SampleList

THREADS = 8  # a network file system answers several small questions at once
AT_ONCE = 256  # files that a thread is asked about
END_BYTES = 512


def first_equal(paths: Sequence[str | os.PathLike[str]],
                num_before: int | None = None) -> np.ndarray:
    """For each file the place of the first one of the same bytes: int64, (files,).

    Only files of the same size are read, and whole ones only where they also end alike. One that
    cannot be read equals no other. With `num_before`, only files from this place on are compared
    with those before it, so that less has to be read.
    """
    first = np.arange(len(paths))
    alike: dict = {None: list(range(len(paths)))}  # places, by what is known of their files so far
    with ThreadPoolExecutor(THREADS) as pool:
        for read in (_size, _end, digest):
            places = {place: known for known, same in alike.items()
                      if len(same) > 1 and (num_before is None or same[0] < num_before <= same[-1])
                      for place in same}
            keys = _each(pool, read, [paths[place] for place in places])
            alike = defaultdict(list)
            for (place, known), key in zip(places.items(), keys):
                if key is not None:
                    alike[known, key].append(place)
    for same in alike.values():
        first[same] = same[0]
    return first


def shared_rows(train: SampleList, val: SampleList) -> np.ndarray:
    """Rows of `val` whose images, by their content, are in `train` too: bool, (rows of `val`,)."""
    if train.checksum == val.checksum and train.folder == val.folder:
        return np.ones(len(val.lst), bool)
    paths = [os.path.join(each.folder, each.lst.name(row))
             for each in (train, val) for row in range(len(each.lst))]
    count = len(train.lst)
    return first_equal(paths, count)[count:] < count


def check_validation(train: SampleList, val: SampleList) -> str | None:
    """A warning if some images of validation are in training too, None if none is.

    Where all are, an InputError is raised: scores on them say nothing about other images.
    """
    is_shared = shared_rows(train, val)
    count, row = np.count_nonzero(is_shared), int(np.argmax(is_shared))
    if not count:
        return None
    if count == len(is_shared):
        raise InputError("all of its images are in the training list too: validation needs images "
                         "that the network is not trained on", file=val.lst.path, flag="--data-val")
    return (f"{val.lst.path}:{val.lst.line(row)}: {count} of {len(is_shared)} images, this one "
            "first, are in the training list too: validation scores are too high")


def digest(path):
    """A digest of a file's bytes."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            state.update(block)
    return state.digest()


def _each(pool, read, paths):
    """Yield `read(path)` of each path, None where the file cannot be read."""
    def read_some(start):
        return [_or_none(read, path) for path in paths[start:start + AT_ONCE]]

    with Progress("Looking for equal images", len(paths), "files") as progress:
        for values in pool.map(read_some, range(0, len(paths), AT_ONCE)):
            yield from values
            progress.update(len(values))


def _or_none(read, path):
    try:
        try:
            return read(path)
        except FileNotFoundError:
            return read(existing_path(path))
    except OSError:
        return None  # reading it for training names it


def _size(path):
    status = os.stat(path)
    return status.st_size or None if stat.S_ISREG(status.st_mode) else None  # an empty one is none


def _end(path):
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - END_BYTES))
        return file.read()
