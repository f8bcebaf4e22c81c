"""Dividing images into lists so that those which belong together, as of one patient, stay together.

    lists, notes = split_table(table, {"val": 0.2, "test": 0}, seed=0, image_root="photos")
    lists["train"], lists["val"]      # row numbers
"""
import os
import re
from collections import Counter

import numpy as np

from common.cli import InputError
from datasets.stratify import join_groups, split
from reading.equal_files import first_equal

# Parts of names that often are a subject's: a folder, one of 1 to 4 levels, or what is in front of
# the first - or _ of the file's name.
COMMON_REGEXES = [*(rf"^((?:[^/]+/){{{depth}}})" for depth in range(1, 5)),
                  r"^([^/_-]+)[_-]", r"^(.+/[^/_-]+)[_-]"]
MIN_GROUPS = 10
MIN_SHARE = 0.05  # of the images of a list, below which a hint would be noise


def split_table(table, fractions, seed, image_root=None, group_regex=None):
    """Divide the images of a Table; equal files and images of one group stay in one list.

    `fractions` are shares of the images by the title of a list (0: no such list); the rest is
    "train". Without the folder of the images, `image_root`, their content is not compared. A
    `group_regex` for `groups_by_regex` stands in place of the table's own groups.

    Returns the row numbers, int64 numpy.ndarray, by title, "train" first, and a list of notes: what
    was kept together, and what perhaps should be.
    """
    num_images, groups, notes = len(table.names), table.groups, []
    equal = (np.arange(num_images) if image_root is None
             else first_equal([os.path.join(image_root, name) for name in table.names]))
    if group_regex and any(groups):
        raise InputError("{flag} and --group-column: give one of them", flag="--group-regex")
    if group_regex:
        groups = groups_by_regex(table.names, group_regex)
    together = join_groups(equal, _number_groups(groups))
    chosen, rest, share = {}, np.arange(num_images), 1
    for title, fraction in fractions.items():
        if fraction:
            try:
                is_chosen = split(table.labels[rest], fraction / share, seed, together[rest])
            except InputError as error:
                raise error.with_flag(f"--{title}-fraction") from None
            chosen[title], rest, share = rest[is_chosen], rest[~is_chosen], share - fraction
    lists = {"train": rest, **chosen}
    if not chosen:
        return lists, notes
    num_equal = np.count_nonzero(equal != np.arange(num_images))
    if num_equal:
        notes.append("of the same content as another image, and on its side of the split: "
                     f"{num_equal}")
    if any(groups):
        alone = f"; {groups.count(None)} images without one" * (None in groups)
        notes.append(f"groups kept together: {len(set(groups) - {None})}{alone}")
    else:
        notes += _group_hint(table.names, list(lists.values()), len(table.classes))
    return lists, notes


def groups_by_regex(names, pattern):
    """The group of each name: what `pattern` finds in it, its first parenthesis if it has any.

    None where it is not found. Raises an InputError when the pattern is none, or finds nothing.
    """
    try:
        matches = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise InputError(f"{pattern!r:.100} is no regular expression: {error}",
                         flag="--group-regex") from None
    if not any(matches):
        raise InputError(f"{pattern!r:.100} is found in none of the names, such as "
                         f"{names[0]!r:.100}", flag="--group-regex")
    return [match and match.group(min(1, match.re.groups)) for match in matches]


def _number_groups(groups):
    """The number of each image's group: int64, (images,). Images whose group is None are alone."""
    numbers = {}
    return np.array([numbers.setdefault(image if group is None else group, len(numbers))
                     for image, group in enumerate(groups)], np.int64)


def _group_hint(names, sides, num_classes):
    """A line, if names of different lists look like those of one subject: a list of at most one.

    `sides` has the rows of each list, the training list first. Prefixes that may be those of
    classes, or have no digit, are none of subjects: cat_1.jpg, IMG_1.jpg.
    """
    for pattern in COMMON_REGEXES:
        matches = [re.search(pattern, name) for name in names]
        prefixes = [match and match.group(1) for match in matches]
        sizes = Counter(prefix for prefix in prefixes
                        if prefix and re.search(r"\d[^/]*/?$", prefix))
        if len(sizes) < max(MIN_GROUPS, num_classes + 1):
            continue
        train = {prefixes[row] for row in sides[0]}
        others = [row for side in sides[1:] for row in side]
        shared = [row for row in others if prefixes[row] in sizes and prefixes[row] in train]
        if len(shared) >= MIN_SHARE * len(others):
            return [f"{len(shared)} of {len(others)} images outside the training list have names "
                    f"that start as one in it, such as {names[shared[0]]!r:.100}: if those show "
                    f"the same subject, --group-regex '{pattern}' keeps them in one list"]
    return []
