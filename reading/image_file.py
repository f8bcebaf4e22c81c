"""An image file: what it says of itself, checked before anything is decoded, and its pixels.

The size is read from the header, JPEGs are decoded at 1/2, 1/4 or 1/8 of it where that still covers
the result, and images are cropped before they are resized. OpenCV decodes JPEGs, Pillow all other
formats (other_formats.py). A file of a few kilobytes that claims 30000x30000 pixels costs nothing.
"""
from __future__ import annotations

import math
import os
import random
import struct
from typing import Sequence

import cv2
import numpy as np

from common.cli import InputError
from common.files import existing_path, open_regular_file, retry_transient_errors
from common.text import printable
from reading.image_header import TURNS, BadImage, Header, jpeg_header
from reading.read_options import ReadOptions, jitter_colors

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
           8: cv2.IMREAD_REDUCED_COLOR_8}
NEUTRAL = 127  # where there is no image: padding, and samples left out
# How far libjpeg may reduce an image, and from how many pixels to a pixel of the result on.
# Barely resized after that, it differs from area averaging by more than 3 of 255.
REDUCTIONS = ((8, 13.5), (4, 5.5), (2, 2))


class ImageError(InputError):
    """An image that cannot be used: `what` is the reason, and `file` its path as it is shown."""


def read_image(path: str | os.PathLike[str], out: np.ndarray, options: ReadOptions | None = None,
               rng: random.Random | None = None) -> Header:
    """Read an image file into an array, and return its Header, with the upright size.

    The file is a JPEG, PNG, GIF (its first picture), BMP, WebP or TIFF, of 8 or 16 bits and any
    colours; EXIF rotation is applied. `out`, uint8, (3, height, width), each plane contiguous,
    receives RGB, 0 to 255. `rng` is of `sample_rng`; without it nothing is random, and crops are
    taken from the middle. An ImageError is raised when there is no such image or it cannot be used;
    `out` is then undefined.
    """
    options = options or ReadOptions()
    # Always the same number, so that no option changes the draws of another.
    draws = [rng.random() for _ in range(8)] if rng is not None else None
    try:
        data = retry_transient_errors(lambda: read_file(path, options.max_pixels))
        size = out.shape[2], out.shape[1]
        image, header = _crop_and_resize(data, size, options, draws)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(reason, file=printable(path)) from None
    except BadImage as bad:
        raise ImageError(str(bad), file=printable(path)) from None
    if draws is not None:
        if options.random_mirror and draws[4] < 0.5:
            image = cv2.flip(image, 1)
        image = jitter_colors(image, options, draws[5:])
    # OpenCV's pixels are blue, green, red; `split` writes into the planes it is given.
    cv2.split(image, [out[2], out[1], out[0]])
    return header


def read_file(path: str | os.PathLike[str], max_pixels: int) -> bytes:
    """The bytes of the file that `existing_path` finds; OSError, or BadImage if it is too long."""
    try:
        file = open_regular_file(path, buffering=0)
    except FileNotFoundError:
        file = open_regular_file(existing_path(path), buffering=0)
    with file:
        size = os.fstat(file.fileno()).st_size
        # The largest pixels take 8 bytes; a megabyte is for what else a file may carry.
        if size > 8 * max_pixels + (1 << 20):
            raise BadImage(f"{size} bytes are too many for an image of at most {max_pixels} pixels "
                           "(--max-pixels)")
        return file.readall()


