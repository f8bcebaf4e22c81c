"""Image files other than JPEGs, which Pillow decodes."""
from __future__ import annotations

import contextlib
import io
import re
import warnings
from typing import Any, Iterator, Sequence

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from common.text import quoted
from reading.image_header import TURNS, BadImage, Header, exif_orientation, tiff_entries

FORMATS = "JPEG, PNG, GIF, BMP, WebP and TIFF"
# How files of each format begin, and Pillow's class, because Image.open has a limit of pixels of
# its own.
PILLOW_READERS: tuple[tuple[str, bytes, Any], ...] = (
    ("PNG", rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    ("GIF", rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    ("BMP", rb"BM", BmpImagePlugin.BmpImageFile),
    ("WebP", rb"(?s)RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    ("TIFF", rb"II\*\0|MM\0\*", TiffImagePlugin.TiffImageFile))
SAMPLE_FORMAT = 339  # a TIFF tag
UNSIGNED, UNDEFINED = 1, 4  # values of SAMPLE_FORMAT
# Colour profiles of a few MB are in use; Pillow's own limit is 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20
# Pillow warns of damage that does not keep it from decoding.
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_picture(data: bytes) -> Header:
    """The Header of a whole file that is no JPEG, with its `picture`; BadImage for no image."""
    for name, start, reader in PILLOW_READERS:
        if re.match(start, data):
            with _pillow_errors(name):
                picture = reader(io.BytesIO(_only_pixels(data) if name == "TIFF" else data))
            width, height = picture.size
            return Header(name, width, height, picture=picture)
    raise BadImage(f"begins with {quoted(data[:24])}, which is no image of a known format "
                   f"({FORMATS})")


@contextlib.contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Turn what Pillow raises for a damaged file of the format `name` into a BadImage."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of about ten classes
        raise BadImage(f"is damaged or cut short, or a kind of {name} that Pillow does not read "
                       f"({str(error) or type(error).__name__:.100})") from None


def decode_picture(header: Header, background: Sequence[int]) -> np.ndarray:
    """The upright pixels of a Header's picture, as image_file.decode gives them."""
    picture = header.picture
    with _pillow_errors(header.format):
        image = _pixels(picture, background)
    # Pillow turns a TIFF itself; other EXIF may follow the pixels.
    has_exif = header.format in ("PNG", "WebP")
    return TURNS[exif_orientation(picture.info.get("exif", b"") if has_exif else b"")](image)


def _pixels(picture, background):
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
        picture = picture.convert("RGBA")
        canvas = Image.new("RGB", picture.size, background)
        canvas.paste(picture, mask=picture)
        picture = canvas
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    return cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)


def _only_pixels(data):
    """A TIFF without what does not concern its first picture's pixels.

    Pillow reads all that any directory points to, and 4,000 entries that each point to the whole
    file would make gigabytes of it.
    """
    kept, named, place = bytearray(data), 0, len(data)
    for place, tag, value, size in tiff_entries(data):
        if tag == SAMPLE_FORMAT and value not in (None, UNSIGNED, UNDEFINED):
            raise BadImage("is a TIFF of signed, floating-point or complex numbers (SampleFormat "
                           f"{value}), not of unsigned whole numbers")
        if 254 <= tag <= 347 or 512 <= tag <= 532:
            named += size
        else:
            kept[place + 2:place + 4] = b"\0\0"  # entries of type 0, which is none, are skipped
    if named > len(data):
        raise BadImage("is a damaged TIFF: its directory names more data than the file holds")
    kept[place + 12:place + 16] = bytes(4)  # no further directory
    return bytes(kept)
