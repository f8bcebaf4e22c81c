"""An image file: what it says of itself, checked before anything is decoded, and its pixels.

OpenCV decodes JPEGs, Pillow all other formats. The size is checked first, so that a file of a few
kilobytes that claims 30000x30000 pixels costs nothing. The header of a JPEG is read here: Pillow
takes 23 microseconds for it and 75 with an EXIF block, where 2 and 6 do here.
"""
from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
from typing import Any, Callable, Iterator, NamedTuple, Sequence

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

FORMATS = "JPEG, PNG, GIF, BMP, WebP and TIFF"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
# How files of each format begin, and Pillow's class, because Image.open has a limit of pixels of
# its own.
PILLOW_READERS: tuple[tuple[str, bytes, Any], ...] = (
    ("PNG", rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    ("GIF", rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    ("BMP", rb"BM", BmpImagePlugin.BmpImageFile),
    ("WebP", rb"(?s)RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    ("TIFF", rb"II\*\0|MM\0\*", TiffImagePlugin.TiffImageFile))
# Colour profiles of a few MB are in use; Pillow's own limit is 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20
# Pillow warns of damage that does not keep it from decoding.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_JPEG_SCANS = 500
MAX_TIFF_ENTRIES = 4096
ORIENTATION, SAMPLE_FORMAT = 274, 339  # TIFF tags
TYPE_SIZES = bytes((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4))
INTEGERS = {3: "H", 4: "I"}
UNSIGNED, UNDEFINED = 1, 4  # values of SAMPLE_FORMAT
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
           8: cv2.IMREAD_REDUCED_COLOR_8}
# What turns a picture stored under each EXIF orientation the right way up.
TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda image: image, 2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180), 4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose, 6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)}


class BadImage(ValueError):
    """The reason why a file cannot be used as an image, without the file's name."""


class Header(NamedTuple):
    """What an image file says of itself."""

    format: str  # "JPEG", "PNG", "GIF", "BMP", "WebP" or "TIFF"
    width: int  # of a JPEG after, of the others before they are turned upright
    height: int
    orientation: int = 1  # as in EXIF: how the decoded pixels of a JPEG have to be turned
    picture: Any = None  # the opened PIL.Image.Image where Pillow decodes it


def read_header(data: bytes) -> Header:
    """The Header of an image, given the bytes of the whole file.

    BadImage is raised when it is not an image, not one of the six formats, or cut short.
    """
    if not data:
        raise BadImage("is empty")
    try:
        header = _jpeg_header(data) if data.startswith(b"\xff\xd8") else _open_by_pillow(data)
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
        with _pillow_errors(header.format):
            image = _decode_by_pillow(header.picture, background)
        # Pillow turns a TIFF itself; other EXIF may follow the pixels.
        has_exif = header.format in ("PNG", "WebP")
        exif = header.picture.info.get("exif", b"") if has_exif else b""
        return TURNS[_exif_orientation(exif)](image)
    # OpenCV does not find the orientation in every place.
    flags = REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage(f"OpenCV cannot decode this JPEG: {error.err}") from None
    if image is None:
        raise BadImage("is damaged or cut short, or a kind of JPEG that OpenCV does not read")
    return TURNS[header.orientation](image)


def _open_by_pillow(data):
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
        picture = picture.convert("RGBA")
        canvas = Image.new("RGB", picture.size, background)
        canvas.paste(picture, mask=picture)
        picture = canvas
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    return cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)


def _exif_orientation(block):
    """The orientation, 1 to 8, that an EXIF block names; 1 where it is damaged or empty."""
    block = block[6 * block.startswith(b"Exif\0"):]
    if block[:4] in (b"II*\0", b"MM\0*"):
        with contextlib.suppress(struct.error, BadImage):
            for _, tag, value, _ in _tiff_entries(block):
                if tag == ORIENTATION:
                    return value if value in range(1, 9) else 1
    return 1


def _jpeg_header(data):
    position, exif = 2, b""
    while True:
        if data[position] != 0xFF:  # stray bytes, which decoders pass over
            position = data.find(b"\xff", position)
            if position < 0:
                raise BadImage("is a damaged JPEG: there is no marker where one belongs")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # these stand alone
            position += 2
        elif marker in (0xD9, 0xDA):
            raise BadImage("is a damaged JPEG: its pixels start before its size is told")
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            # Coded pixels never hold the end marker, so it stands where they end or nowhere;
            # phones append more data after it.
            if not data.endswith(b"\xff\xd9") and data.find(b"\xff\xd9", position) < 0:
                raise BadImage("is cut short: a JPEG without its end")
            # Each scan of a progressive JPEG, however short, passes over all pixels.
            if marker == 0xC2 and data.count(b"\xff\xda", position) > MAX_JPEG_SCANS:
                raise BadImage(f"is a JPEG of more than {MAX_JPEG_SCANS} scans")
            orientation = _exif_orientation(exif)
            if orientation >= 5:
                width, height = height, width
            return Header("JPEG", width, height, orientation)
        else:
            end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
            # Other things, such as XMP, are stored under this marker too.
            if marker == 0xE1 and not exif and data[position + 4:position + 8] == b"Exif":
                exif = data[position + 4:end]
            position = end


def _only_pixels(data):
    """A TIFF without what does not concern its first picture's pixels.

    Pillow reads all that any directory points to, and 4,000 entries that each point to the whole
    file would make gigabytes of it.
    """
    kept, named, place = bytearray(data), 0, len(data)
    for place, tag, value, size in _tiff_entries(data):
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


def _tiff_entries(data):
    """Yield place, tag, first value and bytes of data of each entry of a TIFF's first directory.

    The value is None unless it is an unsigned whole number.
    """
    order = "<" if data[:2] == b"II" else ">"
    start, = struct.unpack_from(order + "I", data, 4)
    if start >= len(data):
        raise BadImage("is cut short: a TIFF file whose directory lies beyond its end")
    count, = struct.unpack_from(order + "H", data, start)
    if count > MAX_TIFF_ENTRIES:
        raise BadImage(f"is a damaged TIFF: its directory has {count} entries")
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, place)
        size = number * (TYPE_SIZES[kind] if kind < len(TYPE_SIZES) else 0)
        value = None
        if kind in INTEGERS and number:
            at = place + 8
            if size > 4:
                at, = struct.unpack_from(order + "I", data, at)
            value, = struct.unpack_from(order + INTEGERS[kind], data, at)
        yield place, tag, value, size
