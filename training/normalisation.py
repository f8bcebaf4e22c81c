"""Whether the training images reach the network normalised as it was trained."""
import contextlib
import os

import numpy as np

from network.fine_tune import variance_ratio
from reading.image_reader import ImageError, read_image

IMAGES = 16
# Right normalisations gave 0.27 to 1.04 on photos, wrong ones 8e-5 to 0.04.
LEAST, MOST = 0.1, 10


def check_normalisation(network, lst, image_shape, read_options):
    """A warning where images of a SampleList vary otherwise than the network's own did: a list."""
    rows = np.linspace(0, len(lst.lst) - 1, min(IMAGES, len(lst.lst))).astype(int)
    pixels, place = np.empty((len(rows), *image_shape), np.uint8), 0
    for row in rows.tolist():
        with contextlib.suppress(ImageError):  # training says what is wrong with it
            read_image(os.path.join(lst.folder, lst.lst.name(row)), pixels[place], read_options)
            place += 1
    found = variance_ratio(*network, pixels[:place]) if place else None
    if not found or LEAST <= found[1] <= MOST:
        return []
    return ["at {} the training images vary {:.2g} times as much as those that the network was "
            "trained on (median over channels): is it normalised otherwise? --rgb-mean and "
            "--rgb-std say how".format(*found)]
