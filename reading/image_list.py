"""Images named on a command line, in the form that LstIter takes: without labels."""
from __future__ import annotations

import os
from typing import Iterable, Protocol, Sequence

import numpy as np

from common.cli import InputError
from common.text import printable
from reading.image_header import IMAGE_ENDINGS


class LabelledImages(Protocol):
    """What LstIter needs of a list of images, be it an LstFile or an ImageList."""

    path: str  # for messages
    num_classes: int

    def __len__(self) -> int:
        """Number of images."""

    def name(self, row: int) -> str:
        """Path of an image, relative to the folder of the images."""

    def line(self, row: int) -> int:
        """Number of an image in messages, from 1."""

    def labels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Labels of some images: float32, (len(rows), num_classes)."""


class ImageList:
    """Image files with any ending, and those in folders and their subfolders.

    Of a folder the files with an ending in IMAGE_ENDINGS are taken, in the order of their names,
    without hidden files and folders. An InputError is raised when a folder cannot be read or holds
    no images.
    """

    path = "the images given"

    def __init__(self, paths: Iterable[str], num_classes: int) -> None:
        self.num_classes = num_classes
        self._names = []
        for path in paths:
            found = list(_walk(path)) if os.path.isdir(path) else [path]
            if not found:
                raise InputError(f"{printable(path)}: holds no images ({' '.join(IMAGE_ENDINGS)})")
            self._names += found

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """Path of an image."""
        return self._names[row]

    def line(self, row: int) -> int:
        """Number of an image, from 1."""
        return row + 1

    def labels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Unknown, -1: float32, (len(rows), num_classes)."""
        return np.full((len(rows), self.num_classes), -1, np.float32)


def _walk(folder):
    def refuse(error):
        raise InputError(f"{printable(error.filename)}: {error.strerror.lower()}") from None

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield os.path.join(parent, name)
