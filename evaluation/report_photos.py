"""Which photos the report shows, and their thumbnails."""
import base64
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from common.text import printable
from reading.image_reader import NEUTRAL, Augment, ImageError, read_image

SHEET = 60  # photos on the sheet of the most confidently wrong, and of random ones
A_CLASS = 12  # photos of a class's missed labels, and of its false alarms
MOST_PHOTOS = 1000  # in the whole report
SIDE = 256  # pixels of a thumbnail's long side
# Of the JPEG, with the next one where it takes more than MOST_BYTES: noise does, photos seldom.
QUALITIES = (75, 45, 15)
MOST_BYTES = 18_000


def choose_photos(label, prob, thresholds, seed=0):
    """Choose the photos worth looking at.

    Parameters
    ----------
    label, prob : np.ndarray, (samples, classes)
    thresholds : float or np.ndarray of (classes,)
        A probability above it is a yes.

    Returns
    -------
    dict of str to list of (int, int)
        Samples, each with the class that it is there for, -1 for none, the most telling first.
        wrong: those with the largest difference between probability and label in any wrong
        decision; missed and alarms: of each class its present labels answered no, its absent
        ones answered yes; random: any. Beyond MOST_PHOTOS the later ones of each class are
        left out.
    """
    missed, alarms = _mistakes(label, prob, thresholds)
    gap = np.where(missed | alarms, np.abs(prob - (label > 0.5)), -1.0)
    worst = gap.max(axis=1)
    order = np.argsort(-worst, kind="stable")
    order = order[worst[order] >= 0][:SHEET]
    sheets = {"wrong": [(int(s), int(gap[s].argmax())) for s in order], "missed": [],
              "alarms": []}
    rng = np.random.RandomState(seed)
    some = rng.permutation(len(label))[:SHEET]
    sheets["random"] = [(int(s), -1) for s in np.sort(some)]
    chosen = {s for sheet in sheets.values() for s, _ in sheet}
    ranked = {name: [_strongest(gap[:, c], cells[:, c]) for c in range(label.shape[1])]
              for name, cells in (("missed", missed), ("alarms", alarms))}
    # The first of every class, then the second of every class, and so on.
    for rank in range(A_CLASS):
        for name, classes in ranked.items():
            for c, samples in enumerate(classes):
                if rank < len(samples) and (samples[rank] in chosen or len(chosen) < MOST_PHOTOS):
                    chosen.add(samples[rank])
                    sheets[name].append((samples[rank], c))
    return sheets


def count_images(label, prob, thresholds):
    """How many images the sheets of `choose_photos` are chosen from.

    Returns
    -------
    dict of str to dict
        By the sheet's name. images: int; classes: list of int, the images of each class, where
        the sheet has photos for each class.
    """
    missed, alarms = _mistakes(label, prob, thresholds)
    return {"wrong": {"images": int((missed | alarms).any(axis=1).sum())},
            "random": {"images": len(label)},
            **{name: {"images": int(cells.any(axis=1).sum()),
                      "classes": cells.sum(axis=0).tolist()}
               for name, cells in (("missed", missed), ("alarms", alarms))}}


def _mistakes(label, prob, thresholds):
    """Where a present label is answered no, and where an absent one is answered yes."""
    present, absent, yes = label > 0.5, (label >= 0) & (label <= 0.5), prob > thresholds
    return present & ~yes, absent & yes


def _strongest(gap, cells):
    samples = np.flatnonzero(cells)
    order = np.argsort(-gap[samples], kind="stable")[:A_CLASS]
    return samples[order].tolist()


def describe_photos(sheets, names, root, label, prob, thresholds, max_pixels=Augment.max_pixels):
    """What the page needs to know about the photos of some sheets.

    Parameters
    ----------
    sheets : dict
        From `choose_photos`.
    names : list of str
        File names of all samples.
    root : str
        Folder that they start from.
    label, prob, thresholds
        As `choose_photos`.

    Returns
    -------
    photos : list of dict
        name, thumbnail (JPEG, base64), width and height, and the lists right, alarms, missed and
        unknown (yes, but whether it is true nobody knows), each of [class, probability].
    sheets : dict of str to list of [int, int]
        With numbers of photos in place of numbers of samples.
    """
    samples = sorted({s for sheet in sheets.values() for s, _ in sheet})
    place = {s: number for number, s in enumerate(samples)}

    def describe(s):
        present, yes, known = label[s] > 0.5, prob[s] > thresholds, label[s] >= 0
        cells = {"right": present & yes, "alarms": known & ~present & yes,
                 "missed": present & ~yes, "unknown": ~known & yes}
        text, width, height = thumbnail(os.path.join(root, names[s]), max_pixels)
        return {"name": printable(names[s]), "thumbnail": text, "width": width, "height": height,
                **{key: _by_probability(prob[s], cell) for key, cell in cells.items()}}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = list(pool.map(describe, samples))
    return photos, {name: [[place[s], c] for s, c in sheet] for name, sheet in sheets.items()}


def _by_probability(prob, cells):
    classes = np.flatnonzero(cells)
    return [[int(c), round(float(prob[c]), 4)] for c in classes[np.argsort(-prob[classes])]]


def thumbnail(path, max_pixels=Augment.max_pixels):
    """A small JPEG of the whole image: base64 text, width, height.

    An image that has become unreadable meanwhile gives an empty text and a square.
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
        if len(data) <= MOST_BYTES:
            break
    return base64.b64encode(data.tobytes()).decode("ascii"), image.shape[1], image.shape[0]


def without_padding(image):
    """Cut the rows and columns off the edges, (height, width, 3), that hold only padding."""
    filled = (image != NEUTRAL).any(axis=2)
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    if not len(rows):
        return image
    return image[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
