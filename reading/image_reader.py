"""One image file to the pixels that the network gets.

    out = np.empty((3, 224, 224), np.uint8)
    read_image("photo.jpg", out)                                  # centre crop
    read_image("photo.jpg", out, Augment(random_crop=True, random_mirror=True),
               sample_rng(seed=0, epoch=3, row=17))               # the same for the same numbers

Nothing larger than needed is ever made: the size is read from the header, JPEGs are decoded at
1/2, 1/4 or 1/8 size where that still covers the result, and cropped before they are resized.
"""
import contextlib
import math
import os
import random
import stat
import tempfile
from dataclasses import dataclass
from typing import Optional

import cv2
import numpy as np

from common.cli import InputError
from common.files import retry_transient_errors
from common.text import printable
from reading.image_header import BadImage, read_header

FITS = ("crop", "pad", "squash")
NEUTRAL = 127  # where there is no image: padding, and samples left out
GREY = np.array([0.114, 0.587, 0.299])  # weights of blue, green, red in a grey value (BT.601)
FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
         8: cv2.IMREAD_REDUCED_COLOR_8}
# How far libjpeg may reduce an image, and from how many pixels to a pixel of the result on.
# Barely resized after that, it differs from area averaging by more than 3 of 255.
REDUCTIONS = ((8, 13.5), (4, 5.5), (2, 2))
# What turns a picture stored under each EXIF orientation the right way up.
TURNS = {
    1: lambda image: image, 2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180), 4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose, 6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)}


@dataclass(frozen=True)
class Augment:
    """How an image becomes a sample; names and meanings are those of MXNet's iterators.

    Parameters
    ----------
    resize : int, optional
        Pixels of the short side before the crop. None or 0: as small as the crop allows.
    random_crop : bool
        Crop anywhere instead of in the middle.
    random_mirror : bool
        Mirror every other image, left to right.
    min_random_area, max_random_area : float
        Crop a random part of the image's area, in (0, 1], and scale it to the shape.
        Both 1: off. Takes the place of `resize` and of `random_crop`.
    max_random_aspect_ratio : float
        Stretch that crop's width against its height by a factor in [1 - this, 1 + this];
        in [0, 1).
    brightness, contrast, saturation : float
        Change each by a factor in [1 - this, 1 + this]; in [0, 1]. 0: off.
    fit : str
        "crop"; "pad": the whole image, on a grey square where its aspect differs;
        "squash": the whole image, whatever that does to its aspect.
    full_decode : bool
        Decode JPEGs at full size always: slower, and the same to the eye.
    max_pixels : int
        Refuse images whose header says more than this many pixels.

    Raises
    ------
    InputError
        When a value is out of its range or two contradict each other.
    """

    resize: Optional[int] = None
    random_crop: bool = False
    random_mirror: bool = False
    min_random_area: float = 1.0
    max_random_area: float = 1.0
    max_random_aspect_ratio: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    fit: str = "crop"
    full_decode: bool = False
    max_pixels: int = 100_000_000

    def __post_init__(self):
        if self.resize is not None and self.resize < 0:
            raise InputError(f"resize is a number of pixels, not {self.resize}")
        if not 0 < self.min_random_area <= self.max_random_area <= 1:
            raise InputError("min_random_area and max_random_area want 0 < min <= max <= 1, not "
                             f"{self.min_random_area} and {self.max_random_area}")
        if not 0 <= self.max_random_aspect_ratio < 1:
            raise InputError("max_random_aspect_ratio is at least 0 and below 1, not "
                             f"{self.max_random_aspect_ratio}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is between 0 and 1, not {getattr(self, name)}")
        if self.fit not in FITS:
            raise InputError(f"fit is crop, pad or squash, not {self.fit}")
        if self.random_area and self.fit != "crop":
            raise InputError(f"a random area is a crop, but fit={self.fit} takes the whole image: "
                             "choose one")
        if self.max_pixels < 1:
            raise InputError(f"max_pixels is at least 1, not {self.max_pixels}")

    @property
    def random_area(self):
        """Whether the crop's area or aspect is random."""
        return self.min_random_area < 1 or self.max_random_aspect_ratio > 0

    @property
    def random(self):
        """Whether anything is left to chance."""
        return bool(self.random_crop or self.random_mirror or self.random_area
                    or self.brightness or self.contrast or self.saturation)


class ImageError(InputError):
    """An image that cannot be used: `path`, and the `reason` in words."""

    def __init__(self, path, reason):
        super().__init__(f"{printable(path)}: {reason}")
        self.path = path
        self.reason = reason


def sample_rng(seed, epoch, row):
    """The generator that decides over one sample, the same on every machine and thread.

    Only its method `random` gives the same numbers under every version of Python.
    """
    return random.Random(seed << 96 | epoch << 48 | row)


