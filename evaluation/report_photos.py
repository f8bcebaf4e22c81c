"""The choice of photos in the report, and their thumbnails."""
import base64
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from common.text import printable
from reading.image_reader import NEUTRAL, Augment, ImageError, read_image

PHOTOS_PER_SHEET = 60  # on the sheets of confident mistakes and of random photos
PHOTOS_PER_CLASS = 12  # of a class's false negatives, and of its false positives
MAX_PHOTOS = 1000  # in the whole report
SIDE = 256  # pixels of a thumbnail's long side
# JPEG qualities, each tried where the one before gives more than MAX_BYTES, as noise does.
QUALITIES = (75, 45, 15)
MAX_BYTES = 18_000


def choose_photos(label, prob, thresholds):
    """Choose the photos that show the network's mistakes, and some random ones.

    `label` and `prob` are (samples, classes), `thresholds` a float or (classes,).

    Returns
    -------
    dict of str to list of (int, int)
        Samples, each with the class that it was chosen for, -1 for none, the largest difference
        between probability and label first. wrong: samples with the largest such difference in
        a wrong decision; false_negatives and false_positives: those of each class; random: any.
        Beyond MAX_PHOTOS the later ones of each class are left out.
    """
    mistakes = _mistakes(label, prob, thresholds)
    wrong = np.logical_or(*mistakes.values())
    gap = np.where(wrong, np.abs(prob - (label > 0.5)), -1.0)
    largest = gap.max(axis=1)
    order = np.argsort(-largest, kind="stable")
    order = order[largest[order] >= 0][:PHOTOS_PER_SHEET]
    drawn = np.random.RandomState(0).permutation(len(label))[:PHOTOS_PER_SHEET]
    sheets = {"wrong": [(int(s), int(gap[s].argmax())) for s in order],
              "random": [(int(s), -1) for s in np.sort(drawn)], **{name: [] for name in mistakes}}
    chosen = {s for sheet in sheets.values() for s, _ in sheet}
    ranked = {name: [_largest_gaps(gap[:, c], cells[:, c]) for c in range(label.shape[1])]
              for name, cells in mistakes.items()}
    # The first of every class, then the second of every class, and so on.
    for rank in range(PHOTOS_PER_CLASS):
        for name, classes in ranked.items():
            for c, samples in enumerate(classes):
                if rank < len(samples) and (samples[rank] in chosen or len(chosen) < MAX_PHOTOS):
                    chosen.add(samples[rank])
                    sheets[name].append((samples[rank], c))
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

    Images of more than `max_pixels` get no thumbnail.

    Returns
    -------
    photos : list of dict
        name, thumbnail (JPEG, base64), width and height, and by kind of decision (see
        `_decisions`) a list of [class, probability].
    sheets : dict of str to list of [int, int]
        With numbers of photos in place of numbers of samples.
    """
    chosen = sorted({s for sheet in sheets.values() for s, _ in sheet})
    place = {s: number for number, s in enumerate(chosen)}

    def describe(s):
        name, prob = samples.names[s], samples.prob[s]
        text, width, height = thumbnail(os.path.join(samples.root, name), max_pixels)
        photo = {"name": printable(name), "thumbnail": text, "width": width, "height": height}
        for kind, cells in _decisions(samples.label[s], prob, thresholds).items():
            classes = np.flatnonzero(cells)
            classes = classes[np.argsort(-prob[classes])]
            photo[kind] = [[int(c), round(float(prob[c]), 4)] for c in classes]
        return photo

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = list(pool.map(describe, chosen))
    return photos, {name: [[place[s], c] for s, c in sheet] for name, sheet in sheets.items()}


def thumbnail(path, max_pixels=Augment.max_pixels):
    """A small JPEG of the whole image: base64 text, width, height.

    An image that can no longer be read gives an empty text and a square.
    """
    pixels = np.empty((3, SIDE, SIDE), np.uint8)
    try:
        read_image(path, pixels, Augment(fit="pad", max_pixels=max_pixels))
    except ImageError:
        return "", SIDE, SIDE
    image = without_padding(pixels.transpose(1, 2, 0))
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    for quality in QUALITIES:
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(data) <= MAX_BYTES:
            break
    return base64.b64encode(data.tobytes()).decode("ascii"), image.shape[1], image.shape[0]


def without_padding(image):
    """Cut the rows and columns off the edges, (height, width, 3), that hold only padding."""
    filled = (image != NEUTRAL).any(axis=2)
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    if not len(rows):
        return image
    return image[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
