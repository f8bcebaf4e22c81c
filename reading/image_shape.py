"""The image shape that suits the images of a list: their own aspect, in multiples of 32."""
from __future__ import annotations

import itertools
import math
import os

import numpy as np

from reading.image_file import read_file, read_header
from reading.image_header import BadImage
from reading.image_list import ImageList
from reading.lst_file import LstFile

SAMPLE = 200  # images whose headers are read
MULTIPLE = 32  # pixels that one position of the usual networks' last features stands for


def median_size(images: LstFile | ImageList, folder: str,
                max_pixels: int) -> tuple[float, float] | None:
    """Median width and height, upright, of a sample of the images; None where none is readable."""
    sizes = []
    for row in np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int):
        try:
            path = os.path.join(folder, images.name(int(row)))
            header = read_header(read_file(path, max_pixels))
            sizes.append((header.width, header.height))
        except (OSError, BadImage):
            continue  # reading it for training says what is wrong with it
    return tuple(np.median(sizes, axis=0)) if sizes else None


def best_shape(width: float, height: float, area: float) -> list[int]:
    """The [3, height, width] nearest in aspect and area to images of this size.

    Height and width are multiples of 32, and no larger than the images unless these are below 32.
    """
    area = min(area, width * height)
    sides = [range(MULTIPLE, max(int(side), MULTIPLE) + 1, MULTIPLE) for side in (height, width)]

    def difference(shape):
        rows, columns = shape
        return (abs(math.log(rows / columns * width / height))
                + abs(math.log(rows * columns / area)))

    return [3, *min(itertools.product(*sides), key=difference)]
