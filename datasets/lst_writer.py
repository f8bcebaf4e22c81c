"""Writing .lst files and lists of class names, several together, and dealing rows to machines."""
import contextlib
import csv
import errno
import io
import os
import shutil
import tempfile

import numpy as np
from tqdm import tqdm

from common.cli import InputError
from common.files import atomic_file, existing_path
from common.text import encodable, no_formula, printable

# How im2rec spells a label, by its value (-1 is the last row); zero bytes fill the columns up.
SPELLING = np.array([[*b"0.000000\t\0"], [*b"1.000000\t\0"], [*b"-1.000000\t"]], np.uint8)
BLOCK_LABELS = 1 << 20


def name_problem(name):
    """Why a file name cannot stand in a .lst, or None when it can."""
    if not name.strip():
        return "the file name is empty"
    for character, words in (("\t", "a tab"), ("\n", "a line end"), ("\r", "a line end"),
                             ("\0", "a zero byte")):
        if character in name:
            return f"the file name {name!r:.200} holds {words}, which a .lst cannot hold"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return f"the file name {name!r:.200} is not valid Unicode"
    return None


def leads_out(name):
    """Whether a file name is absolute, or leads out of the folder in which it is looked for."""
    return os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir


def lst_file(path, ids, labels, names, label_format="multi-hot"):
    """A .lst file for `write_together`: its path, and its content as an iterable of bytes.

    `ids` and `names` are sequences; `labels` are (rows, classes): 1 present, 0 absent, -1 unknown,
    or a soft value in between. `label_format` is "multi-hot" or "indices", the numbers of the
    classes present; an InputError is raised where that would lose unknown or soft labels.
    """
    num_others = np.count_nonzero(~np.isin(labels, (0, 1))) if label_format == "indices" else 0
    if num_others:
        raise InputError("{flag} indices can say neither unknown (-1) nor soft labels, and "
                         f"{num_others} labels are: use multi-hot", file=path,
                         flag="--label-format")
    spell = _class_numbers if label_format == "indices" else _multi_hot
    step = 1 + BLOCK_LABELS // max(1, labels.shape[1])
    return path, (b"%d\t%s%s\n" % (number, text, os.fsencode(name))
                  for start in range(0, len(names), step)
                  for number, text, name in zip(ids[start:start + step],
                                                spell(labels[start:start + step]),
                                                names[start:start + step]))


def lines_file(path, lines):
    """A text file of one item per line, for `write_together`, as `lst_file`."""
    return path, (os.fsencode(line) + b"\n" for line in lines)


def csv_file(path, head, rows):
    """A CSV file for `write_together`, as `lst_file`; spreadsheets see no formula in it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [no_formula(encodable(str(cell))) for cell in row] for row in [head, *rows])
    return path, [text.getvalue().encode()]


def write_together(files):
    """Write files from `lst_file`, `lines_file` and `csv_file`.

    An InputError is raised when one of them cannot be written, for example on a full disk. All are
    then as they were.
    """
    for path, _ in files:
        if os.path.isdir(path):  # the one thing that renaming stumbles over
            raise InputError("cannot be written: is a folder", file=path)
    with contextlib.ExitStack() as stack:  # renames at its end, when all have been written
        for path, content in files:
            with open(stack.enter_context(atomic_file(path)), "wb") as file:
                file.writelines(content)


def _multi_hot(labels):
    whole = labels.astype(np.int8)
    if np.array_equal(whole, labels):
        return [row.tobytes().replace(b"\0", b"") for row in SPELLING[whole]]
    return [b"".join(b"%.6f\t" % value for value in row) for row in labels]


def _class_numbers(labels):
    return [b"".join(b"%d\t" % number for number in np.flatnonzero(row)) for row in labels]


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
        name, problem = lst.name(row), None
        if leads_out(name):
            problem = "leads out of the image root: it would land outside the folders"
        elif not os.path.isfile(existing_path(os.path.join(path_root, name))):
            problem = f"is not in {path_root}"
        if problem:
            raise InputError(f"{printable(name)} {problem}", file=lst.path, line=lst.line(row))
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