def read_image(path, out, augment=None, rng=None):
    """Read an image file into an array.

    Parameters
    ----------
    path : str
        JPEG, PNG, GIF (its first picture), BMP, WebP or TIFF, of any depth and colours; what
        is transparent shows the colours beneath. EXIF rotation is applied.
    out : numpy.ndarray
        uint8, (3, height, width), each plane contiguous. Receives RGB, 0 to 255.
    augment : Augment, optional
    rng : random.Random, optional
        From `sample_rng`. None: nothing is random, crops are taken from the middle.

    Raises
    ------
    ImageError
        When there is no such image or it cannot be used. `out` is then undefined.
    """
    augment = augment or Augment()
    _, height, width = out.shape
    # Always as many, so that one option does not change what another one draws.
    draws = [rng.random() for _ in range(8)] if rng is not None else None
    try:
        image = _fit(_read_file(path, augment.max_pixels), width, height, augment, draws)
    except BadImage as bad:
        raise ImageError(path, str(bad)) from None
    if draws is not None:
        if augment.random_mirror and draws[4] < 0.5:
            image = cv2.flip(image, 1)
        image = _jitter(image, augment, draws[5:])
    # OpenCV's pixels are blue, green, red; `split` writes into the planes it is given.
    cv2.split(image, [out[2], out[1], out[0]])


def _read_file(path, max_pixels):
    """The bytes of a file, asked for again where shared storage failed for a moment."""
    try:
        return retry_transient_errors(lambda: _read_once(path, max_pixels))
    except OSError as error:
        raise BadImage((error.strerror or str(error)).lower()) from None


def _read_once(path, max_pixels):
    """The bytes of a regular file; pipes and devices, which may block for ever, are refused."""
    with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("is not a regular file")
        # The largest pixels take 8 bytes; a megabyte is for what else a file may carry.
        if status.st_size > 8 * max_pixels + (1 << 20):
            raise BadImage(f"{status.st_size} bytes are too many for an image of at most "
                           f"{max_pixels} pixels (--max-pixels)")
        return file.readall()


