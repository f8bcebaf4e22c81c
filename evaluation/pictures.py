"""Pictures of what a network does: the photos in the report, and class maps over images.

A class map says where in an image a class was seen, see `Classifier.predict`. A position
is black up to the class's threshold and yellow at a probability of 1. The scale is the same for all
images, so that a class that was seen nowhere leaves the image dark.
"""
import base64
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from common.files import atomic_file
from common.progress import Progress
from common.text import printable
from evaluation.classifier import sample_area
from reading.image_file import ImageError, read_image
from reading.image_list import ImageList
from reading.read_options import ReadOptions

OPACITY = 0.55  # of the colours over the image
# Colours of the bytes 0 to 255 (blue, green, red), from dark to light, clear to the colour-blind.
COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0]
MAP_COLOURS = {"opacity": OPACITY,
               "scale": ["#{2:02x}{1:02x}{0:02x}".format(*colour) for colour in COLOURS.tolist()]}

PHOTOS_PER_SHEET = 60  # on the sheets that are not of one class
PHOTOS_PER_CLASS = 12  # of a class's false negatives, and of its false positives
MAX_PHOTOS = 1000  # in the whole report, unless --report-photos says otherwise
# Of all JPEGs and class maps; in the page, as text, they take a third more.
MAX_BYTES = 21_000_000
MAX_MAP_BYTES = 4_000_000  # of the class maps among them
CLASS_BYTES = 800  # less, for each class: its row in the table, and its text
SIDES = (1024, 768, 512, 384, 256)  # long sides in pixels, the first that fits
# JPEG qualities; the last is for noise.
QUALITIES = (80, 60, 40, 15)
BYTES_PER_PIXEL = 0.15  # photos at the first quality take more


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
    """Yield what `predict` does with maps; write a JPEG per predicted class of each image.

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
                stem = "-".join(re.sub(r"[^\w.]+", "_", part)[:80] for part in (
                    f"{row:06d}", os.path.basename(image_names(row)), classifier.class_names[one]))
                with atomic_file(os.path.join(folder, f"{stem}.jpg")) as name:
                    Path(name).write_bytes(cv2.imencode(".jpg", draw(image, grid))[1])
        yield batch, prob, maps


class Photos:
    """What the report shows of photos: at most `max_photos`, and class maps where there are any.

    Maps are computed in a pass of their own, so that those of all other images need not be kept.
    `reading` are the options of `Classifier.open`.
    """

    def __init__(self, classifier, devices=(), max_photos=MAX_PHOTOS, **reading):
        self._classifier, self._devices, self._reading = classifier, devices, reading
        self.max_photos, self.area = max_photos, classifier.area
        self.max_pixels = reading.get("max_pixels", ReadOptions.max_pixels)

    def maps(self, paths, classes, max_bytes):
        """The `intensities` of each image's classes, a dict of class to uint8 (rows, columns).

        Of the classes of an image the first that fit into `max_bytes` count; of an image that
        cannot be read, and of a network without maps, none.
        """
        if not (paths and self._classifier.has_maps):
            return [{}] * len(paths)
        images = ImageList(paths, len(self._classifier.class_names))
        found, thresholds = [], self._classifier.thresholds
        with self._classifier.open(images, **self._reading) as batches, \
                Progress("Class maps", len(paths), "photos") as progress:
            for batch, _, maps in self._classifier.predict(batches, self._devices,
                                                            with_maps=True):
                for slot in range(len(maps)):
                    most = 0 if slot in batch.bad else max_bytes // maps[slot, 0].size
                    chosen = classes[len(found)][:most]
                    found.append(dict(zip(chosen, intensities(maps[slot, chosen],
                                                              thresholds[chosen]))))
                progress.update(len(maps))
        return found


def choose_photos(label, prob, thresholds, sheets=None, max_photos=MAX_PHOTOS):
    """Choose the photos that show the network's mistakes, and some random ones.

    `label` and `prob` are (samples, classes), `thresholds` a float or (classes,). Returns sheets by
    name: lists of samples, each with the class that it was chosen for, -1 for none, the largest
    difference between probability and label first. wrong: samples with the largest such difference
    in a wrong decision; false_negatives and false_positives: those of each class; random: any;
    `sheets` are further ones. Beyond `max_photos` the later ones of each sheet and class are left
    out. Returns also by sheet what there is to choose from: the number of images and, of mistakes,
    by class.
    """
    decisions = _decisions(label, prob, thresholds)
    mistakes = {kind: decisions[kind] for kind in ("false_negatives", "false_positives")}
    wrong = np.logical_or(*mistakes.values())
    gap = np.where(wrong, np.abs(prob - (label > 0.5)), -1.0)
    order = np.argsort(-gap.max(axis=1), kind="stable")
    order = order[wrong[order].any(axis=1)]
    drawn = np.random.RandomState(0).permutation(len(label))[:PHOTOS_PER_SHEET]
    wanted = {"wrong": [(int(s), int(gap[s].argmax())) for s in order], **(sheets or {}),
              "random": [(int(s), -1) for s in np.sort(drawn)]}
    queue = [(name, photo) for rank in range(PHOTOS_PER_SHEET)
             for name, photos in wanted.items() for photo in photos[rank:rank + 1]]
    ranked = {name: [_largest_gaps(gap[:, c], cells[:, c]) for c in range(label.shape[1])]
              for name, cells in mistakes.items()}
    # The first of every class, then the second of every class, and so on.
    queue += [(name, (sample, c)) for rank in range(PHOTOS_PER_CLASS)
              for name, classes in ranked.items() for c, samples in enumerate(classes)
              for sample in samples[rank:rank + 1]]
    sheets, chosen = {name: [] for name in [*wanted, *mistakes]}, set()
    for name, (sample, c) in queue:
        if sample in chosen or len(chosen) < max_photos:
            chosen.add(sample)
            sheets[name].append((sample, c))
    totals = {name: {"images": len({s for s, _ in photos})} for name, photos in wanted.items()}
    totals["random"]["images"] = len(label)
    totals.update({name: {"images": int(cells.any(axis=1).sum()),
                          "classes": cells.sum(axis=0).tolist()}
                   for name, cells in mistakes.items()})
    return sheets, totals


def _decisions(label, prob, thresholds):
    """The decisions that a photo shows, by their kind, bool; unknown: predicted, not labelled."""
    known, present, predicted = label >= 0, label > 0.5, prob > thresholds
    return {"true_positives": present & predicted,
            "false_positives": known & ~present & predicted,
            "false_negatives": present & ~predicted, "unknown": ~known & predicted}


def _largest_gaps(gap, cells):
    samples = np.flatnonzero(cells)
    order = np.argsort(-gap[samples], kind="stable")[:PHOTOS_PER_CLASS]
    return samples[order].tolist()


def describe_photos(sheets, samples, thresholds, options):
    """The data of the photos on the sheets of `choose_photos`, for the page's script.

    Returns a list of dict, and the sheets with numbers of photos in place of those of samples. A
    photo has name, path, jpeg (base64), width, height, and by kind of decision (see `_decisions`) a
    list of [class, probability]; with class maps also maps: shape (rows, columns), area (see
    `sample_area`), and classes, the bytes (base64) of `Photos.maps` by class. `options` are Photos.
    """
    chosen = sorted({s for sheet in sheets.values() for s, _ in sheet})
    place = {s: number for number, s in enumerate(chosen)}
    paths = [os.path.join(samples.root, samples.names[s]) for s in chosen]
    label, probs = samples.label[chosen], samples.prob[chosen]
    decisions = _decisions(label, probs, thresholds)
    # Labelled classes first, then the most probable: maps beyond the limit are left out.
    order, listed = np.lexsort((-probs, label < 0.5)), np.any(list(decisions.values()), axis=0)
    classes = [row[cells[row]] for row, cells in zip(order, listed)]
    maps = options.maps(paths, classes, MAX_MAP_BYTES // max(1, len(paths)))
    map_bytes = sum(grid.size for grids in maps for grid in grids.values())
    max_bytes = MAX_BYTES - map_bytes - CLASS_BYTES * samples.label.shape[1]
    max_bytes = max_bytes / max(1, len(chosen))

    def describe(number, path, grids):
        prob = probs[number]
        text, width, height, full = embedded_jpeg(path, max_bytes, options.max_pixels)
        photo = {"name": printable(samples.names[chosen[number]]),
                 "path": printable(os.path.abspath(path), None),
                 "jpeg": text, "width": width, "height": height}
        for kind, cells in decisions.items():
            classes = np.flatnonzero(cells[number])
            classes = classes[np.argsort(-prob[classes])]
            photo[kind] = [[int(c), round(float(prob[c]), 4)] for c in classes]
        if text and grids:
            photo["maps"] = {
                "shape": next(iter(grids.values())).shape,
                "area": [round(share, 5) for share in options.area(full)],
                "classes": {int(c): _base64(grid) for c, grid in grids.items()}}
        return photo

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = list(pool.map(describe, range(len(paths)), paths, maps))
    return photos, {name: [[place[s], c] for s, c in sheet] for name, sheet in sheets.items()}


def embedded_jpeg(path, max_bytes, max_pixels=ReadOptions.max_pixels):
    """The whole image as a JPEG of at most so many bytes, if 256 pixels can do that.

    Returns base64 text, its width and height, and the image's own (width, height); an empty text
    and a square of an image that can no longer be read.
    """
    try:
        for side in SIDES:
            is_last = side == SIDES[-1]
            if BYTES_PER_PIXEL * side ** 2 > max_bytes and not is_last:
                continue
            image, full = _whole(path, side, max_pixels)
            for quality in QUALITIES if is_last else QUALITIES[:-1]:
                _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
                if len(data) <= max_bytes or is_last and quality == QUALITIES[-1]:
                    return _base64(data), image.shape[1], image.shape[0], full
    except ImageError:
        return "", SIDES[-1], SIDES[-1], (SIDES[-1], SIDES[-1])


def _base64(array):
    return base64.b64encode(array.tobytes()).decode("ascii")


def _whole(path, side, max_pixels):
    """The image in blue, green, red, with a long side of at most so many pixels; its own size."""
    pixels = np.empty((3, side, side), np.uint8)
    options = ReadOptions(fit="pad", max_pixels=max_pixels)
    header = read_image(path, pixels, options)
    full = header.width, header.height
    if max(full) < side:
        return _whole(path, max(full), max_pixels)
    left, top, width, height = sample_area(full, (side, side), options)
    x, y = round(-left / width * side), round(-top / height * side)
    image = pixels[::-1, y:y + round(side / height), x:x + round(side / width)]
    return np.ascontiguousarray(image.transpose(1, 2, 0)), full
