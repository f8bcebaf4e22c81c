"""Images without labels, as LstIter takes them in place of a .lst, and those in a folder."""
from __future__ import annotations

import os
from collections import Counter
from typing import Iterable, Iterator, Sequence

import numpy as np

from common.cli import InputError
from common.text import printable
from reading.image_file import IMAGE_ENDINGS

# Folders of macOS's archives, Synology's and Windows' file systems, and ext4.
FOREIGN = frozenset(["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information",
                     "lost+found"])


class ImageList:
    """Image files, without labels, with the methods that LstIter needs of an LstFile.

    Files may have any ending; of a folder those are taken that `walk_images` finds. An InputError
    is raised when a folder cannot be read or holds no images.
    """

    path = "the images given"

    def __init__(self, paths: Iterable[str], num_classes: int) -> None:
        self.num_classes = num_classes
        self._names = []
        for path in paths:
            found = list(walk_images(path)) if os.path.isdir(path) else [path]
            if not found:
                raise InputError(f"holds no images ({' '.join(IMAGE_ENDINGS)})",
                                 file=printable(path))
            self._names += found

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        return self._names[row]

    def line(self, row: int) -> int:
        """Number of an image in messages, from 1."""
        return row + 1

    def labels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Unknown, -1: float32, (len(rows), num_classes)."""
        return np.full((len(rows), self.num_classes), -1, np.float32)


def walk_images(folder: str, others: Counter | None = None) -> Iterator[str]:
    """Yield the paths of the files in a folder and below that have an ending in IMAGE_ENDINGS.

    Those of each folder are sorted. Other files are counted by their ending in `others`; what
    `is_passed_over` is not. An InputError names a folder that cannot be read.
    """
    def refuse(error):
        raise InputError(error.strerror.lower(), file=printable(error.filename))

    others = Counter() if others is None else others
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not is_passed_over(name))
        for name in sorted(name for name in files if not is_passed_over(name)):
            if name.lower().endswith(IMAGE_ENDINGS):
                yield os.path.join(parent, name)
            else:
                others[os.path.splitext(name)[1].lower() or "without an ending"] += 1


def is_passed_over(name: str) -> bool:
    """Whether a file or folder called so is hidden, or one that other programs put there."""
    return name.startswith(".") or name in FOREIGN