def _crop_and_resize(data, size, options, draws):
    """The pixels, uint8, (height, width, 3), blue, green, red, and the Header, of upright size."""
    header = read_header(data)
    if header.width * header.height > options.max_pixels:
        raise BadImage(f"its header says {header.width}x{header.height} pixels, above the limit "
                       f"of {options.max_pixels} (--max-pixels)")
    full_width, full_height = header.width, header.height
    reduction = 1
    if header.format == "JPEG":
        box, inner = layout((full_width, full_height), size, options, draws)
        # Pixels of the full image per pixel of the sample, in the direction that has fewer.
        ratio = min(box[2] / inner[0], box[3] / inner[1])
        reduction = next((r for r, least in REDUCTIONS if ratio >= least), 1)
    decoded = 1 if options.full_decode else reduction
    image = decode(data, header, decoded, options.background)
    if decoded == 1:
        full_height, full_width = image.shape[:2]  # a damaged file's header may lie

    box, inner = layout((full_width, full_height), size, options, draws)
    # A shift of half a pixel of the result is visible. At 1/2 the box may move to the grid of the
    # reduced pixels (as it does at full size too); at 1/4 and 1/8 it must not.
    if decoded > 2:
        image = _resize_between_pixels(image, [edge / decoded for edge in box], inner)
    else:
        grid = 1 if reduction > 2 else reduction
        left, right = _span(box[0], box[2], grid, full_width)
        top, bottom = _span(box[1], box[3], grid, full_height)
        image = image[top // decoded:bottom // decoded, left // decoded:right // decoded]
        image = _resize(image, inner)
    if inner != size:
        extra_x, extra_y = size[0] - inner[0], size[1] - inner[1]
        left, top = extra_x // 2, extra_y // 2
        image = cv2.copyMakeBorder(image, top, extra_y - top, left, extra_x - left,
                                   cv2.BORDER_CONSTANT, value=(NEUTRAL, NEUTRAL, NEUTRAL))
    return image, header._replace(width=full_width, height=full_height, picture=None)


def layout(full, size, options, draws):
    """The part of the full image that is shown (x, y, width, height), and its size in the sample.

    Sizes are (width, height).
    """
    (full_width, full_height), (width, height) = full, size
    if options.fit == "squash":
        return (0, 0, *full), size
    if options.fit == "pad":
        scale = min(width / full_width, height / full_height)
        return (0, 0, *full), tuple(max(1, round(side * scale)) for side in full)
    if options.random_area and draws is not None:
        low, high = options.min_random_area, options.max_random_area
        area = full_width * full_height * (low + (high - low) * draws[0])
        stretch = 1 + options.max_random_aspect_ratio * (2 * draws[1] - 1)
        box_width = math.sqrt(area * stretch * width / height)
        box_height = area / box_width
    else:
        # Pixels of the full image per pixel of the result.
        step = min(full) / options.resize if options.resize else math.inf
        step = min(step, full_width / width, full_height / height)
        box_width, box_height = step * width, step * height
    shrink = min(1, full_width / box_width, full_height / box_height)
    box_width, box_height = shrink * box_width, shrink * box_height
    anywhere = draws is not None and (options.random_crop or options.random_area)
    across, down = draws[2:4] if anywhere else (0.5, 0.5)
    x, y = (full_width - box_width) * across, (full_height - box_height) * down
    return (x, y, box_width, box_height), size


def _span(start, length, grid, limit):
    """First and last edge of a span, moved to the nearest multiples of `grid`."""
    cells = max(1, round(limit / grid))
    first = min(round(start / grid), cells - 1)
    return first * grid, max(first + 1, min(round((start + length) / grid), cells)) * grid


def _resize_between_pixels(image, box, size):
    columns, fractions_x = _positions(box[0], box[2], size[0])
    rows, fractions_y = _positions(box[1], box[3], size[1])
    # Positions in OpenCV's own fixed point, because what it makes of others (and of warpAffine's)
    # differs from release to release, and with it each prediction.
    places = np.empty((len(rows), len(columns), 2), np.int16)
    places[..., 0], places[..., 1] = columns, rows[:, None]
    fractions = (fractions_y[:, None] * cv2.INTER_TAB_SIZE + fractions_x).astype(np.uint16)
    image = cv2.remap(image, places, fractions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _positions(start, length, size):
    """Where to take the samples of one axis: whole pixels, and INTER_TAB_SIZEths of a pixel."""
    # Several samples per pixel of the result, at most a pixel apart, so that none is left out.
    count = size * math.ceil(length / size)
    centres = start + (np.arange(count) + 0.5) * (length / count) - 0.5
    return np.divmod(np.rint(centres * cv2.INTER_TAB_SIZE).astype(np.int64), cv2.INTER_TAB_SIZE)


def _resize(image, size):
    """Resize as by area averaging, but faster where the difference is not visible."""
    (rows, columns), (width, height) = image.shape[:2], size
    # Integer factors are fast. They cut at most a quarter pixel of the result off the end.
    times_x, times_y = max(1, columns // (4 * width)), max(1, rows // (4 * height))
    if times_x > 1 or times_y > 1:
        columns, rows = columns // times_x, rows // times_y
        image = cv2.resize(image[:rows * times_y, :columns * times_x], (columns, rows),
                           interpolation=cv2.INTER_AREA)
    # Below a factor of 2 linear interpolation skips no pixel either.
    area = columns >= 2 * width or rows >= 2 * height
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)


def read_header(data: bytes) -> Header:
    """The Header of an image, given the bytes of the whole file.

    BadImage is raised when it is not an image, not one of the six formats, or cut short.
    """
    if not data:
        raise BadImage("is empty")
    try:
        if data.startswith(b"\xff\xd8"):
            header = jpeg_header(data)
        else:
            from reading.other_formats import open_picture  # most lists have JPEGs alone
            header = open_picture(data)
    except (struct.error, IndexError, OverflowError):
        raise BadImage("is cut short: it ends within its header") from None
    if min(header.width, header.height) < 1:
        raise BadImage(f"its header says {header.width}x{header.height} pixels")
    return header


def decode(data: bytes, header: Header, reduction: int, background: Sequence[int]) -> np.ndarray:
    """Decode a whole file into upright pixels: uint8, (height, width, 3), blue, green, red.

    A `reduction` of 2, 4 or 8, for a JPEG only, decodes at that fraction of its size. `background`
    (red, green, blue) is put behind what is transparent. BadImage is raised when the file is
    damaged or of a kind that cannot be decoded.
    """
    if header.picture is not None:
        from reading.other_formats import decode_picture
        return decode_picture(header, background)
    # OpenCV does not find the orientation in every place.
    flags = REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage(f"OpenCV cannot decode this JPEG: {error.err}") from None
    if image is None:
        raise BadImage("is damaged or cut short, or a kind of JPEG that OpenCV does not read")
    return TURNS[header.orientation](image)
