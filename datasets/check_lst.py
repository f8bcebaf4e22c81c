"""Opening every image of some .lst files as training will, and writing them without problems.

Images that look nearly the same are found by a perceptual hash, a bit for each low frequency of the
cosine transform of the grey picture: whether it is above their median (Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010).
"""
import itertools
import os
from collections import defaultdict, namedtuple
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from common.cli import InputError
from common.files import existing_path
from common.progress import Progress
from common.text import printable
from reading import equal_files
from reading.image_file import ImageError, read_image
from reading.read_options import ReadOptions

SHAPE = (3, 224, 224)
IMAGES_AT_ONCE = 1024
KINDS = ("missing", "broken", "duplicate", "leaked", "contradictory", "similar")

HASHED_SIDE, FREQUENCIES = 64, 16
NUM_BITS = FREQUENCIES ** 2 - 1  # without the mean brightness
# Of 600 street photos the five pairs of one scene differ in 0, 20, 42, 64 and 78 bits, all others
# in 80 or more, and 1,000 drawings in 84 or more. A photo and its copy of 0.7 of the size, 15 %
# brighter and of JPEG quality 40 differ in 20 at most, cropped by 3 % on each side in 58.
MAX_DIFFERENT = 66
LEAST_CONTRAST = 2.0  # standard deviation of grey values, below which there is nothing to compare

# What opening an image found: `problem` is None, "missing" or "broken", and `reason` says why.
# `hash` is its perceptual_hash.
ImageCheck = namedtuple("ImageCheck", "problem reason digest size hash", defaults=[None] * 3)
# Lines about problems by kind, in the order of rows; ImageChecks by path; and by digest, the
# (list, row) pairs that show it, and the last list that has it or one that looks nearly the same.
Findings = namedtuple("Findings", "problems images rows last")


def check(lists, roots, class_names, threads=None, max_pixels=ReadOptions.max_pixels):
    """The Findings of opening every image, and comparing the rows that show the same one.

    `lists` are LstFiles with the same classes, `roots` the image root of each, and `class_names`
    for messages. `threads` open the images (None: one per processor); those with more than
    `max_pixels` count as broken.
    """
    paths = {(number, row): os.path.join(root, lst.name(row))
             for number, (lst, root) in enumerate(zip(lists, roots)) for row in range(len(lst))}
    images = _check_images(list(dict.fromkeys(paths.values())), threads, max_pixels)
    problems, rows = [], defaultdict(list)
    for place, path in paths.items():
        checked = images[path]
        if checked.problem:
            problems.append((*place, checked.problem, checked.reason))
        else:
            rows[checked.digest].append(place)
    for same in rows.values():
        problems += _compare(lists, same, class_names)
    last = {digest: same[-1][0] for digest, same in rows.items()}
    hashes = {checked.digest: checked.hash for checked in images.values()}
    for one, other in _similar(rows, hashes):
        (earlier, earlier_row), (later, later_row) = rows[one][0], rows[other][-1]
        last[one] = max(last[one], later)
        problems.append((later, later_row, "similar", "looks nearly the same as "
                         f"{_place(lists[earlier], earlier_row)}, in another list"))
    problems.sort(key=lambda problem: problem[:2])
    lines = {kind: [f"{_place(lists[number], row)}: {text}"
                    for number, row, of_kind, text in problems if of_kind == kind]
             for kind in KINDS}
    return Findings(lines, images, rows, last)


def clean_rows(lists, findings, number):
    """The rows of one of the lists that have no problem.

    Rows whose image cannot be used are left out, and so are those whose image, or one that looks
    nearly the same, is in a later list too: of `train.lst val.lst` the first gives way. Rows of
    one image become one row; a label that they contradict each other about becomes unknown, or, in
    a list of class numbers, which has no unknown, all of them are left out. Without any row left,
    raises an InputError.

    Returns IDs, int64 (rows,), labels, float32 (rows, classes), and a list of names.
    """
    lst = lists[number]
    kept = {}
    for digest, same in findings.rows.items():
        own = [row for at, row in same if at == number]
        if not own or findings.last[digest] > number:
            continue
        merged = _merge(lst.labels(own))
        if lst.label_format == "multi-hot" or (merged >= 0).all():
            kept[own[0]] = merged
    if not kept:
        raise InputError("no row is left without problems: nothing was written", file=lst.path)
    rows = sorted(kept)
    return lst.ids[rows], np.stack([kept[row] for row in rows]), [lst.name(row) for row in rows]


