"""What an image file says of itself in its first bytes: its format and its size.

The size is known before anything is decoded, so that a file of a few kilobytes that claims
30000x30000 pixels costs nothing. Formats: JPEG, PNG, GIF, BMP, WebP, TIFF.
"""
import struct
from collections import namedtuple

FORMATS = "JPEG, PNG, GIF, BMP, WebP and TIFF"


class BadImage(ValueError):
    """Why a file is no image that one can use, in words; the caller knows the file's name."""


Header = namedtuple("Header", "format width height may_rotate")
Header.__doc__ = """Format ("JPEG", ...), size in pixels as stored, and whether EXIF may turn it."""


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
            header = Header("GIF", *struct.unpack_from("<HH", data, 6), False)
        elif data.startswith(b"BM"):
            header = _bmp(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            header = _tiff(data)
        else:
            raise BadImage(_not_an_image(data))
    except (struct.error, IndexError):
        raise BadImage("is cut short: it ends within its header") from None
    if header.width < 1 or header.height < 1:
        raise BadImage(f"its header says {header.width}x{header.height} pixels")
    return header


def _jpeg(data):
    position, may_rotate = 2, False
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
            return Header("JPEG", width, height, may_rotate)
        else:
            may_rotate |= marker == 0xE1 and data[position + 4:position + 8] == b"Exif"
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]


def _png(data):
    width, height = struct.unpack_from(">II", data, 16)
    if b"IEND" not in data[-64:] and b"IEND" not in data:
        raise BadImage("is cut short: a PNG without its end")
    return Header("PNG", width, height, True)


def _bmp(data):
    if struct.unpack_from("<I", data, 14)[0] == 12:
        return Header("BMP", *struct.unpack_from("<HH", data, 18), False)
    width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", width, abs(height), False)  # a negative height: stored from the top


def _webp(data):
    if len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise BadImage("is cut short: a WebP file that holds less than its header says")
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at:at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return Header("WebP", width, height, True)


def _tiff(data):
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    if big:
        count_format, entry_format, entry_size = order + "Q", order + "HHQ", 20
        start = struct.unpack_from(order + "Q", data, 8)[0]
    else:
        count_format, entry_format, entry_size = order + "H", order + "HHI", 12
        start = struct.unpack_from(order + "I", data, 4)[0]
    if start >= len(data):
        raise BadImage("is cut short: a TIFF file whose directory lies beyond its end")
    count = min(struct.unpack_from(count_format, data, start)[0], 4096)
    first = start + struct.calcsize(count_format)
    found = {}
    for entry in range(first, first + count * entry_size, entry_size):
        tag, kind, _ = struct.unpack_from(entry_format, data, entry)
        if tag in (256, 257) and kind in (3, 4, 16):
            number = order + {3: "H", 4: "I", 16: "Q"}[kind]
            value = entry + struct.calcsize(entry_format)
            found[tag] = struct.unpack_from(number, data, value)[0]
    if len(found) < 2:
        raise BadImage("is a damaged TIFF: its directory does not say its size")
    return Header("TIFF", found[256], found[257], True)


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
