"""Dividing images: into lists in which each class keeps its share, and among machines.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
Multi-label Data", ECML PKDD 2011) deals the rows out, the rarest class first. Frequent classes
come last and find most rows dealt, so single rows are moved afterwards as long as that helps.
Rows of one group, the pictures of one patient for example, go to the same side.
"""
import os
import re

import numpy as np

from common.cli import InputError
from datasets.label_table import lines_file, lst_file, write_together
from reading.equal_files import first_equal

MAX_MOVABLE = 50_000  # groups looked at for a move; of more, every second or third will do
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
    was kept together, and what perhaps should be (None: nothing).
    """
    num_images, groups, notes = len(table.names), table.groups, []
    equal = (np.arange(num_images) if image_root is None
             else first_equal([os.path.join(image_root, name) for name in table.names]))
    if group_regex and any(groups):
        raise InputError("{flag} and --group-column: give one of them", flag="--group-regex")
    if group_regex:
        groups = groups_by_regex(table.names, group_regex)
    numbers = {}  # of groups; an image whose group is None is alone
    together = join_groups(equal, np.array([
        numbers.setdefault(image if group is None else group, len(numbers))
        for image, group in enumerate(groups)], np.int64))
    chosen, rest, share = {}, np.arange(num_images), 1
    for title, fraction in fractions.items():
        if fraction:
            try:
                is_chosen = split(table.labels[rest], fraction / share, seed, together[rest])
            except InputError as error:
                raise error.at(flag=f"--{title}-fraction") from None
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
        notes.append(_group_hint(table.names, list(lists.values()), len(table.classes)))
    return lists, notes


def split(labels, fraction, seed=0, groups=None):
    """Choose a `fraction` of the rows, above 0 and below 1: bool numpy.ndarray, (rows,).

    `labels` are (rows, classes), where 1 marks an example of the class, unlike 0 (absent) and -1
    (unknown). `groups`, int (rows,), is the group of each row; without it each is one of its own.

    Of a class with examples in at least two groups either side gets at least one, wherever rarer
    classes leave a choice. Raises an InputError when there are not two groups to split.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    num_groups = int(groups.max(initial=-1)) + 1
    if num_groups < 2:
        raise InputError(f"{len(labels)} images in {num_groups} groups cannot be split in two: "
                         "use {flag} 0", flag="--val-fraction")
    # RandomState, unlike its successor, gives the same under every version of numpy.
    order = np.random.RandomState(seed).permutation(num_groups)
    place = np.argsort(order)[groups]
    # One more class that every row carries makes the number of rows a share like any other.
    num_classes = labels.shape[1] + 1
    rows, classes = np.nonzero(labels == 1)
    cells = np.concatenate([place[rows] * num_classes + classes,
                            place * num_classes + num_classes - 1])
    cells, weights = np.unique(cells, return_counts=True)
    rows, classes = np.divmod(cells, num_classes)  # from here on, a row is a group
    examples = np.bincount(classes, weights, num_classes).astype(np.int64)
    # One example of two or more is worth more on the side that would have none.
    chosen = np.clip(np.rint(examples * fraction).astype(np.int64), np.minimum(examples // 2, 1),
                     np.maximum(examples - 1, 0))
    wanted = np.stack([examples - chosen, chosen])  # on either side
    side = _deal(rows, classes, weights, wanted, num_groups)

    step = -(-num_groups // MAX_MOVABLE)
    movable = rows % step == 0
    _balance(rows[movable] // step, classes[movable], weights[movable], wanted[1], side[::step])
    if side.min() == side.max():  # a few rows whose classes are all singletons
        row = np.bincount(rows).argmin()
        side[row] = 1 - side[row]
    return side[place] == 1


def join_groups(first, second):
    """The groups of rows that belong together by either of two groupings: int64, (rows,).

    Each numbers groups of rows, (rows,). A chain counts: where one joins rows 0 and 1, the other
    1 and 2, all three are a group.
    """
    joined = np.arange(len(first))
    while True:
        before = joined
        for groups in (first, second):
            smallest = np.full(groups.max() + 1, len(first))
            np.minimum.at(smallest, groups, joined)
            joined = smallest[groups]
        if np.array_equal(joined, before):
            return joined


def _deal(rows, classes, weights, wanted, num_rows):
    """The paper's algorithm: side of each row. What is left of `wanted` stays in it.

    `weights` says how many examples of a class are in a row, which is a group.
    """
    row_ends = np.searchsorted(rows, np.arange(num_rows + 1))
    examples = np.bincount(classes, minlength=wanted.shape[1])
    rows_of = np.split(rows[np.argsort(classes, kind="stable")], np.cumsum(examples)[:-1])
    side = np.full(num_rows, -1, np.int8)
    done = num_rows + 1  # more than any class can have
    remaining = np.where(examples > 0, examples, done)
    is_without = np.ones(wanted.shape, bool)  # whether a side has no example of a class yet
    while remaining.min() < done:
        rarest = remaining.argmin()
        for row in rows_of[rarest][side[rows_of[rarest]] < 0]:
            lead = wanted[1, rarest] - wanted[0, rarest] or wanted[1, -1] - wanted[0, -1]
            if remaining[rarest] == 1 and is_without[0, rarest] != is_without[1, rarest]:
                lead = 1 if is_without[1, rarest] else -1  # though this group may be too large
            side[row] = lead > 0
            here = slice(row_ends[row], row_ends[row + 1])
            carried = classes[here]
            wanted[side[row], carried] -= weights[here]
            remaining[carried] -= 1
            is_without[side[row], carried] = False
        remaining[rarest] = done
    return side


def _balance(rows, classes, weights, missing, side):
    """Move rows, one or one each way, as long as that lessens the classes' squared errors.

    `missing` says how many examples the chosen side lacks, below zero where it has too many;
    the other side mirrors it.
    """
    row_ends = np.searchsorted(rows, np.arange(len(side) + 1))
    own_errors = np.bincount(rows, weights**2, len(side))
    examples = np.zeros((2, len(missing)), np.int64)  # rows with each class on either side
    np.add.at(examples, (side[rows], classes), 1)

    def gains():
        sign = np.where(side == 1, -1, 1)
        gain = 2 * sign * np.bincount(rows, weights * missing[classes]) - own_errors
        # However much it would help the frequent classes: no class loses its last example.
        gain[rows[examples[side[rows], classes] == 1]] = -np.inf
        return gain

    def move(row):
        here = slice(row_ends[row], row_ends[row + 1])
        carried = classes[here]
        examples[side[row], carried] -= 1
        side[row] = 1 - side[row]
        examples[side[row], carried] += 1
        missing[carried] += (1 - 2 * side[row]) * weights[here]

    while True:
        gain = gains()
        if gain.max() > 0:
            move(gain.argmax())
            continue
        for first_side in (0, 1):
            first = np.where(side == first_side, gain, -np.inf).argmax()
            first_gain = gain[first]
            if side[first] != first_side or first_gain == -np.inf:
                continue
            move(first)
            second_gain = gains()
            second = second_gain.argmax()
            if first_gain + second_gain[second] > 0:
                move(second)
                break
            move(first)
        else:
            return


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


def _group_hint(names, sides, num_classes):
    """A line, if names of different lists look like those of one subject; else None.

    `sides` has the rows of each list, the training list first. Prefixes that may be those of
    classes, or have no digit, are none of subjects: cat_1.jpg, IMG_1.jpg.
    """
    for pattern in COMMON_REGEXES:
        matches = [re.search(pattern, name) for name in names]
        prefixes = [match and match.group(1) for match in matches]
        subjects = {prefix for prefix in prefixes if prefix and re.search(r"\d[^/]*/?$", prefix)}
        if len(subjects) < max(MIN_GROUPS, num_classes + 1):
            continue
        subjects &= {prefixes[row] for row in sides[0]}
        others = [row for side in sides[1:] for row in side]
        shared = [row for row in others if prefixes[row] in subjects]
        if len(shared) >= MIN_SHARE * len(others):
            return (f"{len(shared)} of {len(others)} images outside the training list have names "
                    f"that start as one in it, such as {names[shared[0]]!r:.100}: if those show "
                    f"the same subject, --group-regex '{pattern}' keeps them in one list")
    return None


def deal(num_rows, num_parts, seed=0):
    """Assign each row to one machine at random; numbers of rows differ by at most one.

    Returns one int64 numpy.ndarray per machine, row numbers in ascending order.
    """
    if not 1 <= num_parts <= num_rows:
        raise InputError(f"{num_rows} rows cannot be dealt out to {num_parts} machines",
                         flag="--num-parts")
    order = np.random.RandomState(seed).permutation(num_rows)
    return [np.sort(order[part::num_parts]) for part in range(num_parts)]


def write_part(lst, rows, prefix):
    """Write PREFIX.lst and PREFIX_files.txt of one machine's rows."""
    names = [lst.name(row) for row in rows]
    # rsync takes lines that start with # or ; for comments.
    files = ["./" * name.startswith(("#", ";")) + name for name in dict.fromkeys(names)]
    write_together([
        lines_file(f"{prefix}_files.txt", files),
        lst_file(f"{prefix}.lst", lst.ids[rows], lst.labels(rows), names, lst.label_format)])