def summarise(findings):
    """Sizes of the images and the number of problems, as text of a few lines."""
    good = [checked for checked in findings.images.values() if not checked.problem]
    lines = [f"{len(findings.images)} images, {len(good)} of them good"]
    if good:
        widths, heights = np.array([checked.size for checked in good]).T
        for title, sides in (("width", widths), ("height", heights)):
            lines.append(f"{title:8}{sides.min()} to {sides.max()} pixels, median "
                         f"{int(np.median(sides))}")
    found = ", ".join(f"{len(texts)} {kind}" for kind, texts in findings.problems.items() if texts)
    return "\n".join([*lines, f"problems: {found or 'none'}"])


def _check_images(paths, threads, max_pixels):
    checked = {}
    read_options = ReadOptions(max_pixels=max_pixels, fit="squash")  # the whole image, to compare
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, \
            Progress("Checking", len(paths), "images") as progress:
        # In portions, so that Ctrl-C waits for one of them and not for all.
        for start in range(0, len(paths), IMAGES_AT_ONCE):
            portion = paths[start:start + IMAGES_AT_ONCE]
            for path, result in zip(portion, pool.map(lambda p: _open(p, read_options), portion)):
                checked[path] = result
                progress.update(1)
    return checked


def _open(path, read_options):
    path = existing_path(path)
    if not os.path.exists(path):
        return ImageCheck("missing", "there is no such image")
    try:
        pixels = np.empty(SHAPE, np.uint8)
        info = read_image(path, pixels, read_options)
        return ImageCheck(None, None, equal_files.digest(path), (info.width, info.height),
                          perceptual_hash(pixels))
    except ImageError as error:
        return ImageCheck("broken", error.what)
    except OSError as error:
        return ImageCheck("broken", error.strerror.lower())


def perceptual_hash(pixels):
    """The hash of RGB pixels, uint8 (3, height, width): int8 of -1 and 1; None of a plain image."""
    grey = cv2.resize(pixels.mean(axis=0, dtype=np.float32), (HASHED_SIDE, HASHED_SIDE),
                      interpolation=cv2.INTER_AREA)
    if grey.std() < LEAST_CONTRAST:
        return None
    low = cv2.dct(grey)[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    return np.where(low > np.median(low), 1, -1).astype(np.int8)


def _similar(rows, hashes):
    """Yield the digests of nearly equal images whose first rows are in different lists."""
    by_list = defaultdict(list)
    for digest, same in rows.items():
        if hashes[digest] is not None and same[0][0] == same[-1][0]:  # others are leaked anyway
            by_list[same[0][0]].append(digest)
    signs = {number: np.stack([hashes[digest] for digest in digests]).astype(np.float32)
             for number, digests in by_list.items()}
    for one, other in itertools.combinations(sorted(by_list), 2):
        for start in range(0, len(by_list[one]), IMAGES_AT_ONCE):
            agreement = signs[one][start:start + IMAGES_AT_ONCE] @ signs[other].T
            for first, second in np.argwhere(agreement >= NUM_BITS - 2 * MAX_DIFFERENT):
                yield by_list[one][start + first], by_list[other][second]


def _compare(lists, same, class_names):
    """Problems of rows that show the same image, each row held against the first."""
    first, first_row = same[0]
    place = _place(lists[first], first_row)
    expected = lists[first].labels([first_row])[0]
    for number, row in same[1:]:
        kind, where = ("duplicate", "") if number == first else ("leaked", ", in another list")
        yield number, row, kind, f"the same image as {place}{where}"
        labels = lists[number].labels([row])[0]
        differing = np.flatnonzero((labels != expected) & (labels >= 0) & (expected >= 0))
        if len(differing):
            names = ", ".join(class_names[column] for column in differing)
            yield (number, row, "contradictory",
                   f"other labels than {place} for the same image: {names}")


def _merge(labels):
    """One row of several: what they agree on; unknown (-1) where they do not, or none knows."""
    most = labels.max(axis=0)
    least = np.where(labels >= 0, labels, np.inf).min(axis=0)
    return np.where(most == least, most, -1).astype(np.float32)


def _place(lst, row):
    return f"{lst.path}:{lst.line(row)}: {printable(lst.name(row))}"
