"""The choice of photos in the report, and the JPEGs that the page holds of them."""
import base64
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from common.text import printable
from reading.image_reader import NEUTRAL, Augment, ImageError, read_image

PHOTOS_PER_SHEET = 60  # on the sheets that are not of one class
PHOTOS_PER_CLASS = 12  # of a class's false negatives, and of its false positives
MAX_PHOTOS = 1000  # in the whole report, unless --report-photos says otherwise
MAX_BYTES = 21_000_000  # of all JPEGs; in the page, as text, they take a third more
SIDES = (1024, 768, 512, 384, 256)  # long sides in pixels, the first that fits
# JPEG qualities; the last is for noise.
QUALITIES = (80, 60, 40, 15)
BYTES_PER_PIXEL = 0.15  # photos at the first quality take more


def choose_photos(label, prob, thresholds, sheets=None, max_photos=MAX_PHOTOS):
    """Choose the photos that show the network's mistakes, and some random ones.

    `label` and `prob` are (samples, classes), `thresholds` a float or (classes,). `sheets` are
    further ones, which come first.

    Returns
    -------
    dict of str to list of (int, int)
        Samples, each with the class that it was chosen for, -1 for none, the largest difference
        between probability and label first. wrong: samples with the largest such difference in
        a wrong decision; false_negatives and false_positives: those of each class; random: any.
        Beyond `max_photos` the later ones of each sheet and class are left out.
    """
    mistakes = _mistakes(label, prob, thresholds)
    wrong = np.logical_or(*mistakes.values())
    gap = np.where(wrong, np.abs(prob - (label > 0.5)), -1.0)
    largest = gap.max(axis=1)
    order = np.argsort(-largest, kind="stable")
    order = order[largest[order] >= 0][:PHOTOS_PER_SHEET]
    drawn = np.random.RandomState(0).permutation(len(label))[:PHOTOS_PER_SHEET]
    wanted = {"wrong": [(int(s), int(gap[s].argmax())) for s in order], **(sheets or {}),
              "random": [(int(s), -1) for s in np.sort(drawn)]}
    sheets, chosen = {name: [] for name in [*wanted, *mistakes]}, set()

    def add(name, sample, c):
        if sample in chosen or len(chosen) < max_photos:
            chosen.add(sample)
            sheets[name].append((sample, c))

    for rank in range(PHOTOS_PER_SHEET):
        for name, photos in wanted.items():
            for sample, c in photos[rank:rank + 1]:
                add(name, sample, c)
    ranked = {name: [_largest_gaps(gap[:, c], cells[:, c]) for c in range(label.shape[1])]
              for name, cells in mistakes.items()}
    # The first of every class, then the second of every class, and so on.
    for rank in range(PHOTOS_PER_CLASS):
        for name, classes in ranked.items():
            for c, samples in enumerate(classes):
                if rank < len(samples):
                    add(name, samples[rank], c)
    return sheets


def count_images(label, prob, thresholds):
    """Count the images that `choose_photos` chooses from: a dict by the sheet's name.

    images: int; classes: list of int, the images of each class, for false_negatives and
    false_positives only.
    """
    mistakes = _mistakes(label, prob, thresholds)
    return {"wrong": {"images": int(np.logical_or(*mistakes.values()).any(axis=1).sum())},
            "random": {"images": len(label)},
            **{name: {"images": int(cells.any(axis=1).sum()),
                      "classes": cells.sum(axis=0).tolist()} for name, cells in mistakes.items()}}


def _decisions(label, prob, thresholds):
    """The decisions that a photo shows, by their kind, bool; unknown: predicted, not labelled."""
    known, present, predicted = label >= 0, label > 0.5, prob > thresholds
    return {"true_positives": present & predicted,
            "false_positives": known & ~present & predicted,
            "false_negatives": present & ~predicted, "unknown": ~known & predicted}


def _mistakes(label, prob, thresholds):
    """The wrong decisions by their kind, each (samples, classes), bool."""
    decisions = _decisions(label, prob, thresholds)
    return {kind: decisions[kind] for kind in ("false_negatives", "false_positives")}


def _largest_gaps(gap, cells):
    samples = np.flatnonzero(cells)
    order = np.argsort(-gap[samples], kind="stable")[:PHOTOS_PER_CLASS]
    return samples[order].tolist()


def describe_photos(sheets, samples, thresholds, max_pixels=Augment.max_pixels):
    """The data of the photos on the sheets of `choose_photos`, for the page's script.

    Images of more than `max_pixels` are not shown.

    Returns
    -------
    photos : list of dict
        name, path, jpeg (base64), width and height, and by kind of decision (see `_decisions`) a
        list of [class, probability].
    sheets : dict of str to list of [int, int]
        With numbers of photos in place of numbers of samples.
    """
    chosen = sorted({s for sheet in sheets.values() for s, _ in sheet})
    place = {s: number for number, s in enumerate(chosen)}
    max_bytes = MAX_BYTES / max(1, len(chosen))

    def describe(s):
        name, prob = samples.names[s], samples.prob[s]
        path = os.path.join(samples.root, name)
        text, width, height = embedded_jpeg(path, max_bytes, max_pixels)
        photo = {"name": printable(name), "path": printable(os.path.abspath(path), None),
                 "jpeg": text, "width": width, "height": height}
        for kind, cells in _decisions(samples.label[s], prob, thresholds).items():
            classes = np.flatnonzero(cells)
            classes = classes[np.argsort(-prob[classes])]
            photo[kind] = [[int(c), round(float(prob[c]), 4)] for c in classes]
        return photo

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = list(pool.map(describe, chosen))
    return photos, {name: [[place[s], c] for s, c in sheet] for name, sheet in sheets.items()}


def embedded_jpeg(path, max_bytes, max_pixels=Augment.max_pixels):
    """The whole image as a JPEG of at most so many bytes, if 256 pixels can do that.

    Returns base64 text, width, height; an empty text and a square of an image that can no longer
    be read.
    """
    try:
        for side in SIDES:
            if side > SIDES[-1] and BYTES_PER_PIXEL * side ** 2 > max_bytes:
                continue
            image = _whole(path, side, max_pixels)
            for quality in QUALITIES[:-1] if side > SIDES[-1] else QUALITIES:
                _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
                if len(data) <= max_bytes:
                    break
            if len(data) <= max_bytes:
                break
    except ImageError:
        return "", SIDES[-1], SIDES[-1]
    return base64.b64encode(data.tobytes()).decode("ascii"), image.shape[1], image.shape[0]


def _whole(path, side, max_pixels):
    """The image in blue, green, red, with a long side of at most so many pixels; none are added."""
    pixels = np.empty((3, side, side), np.uint8)
    header = read_image(path, pixels, Augment(fit="pad", max_pixels=max_pixels))
    longest = max(header.width, header.height)
    if longest < side:
        return _whole(path, longest, max_pixels)
    image = without_padding(pixels.transpose(1, 2, 0))
    return np.ascontiguousarray(image[:, :, ::-1])


def without_padding(image):
    """Cut the rows and columns off the edges, (height, width, 3), that hold only padding."""
    filled = (image != NEUTRAL).any(axis=2)
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    if not len(rows):
        return image
    return image[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
