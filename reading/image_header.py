"""What an image file says of itself in its first bytes: its format and its size.

The size is known before anything is decoded, so that a file of a few kilobytes that claims
30000x30000 pixels costs nothing. Formats: JPEG, PNG, GIF, BMP, WebP, TIFF.
"""
import contextlib
import struct
from collections import namedtuple

FORMATS = "JPEG, PNG, GIF, BMP, WebP and TIFF"

# Width, height, orientation, what further samples there are (alpha), sample format.
TIFF_TAGS = (256, 257, 274, 338, 339)
TIFF_KINDS = {3: "H", 4: "I", 16: "Q"}
SAMPLE_FORMATS = {2: "signed numbers", 3: "floating-point numbers", 5: "complex numbers",
                  6: "complex numbers"}


class BadImage(ValueError):
    """Why a file is no image that one can use, in words; the caller knows the file's name."""


class Header(namedtuple("Header", "format width height orientation alpha_at",
                        defaults=(1, None))):
    """What an image says of itself.

    format ("JPEG", ...); width and height, in pixels, the right way up; orientation, as EXIF
    numbers it from 1 to 8, that the pixels still have after decoding; alpha_at, where a TIFF
    says that its colours are not multiplied by its alpha.
    """

    __slots__ = ()


def read_header(data):
    """Read the header of an image.

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    Header

    Raises
    ------
    BadImage
        When it is not an image, not one of the six formats, or cut short.
    """
    if not data:
        raise BadImage("is empty")
    try:
        if data.startswith(b"\xff\xd8"):
            header = _jpeg(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _png(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            header = Header("GIF", *struct.unpack_from("<HH", data, 6))
        elif data.startswith(b"BM"):
            header = _bmp(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            header = _tiff(data)
        else:
            raise BadImage(_not_an_image(data))
    except (struct.error, IndexError, OverflowError):
        raise BadImage("is cut short: it ends within its header") from None
    if header.width < 1 or header.height < 1:
        raise BadImage(f"its header says {header.width}x{header.height} pixels")
    return header


def _jpeg(data):
    position, exif = 2, b""
    while True:
        if data[position] != 0xFF:
            raise BadImage("is a damaged JPEG: there is no marker where one belongs")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers that stand alone
            position += 2
        elif marker in (0xD9, 0xDA):
            raise BadImage("is a damaged JPEG: its pixels start before its size is told")
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            # Coded pixels never hold the end marker, so it stands where they end or nowhere;
            # phones append more data after it.
            if not data.endswith(b"\xff\xd9") and data.find(b"\xff\xd9", position) < 0:
                raise BadImage("is cut short: a JPEG without its end")
            return _turned("JPEG", width, height, exif)
        else:
            end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
            # Other things, such as XMP, are stored under this marker too.
            if marker == 0xE1 and not exif and data[position + 4:position + 8] == b"Exif":
                exif = data[position + 4:end]
            position = end


def _png(data):
    width, height = struct.unpack_from(">II", data, 16)
    if b"IEND" not in data[-64:] and b"IEND" not in data:
        raise BadImage("is cut short: a PNG without its end")
    exif, position = b"", 8
    while not exif and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            exif = data[position + 8:position + 8 + length]
        position += 12 + length
    return _turned("PNG", width, height, exif)


def _bmp(data):
    if struct.unpack_from("<I", data, 14)[0] == 12:
        return Header("BMP", *struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", width, abs(height))  # a negative height: stored from the top


def _webp(data):
    if len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise BadImage("is cut short: a WebP file that holds less than its header says")
    kind, exif = data[12:16], b""
    if kind == b"VP8X":
        exif = _webp_exif(data)
        width, height = (1 + int.from_bytes(data[at:at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return _turned("WebP", width, height, exif)


def _webp_exif(data):
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return data[position + 8:position + 8 + length]
        position += 8 + length + length % 2
    return b""


def _tiff(data):
    if struct.unpack_from(*_directory_start(data))[0] >= len(data):
        raise BadImage("is cut short: a TIFF file whose directory lies beyond its end")
    found, places = {}, {}
    for tag, value, place in _tiff_numbers(data):
        if tag not in found:
            found[tag], places[tag] = value, place
    if 256 not in found or 257 not in found:
        raise BadImage("is a damaged TIFF: its directory does not say its size")
    samples = found.get(339, 1)
    if samples in SAMPLE_FORMATS:
        raise BadImage(f"is a TIFF of {SAMPLE_FORMATS[samples]} (SampleFormat {samples}), not of "
                       "unsigned whole numbers")
    width, height = found[256], found[257]
    if 5 <= found.get(274, 1) <= 8:
        width, height = height, width
    # OpenCV turns TIFF files itself, whatever it is told.
    return Header("TIFF", width, height, 1, places[338] if found.get(338) == 2 else None)


def _directory_start(data):
    """Arguments of `struct.unpack_from` for where the first directory of a TIFF stands."""
    order = "<" if data[:2] == b"II" else ">"
    return (order + "Q", data, 8) if 43 in data[2:4] else (order + "I", data, 4)


def _tiff_numbers(data):
    """Yield tag, first value, and the value's place, of a TIFF's first directory.

    Only unsigned whole numbers that stand in the directory itself, or few enough behind it.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    count_format, entry_format = (("Q", "HHQ") if big else ("H", "HHI"))
    inline = 8 if big else 4
    start = struct.unpack_from(*_directory_start(data))[0]
    count = min(struct.unpack_from(order + count_format, data, start)[0], 4096)
    first = start + struct.calcsize(order + count_format)
    head = struct.calcsize(order + entry_format)
    for entry in range(first, first + count * (head + inline), head + inline):
        tag, kind, number = struct.unpack_from(order + entry_format, data, entry)
        if tag in TIFF_TAGS and kind in TIFF_KINDS and number:
            code = TIFF_KINDS[kind]
            place = entry + head
            if struct.calcsize(order + code) * number > inline:
                place = struct.unpack_from(order + ("Q" if big else "I"), data, place)[0]
            yield tag, struct.unpack_from(order + code, data, place)[0], place


def _turned(name, width, height, exif):
    """The header of an image with this EXIF block, which may be empty or damaged."""
    orientation = 1
    if exif.startswith(b"Exif\0"):
        exif = exif[6:]
    if exif[:4] in (b"II*\0", b"MM\0*"):
        with contextlib.suppress(struct.error):
            orientation = next((value for tag, value, _ in _tiff_numbers(exif) if tag == 274), 1)
    if not 1 <= orientation <= 8:
        orientation = 1
    if orientation >= 5:
        width, height = height, width
    return Header(name, width, height, orientation)


def _not_an_image(data):
    """What a file is that starts like no image, as far as one can tell."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is not an image: it holds a web page (HTML)"
    if start.startswith((b"<svg", b"<?xml")):
        return f"is not a bitmap but XML or SVG; formats are {FORMATS}"
    if start.startswith(b"version https://git-lfs"):
        return "is not an image: it is a Git LFS pointer; fetch it with `git lfs pull`"
    if data[4:8] == b"ftyp":
        return f"is a HEIF, AVIF or MP4 file; formats are {FORMATS}"
    if not data.strip(b"\0"):
        return "is not an image: it holds zero bytes only"
    return f"is not an image of a known format ({FORMATS})"
