"""The pixels of an image file, by OpenCV (JPEG) or Pillow (all others)."""
from __future__ import annotations

from typing import Any, Callable, Sequence

import cv2
import numpy as np
from PIL import Image

from reading.image_header import BadImage, Header, exif_orientation, pillow_errors

FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
         8: cv2.IMREAD_REDUCED_COLOR_8}
# What turns a picture stored under each EXIF orientation the right way up.
TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda image: image, 2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180), 4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose, 6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)}


def decode(data: bytes, header: Header, reduction: int, background: Sequence[int]) -> np.ndarray:
    """Decode a whole file into upright pixels: uint8, (height, width, 3), blue, green, red.

    A `reduction` of 2, 4 or 8, for a JPEG only, decodes at that fraction of its size. `background`
    (red, green, blue) is put behind what is transparent. BadImage is raised when the file is
    damaged or of a kind that cannot be decoded.
    """
    if header.picture is not None:
        with pillow_errors(header.format):
            image = _decode_by_pillow(header.picture, background)
            orientation = 1  # Pillow turns a TIFF itself; other EXIF may follow the pixels
            if header.format in ("PNG", "WebP"):
                orientation = exif_orientation(header.picture.info.get("exif", b""))
    else:
        image, orientation = _decode_jpeg(data, reduction), header.orientation
    return TURNS[orientation](image)


def _decode_jpeg(data, reduction):
    # OpenCV does not find the orientation in every place.
    flags = FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage(f"OpenCV cannot decode this JPEG: {error.err}") from None
    if image is None:
        raise BadImage("is damaged or cut short, or a kind of JPEG that OpenCV does not read")
    return image


def _decode_by_pillow(picture, background):
    picture.load()
    if picture.mode.startswith("I;16") or picture.mode == "I" and picture.format == "PNG":
        values = np.asarray(picture)  # grey, 16 bits
        image = cv2.cvtColor((values >> 8).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        if "transparency" in picture.info:
            image[values == picture.info["transparency"]] = background[::-1]
        return image
    if picture.mode in ("I", "F"):
        raise BadImage(f"its pixels are numbers of 32 bits (Pillow's mode {picture.mode})")
    if picture.has_transparency_data:
        picture = _blend(picture.convert("RGBA"), background)
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    return cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)


def _blend(picture, background):
    """A picture with an alpha channel in front of a background of one colour."""
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(picture, mask=picture)
    return canvas
