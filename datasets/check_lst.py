"""Opening every image of some .lst files as training will, and writing them without problems.

    findings = check([train, val], ["photos", "photos"], ["cat", "dog"])
    for problem in findings.problems:
        print(problem)
    ids, labels, names = clean_rows(train, findings, 0)
"""
import itertools
import os
from collections import Counter, defaultdict, namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from common.cli import InputError
from common.files import existing_path
from common.text import printable
from datasets.near_duplicates import near_pairs, perceptual_hash
from reading import equal_files
from reading.image_reader import ImageError, ReadOptions, read_image

SHAPE = (3, 224, 224)
IMAGES_AT_ONCE = 1024
KINDS = ("missing", "broken", "duplicate", "leaked", "contradictory", "similar")

# What opening an image found: `problem` is None, "missing" or "broken", and `reason` says why.
# `hash` is its perceptual_hash.
ImageCheck = namedtuple("ImageCheck", "problem reason digest size format hash", defaults=[None] * 4)
# Number of the list, row in it, one of KINDS, and the line to print.
Problem = namedtuple("Problem", "list row kind text")
# Problems in the order of rows; ImageChecks by path; by digest, the (list, row) pairs that show it,
# and the last list that has it or an image that looks nearly the same.
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
    return Findings([Problem(number, row, kind, f"{_place(lists[number], row)}: {text}")
                     for number, row, kind, text in problems], images, rows, last)


def clean_rows(lists, findings, number):
    """The rows of one of the lists that have no problem.

    Rows whose image cannot be used are left out, and so are those whose image, or one that looks
    nearly the same, is in a later list too: of `train.lst val.lst` the first gives way. Rows of
    one image become one row; a label that they contradict each other about becomes unknown, or, in
    a list of class numbers, which has no unknown, all of them are left out. Without any row left,
    raises an InputError.

    Returns
    -------
    ids : numpy.ndarray
        int64, (rows,).
    labels : numpy.ndarray
        float32, (rows, classes).
    names : list of str
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
    """Sizes and formats of the images and the number of problems, as text of a few lines."""
    good = [checked for checked in findings.images.values() if not checked.problem]
    lines = [f"{len(findings.images)} images, {len(good)} of them good"]
    if good:
        widths, heights = np.array([checked.size for checked in good]).T
        for title, sides in (("width", widths), ("height", heights)):
            lines.append(f"{title:8}{sides.min()} to {sides.max()} pixels, median "
                         f"{int(np.median(sides))}")
        formats = Counter(checked.format for checked in good).most_common()
        lines.append("format  " + ", ".join(f"{name} {count}" for name, count in formats))
    counts = Counter(problem.kind for problem in findings.problems)
    found = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return "\n".join([*lines, f"problems: {found or 'none'}"])


def _check_images(paths, threads, max_pixels):
    checked = {}
    read_options = ReadOptions(max_pixels=max_pixels, fit="squash")  # the whole image, to compare
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, \
            tqdm(total=len(paths), unit="image", disable=None) as bar:
        # In portions, so that Ctrl-C waits for one of them and not for all.
        for start in range(0, len(paths), IMAGES_AT_ONCE):
            portion = paths[start:start + IMAGES_AT_ONCE]
            for path, result in zip(portion, pool.map(lambda p: _open(p, read_options), portion)):
                checked[path] = result
                bar.update()
    return checked


def _open(path, read_options):
    path = existing_path(path)
    if not os.path.exists(path):
        return ImageCheck("missing", "there is no such image")
    try:
        pixels = np.empty(SHAPE, np.uint8)
        info = read_image(path, pixels, read_options)
        return ImageCheck(None, None, equal_files.digest(path), (info.width, info.height),
                          info.format, perceptual_hash(pixels))
    except ImageError as error:
        return ImageCheck("broken", error.reason)
    except OSError as error:
        return ImageCheck("broken", error.strerror.lower())


def _similar(rows, hashes):
    """Yield the digests of nearly equal images whose first rows are in different lists."""
    by_list = defaultdict(list)
    for digest, same in rows.items():
        if hashes[digest] is not None and same[0][0] == same[-1][0]:  # others are leaked anyway
            by_list[same[0][0]].append(digest)
    for one, other in itertools.combinations(sorted(by_list), 2):
        for first, second in near_pairs(*(np.stack([hashes[digest] for digest in by_list[number]])
                                          for number in (one, other))):
            yield by_list[one][first], by_list[other][second]


def _compare(lists, same, class_names):
    """Problems of rows that show the same image, each row held against an earlier one."""
    first_of_list = {same[0][0]: same[0][1]}
    for number, row in same[1:]:
        kind, note = "duplicate", ""
        other, other_row = number, first_of_list.get(number)
        if other_row is None:
            first_of_list[number] = row
            kind, note = "leaked", ", in another list"
            other, other_row = same[0]
        place = _place(lists[other], other_row)
        yield number, row, kind, f"the same image as {place}{note}"
        labels, others = lists[number].labels([row])[0], lists[other].labels([other_row])[0]
        differing = np.flatnonzero((labels != others) & (labels >= 0) & (others >= 0))
        if len(differing):
            names = [class_names[column] for column in differing[:5]]
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            yield (number, row, "contradictory",
                   f"other labels than {place} for the same image: {', '.join(names)}{more}")


def _merge(labels):
    """One row of several: what they agree on; unknown (-1) where they do not, or none knows."""
    most = labels.max(axis=0)
    least = np.where(labels >= 0, labels, np.inf).min(axis=0)
    return np.where(most == least, most, -1).astype(np.float32)


def _place(lst, row):
    return f"{lst.path}:{lst.line(row)}: {printable(lst.name(row))}"
