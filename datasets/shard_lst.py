"""Dividing the rows of a .lst among machines, each with its own list and its own images.

    lst = read_lst("train.lst")
    parts = deal(len(lst), 4, seed=0)
    place_images(lst, parts, "photos", "shards", how="copy")     # shards/0/..., shards/1/...
    write_parts(lst, parts, "shards/train")                      # shards/train_0.lst, ...
"""
import errno
import os
import shutil
import tempfile

import numpy as np
from tqdm import tqdm

from common.cli import InputError
from common.files import existing_path
from common.text import printable
from datasets.lst_writer import lines_file, lst_file, write_together


def deal(num_rows, num_parts, seed=0):
    """Assign each row to one machine at random; numbers of rows differ by at most one.

    Returns one int64 numpy.ndarray per machine, row numbers in ascending order.
    """
    if not 1 <= num_parts <= num_rows:
        raise InputError(f"{num_rows} rows cannot be dealt out to {num_parts} machines",
                         flag="--num-parts")
    order = np.random.RandomState(seed).permutation(num_rows)
    return [np.sort(order[part::num_parts]) for part in range(num_parts)]


def write_parts(lst, parts, prefix):
    """Write PREFIX_0.lst and PREFIX_0_files.txt, and so on, for the parts from `deal`.

    Synchronous training waits forever for a worker with fewer batches. So all lists get the same
    number of rows: a shorter one repeats its first image with all labels unknown (-1), which
    neither loss nor metrics count. A list of class numbers has no way to say unknown and stays
    one row short.
    """
    for number, rows in enumerate(parts):
        names = [lst.name(row) for row in rows]
        # rsync takes lines that start with # or ; for comments.
        files = ["./" * name.startswith(("#", ";")) + name for name in dict.fromkeys(names)]
        labels = lst.labels(rows)
        if len(rows) < len(parts[0]) and lst.label_format == "multi-hot":
            rows = np.append(rows, rows[0])
            labels = np.vstack([labels, np.full_like(labels[:1], -1)])
            names.append(names[0])
        write_together([
            lines_file(f"{prefix}_{number}_files.txt", files),
            lst_file(f"{prefix}_{number}.lst", lst.ids[rows], labels, names, lst.label_format)])


def place_images(lst, parts, path_root, folder, how):
    """Put each part's images into FOLDER/0, FOLDER/1, ... under the names that they have.

    `path_root` is the list's image root; `how` is "copy", or "link" for hard links, which take
    no space but need the same disk. Before anything is placed, an InputError is raised when an
    image is missing, or its name or a symbolic link in the folder leads out of the folder.
    """
    for row in range(len(lst)):
        name, line = lst.name(row), lst.line(row)
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise InputError(f"{printable(name)} leads out of the image root: it would land "
                             "outside the folders", file=lst.path, line=line)
        if not os.path.isfile(existing_path(os.path.join(path_root, name))):
            raise InputError(f"{printable(name)} is not in {path_root}", file=lst.path, line=line)
    real = os.path.realpath(folder)
    for number, rows in enumerate(parts):
        for below in {os.path.dirname(lst.name(row)) for row in rows}:
            target = os.path.join(folder, str(number), below)
            if os.path.commonpath([real, os.path.realpath(target)]) != real:
                raise InputError(f"a symbolic link leads out of {folder}: remove it or choose "
                                 "another folder", file=target)
    for number, rows in enumerate(parts):
        for name in tqdm(dict.fromkeys(lst.name(row) for row in rows), f"part {number}",
                         unit="file", disable=None):
            target = os.path.join(folder, str(number), name)
            try:
                source = existing_path(os.path.join(path_root, name))
                _place(os.path.realpath(source), target, how)
            except OSError as error:
                another = "; --copy-to copies to another disk" * (error.errno == errno.EXDEV)
                raise InputError(f"cannot be written: {error.strerror.lower()}{another}",
                                 file=target) from None


def _place(source, target, how):
    """Copy or link a file atomically: to a temporary name in the same folder, then renamed."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=os.path.dirname(target)) as nearby:
        temporary = os.path.join(nearby, "file")
        (shutil.copyfile if how == "copy" else os.link)(source, temporary)
        os.replace(temporary, target)