def _open_without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _fit(data, width, height, augment, draws):
    """Decode, crop and resize: blue, green, red pixels, uint8, (height, width, 3)."""
    header = read_header(data)
    if header.width * header.height > augment.max_pixels:
        raise BadImage(f"its header says {header.width}x{header.height} pixels, above the limit "
                       f"of {augment.max_pixels} (--max-pixels)")
    full_width, full_height = header.width, header.height
    reduction = 1
    if header.format == "JPEG":
        ratio = _ratio(full_width, full_height, width, height, augment, draws)
        reduction = next((r for r, least in REDUCTIONS if ratio >= least), 1)
    decoded = 1 if augment.full_decode else reduction
    image = _decode(data, header, FLAGS[decoded])
    if decoded == 1:
        full_height, full_width = image.shape[:2]  # a damaged file's header may lie

    box = _box(full_width, full_height, width, height, augment, draws)
    inner_width, inner_height = _inner(full_width, full_height, width, height, augment)
    # The eye sees a shift of half a pixel first. In halves the box may well move to the grid of
    # the reduced pixels (and does at full size too); in quarters and eighths it must not.
    if decoded > 2:
        image = _sample(image, [edge / decoded for edge in box], inner_width, inner_height)
    else:
        grid = 1 if reduction > 2 else reduction
        left, right = _span(box[0], box[2], grid, full_width)
        top, bottom = _span(box[1], box[3], grid, full_height)
        image = image[top // decoded:bottom // decoded, left // decoded:right // decoded]
        image = _resize(image, inner_width, inner_height)
    if (inner_width, inner_height) != (width, height):
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        image = cv2.copyMakeBorder(
            image, top, height - inner_height - top, left, width - inner_width - left,
            cv2.BORDER_CONSTANT, value=(NEUTRAL, NEUTRAL, NEUTRAL))
    return image


def _box(full_width, full_height, width, height, augment, draws):
    """The part of the full image that becomes the sample: x, y, width, height, in its pixels."""
    if augment.fit != "crop":
        return 0, 0, full_width, full_height
    if augment.random_area and draws is not None:
        low, high = augment.min_random_area, augment.max_random_area
        area = full_width * full_height * (low + (high - low) * draws[0])
        stretch = 1 + augment.max_random_aspect_ratio * (2 * draws[1] - 1)
        box_width = math.sqrt(area * stretch * width / height)
        box_height = area / box_width
    else:
        # Pixels of the full image to a pixel of the result.
        step = min(full_width, full_height) / augment.resize if augment.resize else math.inf
        step = min(step, full_width / width, full_height / height)
        box_width, box_height = step * width, step * height
    shrink = min(1, full_width / box_width, full_height / box_height)
    box_width, box_height = shrink * box_width, shrink * box_height
    anywhere = draws is not None and (augment.random_crop or augment.random_area)
    across, down = draws[2:4] if anywhere else (0.5, 0.5)
    return ((full_width - box_width) * across, (full_height - box_height) * down,
            box_width, box_height)


def _inner(full_width, full_height, width, height, augment):
    """Width and height that the image takes of the sample: all of it unless it is padded."""
    if augment.fit != "pad":
        return width, height
    scale = min(width / full_width, height / full_height)
    return max(1, round(full_width * scale)), max(1, round(full_height * scale))


def _ratio(full_width, full_height, width, height, augment, draws):
    """Pixels of the full image to a pixel of the sample, in the direction that has fewer."""
    _, _, box_width, box_height = _box(full_width, full_height, width, height, augment, draws)
    inner_width, inner_height = _inner(full_width, full_height, width, height, augment)
    return min(box_width / inner_width, box_height / inner_height)


def _span(start, length, grid, limit):
    """First and last edge of a span, moved to the nearest multiples of `grid`."""
    cells = max(1, round(limit / grid))
    first = min(round(start / grid), cells - 1)
    return first * grid, max(first + 1, min(round((start + length) / grid), cells)) * grid


def _sample(image, box, width, height):
    """Resize a part of the image whose edges lie between pixels."""
    x, y, box_width, box_height = box
    columns, fractions_x = _positions(x, box_width, width)
    rows, fractions_y = _positions(y, box_height, height)
    # Positions in OpenCV's own fixed point, because what it makes of others (and of warpAffine's)
    # differs from release to release, and with it each prediction.
    places = np.empty((len(rows), len(columns), 2), np.int16)
    places[..., 0], places[..., 1] = columns, rows[:, None]
    fractions = (fractions_y[:, None] * cv2.INTER_TAB_SIZE + fractions_x).astype(np.uint16)
    image = cv2.remap(image, places, fractions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _positions(start, length, size):
    """Where to take the samples of one axis: whole pixels, and INTER_TAB_SIZEths of a pixel."""
    # Several samples per pixel of the result, at most a pixel apart, so that none is left out.
    count = size * math.ceil(length / size)
    centres = start + (np.arange(count) + 0.5) * (length / count) - 0.5
    return np.divmod(np.rint(centres * cv2.INTER_TAB_SIZE).astype(np.int64), cv2.INTER_TAB_SIZE)


def _resize(image, width, height):
    """Resize as area averaging does, but faster where that makes no difference to see."""
    rows, columns = image.shape[:2]
    # Whole factors go fast. They may cut a few pixels off the end: a quarter pixel of the result.
    times_x, times_y = max(1, columns // (4 * width)), max(1, rows // (4 * height))
    if times_x > 1 or times_y > 1:
        columns, rows = columns // times_x, rows // times_y
        image = cv2.resize(image[:rows * times_y, :columns * times_x], (columns, rows),
                           interpolation=cv2.INTER_AREA)
    # Below a factor of 2 a linear mix of the nearest pixels still leaves none of them out.
    area = columns >= 2 * width or rows >= 2 * height
    return cv2.resize(image, (width, height),
                      interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)


def _decode(data, header, flags):
    """The pixels of a file, the right way up."""
    if header.alpha_at is not None:
        # libtiff multiplies colours by an alpha that is told to be separate from them (2), but
        # not by one that nothing is told of (0).
        data = data[:header.alpha_at] + b"\0\0" + data[header.alpha_at + 2:]
    try:
        # OpenCV knows the orientation of some formats only, and not in every place.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise BadImage(f"OpenCV cannot decode this {header.format}: {error.err}") from None
    if image is None and header.format == "GIF":
        image = _decode_gif(data)
    if image is None:
        raise BadImage(f"is damaged or cut short, or a kind of {header.format} that OpenCV does "
                       "not read")
    return TURNS[header.orientation](image)


def _decode_gif(data):
    """The first picture of a GIF, by OpenCV's video reader: its image reader seldom knows GIF."""
    # The video reader takes nothing but a file, which must be closed for it on Windows.
    handle, path = tempfile.mkstemp(suffix=".gif")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        video = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        found, image = video.read()
        video.release()
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return image if found else None


def _jitter(image, augment, draws):
    brightness, contrast, saturation = (
        1 + limit * (2 * draw - 1)
        for limit, draw in zip((augment.brightness, augment.contrast, augment.saturation), draws))
    if augment.brightness or augment.contrast:
        # Contrast pulls towards the image's mean grey value, after brightness has moved it.
        grey = brightness * GREY.dot(cv2.mean(image)[:3])
        table = np.arange(256) * (brightness * contrast) + (1 - contrast) * grey
        image = cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8))
    if augment.saturation:
        mix = saturation * np.eye(3) + (1 - saturation) * np.tile(GREY, (3, 1))
        image = cv2.transform(image, mix)
    return image
