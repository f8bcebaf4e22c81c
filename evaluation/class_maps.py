"""Where in an image a class was seen: the class maps of an attention head, in colours.

    predictions = classifier.predict_with_maps(batches, devices)
    for batch, prob in write_maps(predictions, "maps", classifier, names):
        print(prob.shape)

A position of a class is black up to the class's threshold and yellow at a probability of 1; see
`Classifier.predict_with_maps` for its probability. The scale is the same for all images, so that a
class that was seen nowhere leaves the image dark.
"""
import os
import re
from pathlib import Path

import cv2
import numpy as np

from common.files import atomic_file
from common.progress import Progress
from reading.image_list import ImageList

OPACITY = 0.55  # of the colours over the image
# Colours of the bytes 0 to 255 (blue, green, red), from dark to light, clear to the colour-blind.
COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0]
MAP_COLOURS = {"opacity": OPACITY,
               "scale": ["#{2:02x}{1:02x}{0:02x}".format(*colour) for colour in COLOURS.tolist()]}


def intensities(maps, thresholds):
    """Probabilities, (classes, rows, columns), as bytes: 0 up to the threshold only, 255 at 1."""
    thresholds = np.asarray(thresholds)[:, None, None]
    above = (maps - thresholds) / np.maximum(1 - thresholds, 1e-6)
    return np.uint8(np.ceil(255 * above.clip(0, 1) - 0.01))  # which takes rounding errors away


def draw(image, grid):
    """An image, uint8 (height, width, 3) blue, green, red, in grey, under the colours of a map."""
    grid = cv2.resize(grid, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(grey, 1 - OPACITY, COLOURS[grid], OPACITY, 0)


def write_maps(predictions, folder, classifier, image_names):
    """Yield (batch, prob) of `predict_with_maps`; write a JPEG per predicted class of each image.

    Its name is the number of the image, from 0, its file's name and the class's, with "_" for
    what does not suit a file name. `image_names` gives the name of a row.
    """
    for batch, prob, maps in predictions:
        for slot, row in enumerate(batch.index[:len(prob)]):
            if slot in batch.bad:
                continue
            image = np.ascontiguousarray(batch.data[0][slot].asnumpy()[::-1].transpose(1, 2, 0))
            classes = np.flatnonzero(prob[slot] > classifier.thresholds)
            grids = intensities(maps[slot, classes], classifier.thresholds[classes])
            for one, grid in zip(classes, grids):
                parts = os.path.basename(image_names(row)), classifier.class_names[one]
                stem = "-".join([f"{row:06d}", *(re.sub(r"[^\w.]+", "_", part)[:80]
                                                for part in parts)])
                with atomic_file(os.path.join(folder, f"{stem}.jpg")) as name:
                    Path(name).write_bytes(cv2.imencode(".jpg", draw(image, grid))[1])
        yield batch, prob


class PhotoMaps:
    """Computes the class maps of the photos in a report, in a pass of its own.

    So the maps of all other images need not be kept. `reading` are the options of
    `Classifier.open`.
    """

    def __init__(self, classifier, devices, **reading):
        self._classifier, self._devices, self._reading = classifier, devices, reading
        self.area = classifier.area

    def compute(self, paths, classes, max_bytes):
        """The `intensities` of each image's classes, a dict of class to uint8 (rows, columns).

        Of the classes of an image the first that fit into `max_bytes` count; of an image that
        cannot be read none.
        """
        images = ImageList(paths, len(self._classifier.class_names))
        found, thresholds = [], self._classifier.thresholds
        with self._classifier.open(images, **self._reading) as batches, \
                Progress("Class maps", len(paths), "photos") as progress:
            for batch, _, maps in self._classifier.predict_with_maps(batches, self._devices):
                for slot in range(len(maps)):
                    most = 0 if slot in batch.bad else max_bytes // maps[slot, 0].size
                    chosen = classes[len(found)][:most]
                    found.append(dict(zip(chosen, intensities(maps[slot, chosen],
                                                              thresholds[chosen]))))
                progress.update(len(maps))
        return found
