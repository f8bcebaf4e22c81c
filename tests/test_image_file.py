import base64
import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import expect_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from evaluation.classifier import sample_area
from reading import image_file
from reading.image_file import ImageError, read_header, read_image
from reading.image_header import BadImage
from reading.read_options import FITS, ReadOptions, sample_rng

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "ccp" / "photos"
RED, BLUE = (200, 40, 40), (40, 40, 200)
# 32x16 pixels, left half RED, right half BLUE, written by other programs.
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDAwLCgsLDQ4SEA0OEQ4LCx"
    "AWEBETFBUVFQwPFxgWFBgSFBUU/8AAFAgAEAAgBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgME"
    "BQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAEEQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJCh"
    "YXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6g4SFhoeIiYqSk5SVlpeYmZqi"
    "o6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkASw"
    "AAPwD7Ar4Ur4Ur9U6KKKK/FSiv2rooooor9q6K/FSiiiiivxUor9q6KKKKK//Z")
ANIMATED_GIF = base64.b64decode(
    "R0lGODlhIAAQAIMAAJkAAMwAAMwzAMwAM5kzM8wzMwAAmTMAmTMzmQAAzDMAzAAzzDMzzAAAAAAAAAAAACH/C05FVF"
    "NDQVBFMi4wAwEAAAAh+QQACgAAACwAAAAAIAAQAAAItwALCBxIsGABBggTKlzIoEAAhxAfSoy4QEHFixYzXmxosKNA"
    "hiATQhz5kKTABAhRMjCQEiFLiwMJCJRZgCZNAQkRMNSZcEHEnxMfDsBIVCMDBRw9GgzJcEHDklAFRhWgsqrOqkeT0p"
    "wZc2BOkAp0OgVKVmhRogycIlVqEGdInkjTkpRZEoDUky0RYE0rkqtSmQh5MkR6YGzQsg4ZoFysuLHTvga3EmSqE2nF"
    "p3dNEii5N8HVhQsCAgAh+QQBCgAAACwAAAAAIAAQAAAIJwABCBxIsKDBgwgTKlzIsKHDhxAjSpxIsaLFixgzatzIsa"
    "PHjxADAgA7")
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")


@pytest.fixture
def read(tmp_path):
    """Reads bytes or a path as an image, (height, width, 3)."""
    def read(source, shape=(16, 32), options=None, rng=None):
        if isinstance(source, bytes):
            path = tmp_path / "image.jpg"
            path.write_bytes(source)
            source = path
        out = np.full((3,) + shape, 99, np.uint8)
        read_image(str(source), out, options, rng)
        return out.transpose(1, 2, 0)
    return read


def two_halves(height=16, width=32, left=RED, right=BLUE):
    image = np.empty((height, width, 3), np.uint8)
    image[:, :width // 2], image[:, width // 2:] = left, right
    return image


def encode(image, extension, *options):
    if image.ndim == 3:
        image = image[:, :, [2, 1, 0] + [3] * (image.shape[2] == 4)]
    return cv2.imencode(extension, image, options)[1].tobytes()


def smooth(height, width):
    """Something photo-like: broad waves of colour, a little noise."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:height, :width][..., None] / [9.0, 13.0, 21.0]
    return np.clip(127 + 90 * np.sin(y + 2 * np.cos(x)) + rng.randn(height, width, 3) * 3,
                   0, 255).astype(np.uint8)


def with_exif(jpeg, orientation):
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff + jpeg[2:]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def palette_png():
    pixels = b"".join(b"\0" + b"\0" * 16 + b"\1" * 16 for _ in range(16))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 16, 8, 3, 0, 0, 0))
            + chunk(b"PLTE", bytes(RED + BLUE)) + chunk(b"IDAT", zlib.compress(pixels))
            + chunk(b"IEND", b""))


def bomb(kind, side=30000):
    """A few hundred bytes that claim side x side pixels."""
    if kind == "png":
        return (b"\x89PNG\r\n\x1a\n"
                + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))
    options = (cv2.IMWRITE_WEBP_QUALITY, 90) if kind == "webp" else ()
    small = bytearray(encode(two_halves(), "." + kind, *options))
    if kind == "jpg":
        at = small.index(b"\xff\xc0")
        small[at + 5:at + 9] = struct.pack(">HH", side, side)
    elif kind == "bmp":
        small[18:26] = struct.pack("<ii", side, -side)
    elif kind == "webp":
        at = small.index(b"\x9d\x01\x2a")
        small[at + 3:at + 7] = struct.pack("<HH", 16383, 16383)
    elif kind == "tiff":
        for tag in (256, 257):
            at = small.rindex(struct.pack("<H", tag) + b"\3\0\1\0\0\0")
            small[at:at + 12] = struct.pack("<HHII", tag, 4, 1, side)
    return bytes(small)


@pytest.mark.parametrize("content", [
    encode(two_halves(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95),
    encode(two_halves(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    encode(two_halves(), ".jpg") + b"a phone's trailing data",
    encode(two_halves(), ".png"), encode(two_halves(), ".bmp"),
    encode(two_halves(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    encode(two_halves(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 95), encode(two_halves(), ".tiff"),
    encode(two_halves().astype(np.uint16) * 257, ".png"),
    encode(two_halves().astype(np.uint16) * 257, ".tiff"),
    encode(np.dstack([two_halves(), np.full((16, 32), 255, np.uint8)]), ".png"),
    palette_png(), CMYK_JPEG, ANIMATED_GIF,
], ids=["jpeg", "progressive", "trailing", "png", "bmp", "webp-lossless", "webp", "tiff",
        "16-bit png", "16-bit tiff", "alpha", "palette", "cmyk", "gif"])
def test_every_kind_of_image_becomes_rgb(read, content):
    image = read(content).astype(int)
    # Means, because the GIF mixes its few colours.
    assert np.abs(image[:, 2:12].mean(axis=(0, 1)) - RED).max() <= 6
    assert np.abs(image[:, 20:30].mean(axis=(0, 1)) - BLUE).max() <= 6


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_grey_images_become_rgb(read, extension):
    grey = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 16, axis=0)
    image = read(encode(grey, extension)).astype(int)
    assert np.abs(image - grey[:, :, None]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [1, 8])
def test_exif_rotation_is_applied(read, orientation, scale):
    picture = np.full((64 * scale, 32 * scale, 3), 255, np.uint8)
    picture[:16 * scale, :16 * scale] = RED  # red at the top left, blue at the bottom left
    picture[-16 * scale:, :16 * scale] = BLUE
    # How a camera would store the picture under each orientation.
    stored = {1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1],
              5: picture.transpose(1, 0, 2), 6: np.rot90(picture),
              7: picture[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(picture, -1)}[orientation]
    jpeg = encode(np.ascontiguousarray(stored), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    image = read(with_exif(jpeg, orientation), (64, 32)).astype(int)
    assert np.abs(image[4:12, 4:12] - RED).mean() < 10
    assert np.abs(image[-12:-4, 4:12] - BLUE).mean() < 10
    assert image[24:40].min() > 240


def rotated(kind, orientation):
    """A file of 48x32 pixels as stored, and the picture in it the right way up."""
    y, x = np.mgrid[:32, :48]
    stored = Image.fromarray(np.dstack([5 * x, 7 * y, 60 + 0 * x]).astype(np.uint8))
    if kind == "16-bit tiff":
        stored = Image.fromarray((1300 * x).astype(np.uint16))
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"tiffinfo": {274: orientation}} if "tiff" in kind else {"exif": exif.tobytes()}
    file = io.BytesIO()
    stored.save(file, "JPEG" if "jpeg" in kind else "TIFF" if "tiff" in kind else kind.split()[0],
                **options)
    content = file.getvalue()
    if kind == "jpeg after xmp":
        xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(xmp)) + xmp + content[2:]
    elif kind == "png after the pixels":
        start = content.index(b"eXIf") - 4
        end = start + 12 + struct.unpack_from(">I", content, start)[0]
        content = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    image = Image.open(io.BytesIO(content))
    image.load()  # a PNG's EXIF block may stand behind its pixels
    image = ImageOps.exif_transpose(image)
    if kind == "16-bit tiff":
        return content, np.dstack([np.asarray(image) >> 8] * 3)
    return content, np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "jpeg after xmp", "png", "png after the pixels", "webp",
                                  "tiff", "16-bit tiff"])
def test_every_format_is_turned_as_pillow_turns_it(read, tmp_path, kind, orientation):
    content, picture = rotated(kind, orientation)
    (tmp_path / "image.jpg").write_bytes(content)
    info = read_image(str(tmp_path / "image.jpg"), np.empty((3, 8, 8), np.uint8))
    assert (info.height, info.width) == picture.shape[:2]
    assert info.format.lower() in kind
    difference = np.abs(read(content, picture.shape[:2]).astype(int) - picture)
    assert difference.mean() < 2  # the decoders of lossy formats differ a little


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_changes_nothing(read, orientation):
    jpeg = encode(two_halves(), ".jpg")
    assert (read(with_exif(jpeg, orientation)) == read(jpeg)).all()


@pytest.mark.parametrize("length", range(0, 26, 3))
def test_a_damaged_exif_block_changes_nothing(read, length):
    jpeg = encode(two_halves(), ".jpg")
    block = with_exif(jpeg, 6)[6:6 + length]
    start = b"\xff\xe1" + struct.pack(">H", 2 + len(block))
    assert (read(jpeg[:2] + start + block + jpeg[2:]) == read(jpeg)).all()


def on(background, pixels, alpha):
    """Pixels in front of a colour, by the definition of alpha; (height, width, 3), float."""
    share = np.asarray(alpha, float)[..., None] / 255
    return np.asarray(pixels, float) * share + np.array(background, float) * (1 - share)


ALPHA = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[:, None], 32, axis=1)


def saved(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90)])
@pytest.mark.parametrize(("name", "options"), [
    ("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"})])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_images_are_put_on_the_background(read, mode, name, options, background):
    pixels = two_halves() if mode == "RGBA" else np.full((16, 32, 3), 70, np.uint8)
    picture = Image.fromarray(np.dstack([pixels, ALPHA])).convert(mode)
    image = read(saved(picture, name, **options), options=ReadOptions(background=background))
    assert np.abs(image - on(background, pixels, ALPHA)).max() <= 1


@pytest.mark.parametrize("name", ["PNG", "GIF"])
def test_one_transparent_colour_shows_the_background(read, name):
    picture = Image.fromarray(two_halves()).quantize(2)
    image = read(saved(picture, name, transparency=picture.getpixel((0, 0))))
    assert (image[:, :16] == 255).all() and (image[:, 16:] == BLUE).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_transparent_colour_of_a_png_without_alpha_shows_the_background(read, mode):
    grey = np.repeat([[0x1234, 0xC8C8]], 16, axis=0).repeat(16, axis=1)
    pixels = {"L": (grey >> 8).astype(np.uint8), "RGB": two_halves(),
              "I;16": grey.astype(np.uint16)}[mode]
    key = {"L": 0x12, "RGB": RED, "I;16": 0x1234}[mode]
    image = read(saved(Image.fromarray(pixels), "PNG", transparency=key))
    assert (image[:, :16] == 255).all()
    assert (image[:, 16:] == (BLUE if mode == "RGB" else 0xC8)).all()


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_the_alpha_of_a_tiff_is_what_its_extra_samples_say(read, kind, compression):
    content = bytearray(saved(Image.fromarray(np.dstack([two_halves() // 2, ALPHA | 128])), "TIFF",
                              compression=compression))
    content[content.index(struct.pack("<HHI", 338, 3, 1)) + 8] = kind
    expected = {0: two_halves() // 2,  # unspecified: not alpha
                1: two_halves() // 2 + (255. - (ALPHA | 128))[..., None],  # multiplied already
                2: on((255, 255, 255), two_halves() // 2, ALPHA | 128)}[kind]
    assert np.abs(read(bytes(content)) - expected).max() <= 1


@pytest.mark.parametrize(("dtype", "number"), [
    (np.float32, 3), (np.float64, 3), (np.int16, 2), (np.int32, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_of_other_numbers_than_pixels_is_refused(read, dtype, number, channels):
    pixels = np.squeeze(two_halves()[:, :, :channels]).astype(dtype)
    with pytest.raises(ImageError, match=rf"a TIFF of .* \(SampleFormat {number}\)"):
        read(encode(pixels, ".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 1))


def test_a_tiff_whose_directory_names_more_than_the_file_holds_is_refused():
    entries = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8 << 16), (259, 3, 1, 1 << 16),
               (262, 3, 1, 1 << 16), (273, 4, 1, 8), (278, 4, 1, 16), (279, 4, 1, 256),
               *((300 + n, 7, 300, 0) for n in range(20))]
    directory = struct.pack(">H", len(entries)) + b"".join(
        struct.pack(">HHII", *entry) for entry in entries)
    with pytest.raises(BadImage, match="names more data than the file holds"):
        read_header(b"MM\0*" + struct.pack(">I", 8) + directory + bytes(300))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_images_of_any_aspect_fit(read, size, fit, extension):
    content = encode(np.full(size + (3,), 200, np.uint8), extension)
    image = read(content, (24, 40), ReadOptions(fit=fit, resize=30)).astype(int)
    picture = np.abs(image - 200) <= 3
    assert picture.any() and (picture | (fit == "pad") & (image == image_file.NEUTRAL)).all()
    lucky = ReadOptions(random_crop=True, min_random_area=0.01, max_random_aspect_ratio=0.9)
    if fit == "crop":
        for row in range(5):
            assert np.abs(read(content, (24, 40), lucky, sample_rng(0, 0, row)) - 200.).max() <= 3


def test_a_crop_takes_the_middle_of_the_resized_image(read):
    content = encode(smooth(120, 200), ".png")
    full = cv2.resize(smooth(120, 200), (100, 60), interpolation=cv2.INTER_AREA)
    image = read(content, (40, 40), ReadOptions(resize=60))
    assert np.abs(image.astype(int) - full[10:50, 30:70]).mean() < 2


def test_without_resize_the_crop_just_covers_the_image(read):
    content = encode(smooth(120, 200), ".png")
    assert (read(content, (60, 60)) == read(content, (60, 60), ReadOptions(resize=60))).all()
    wide = cv2.resize(smooth(120, 200)[10:110], (80, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(read(content, (40, 80)).astype(int) - wide).mean() < 2


def test_padding_keeps_the_whole_image_on_grey(read):
    image = read(encode(two_halves(50, 100), ".png"), (40, 40), ReadOptions(fit="pad"))
    assert (image[:10] == image_file.NEUTRAL).all()
    assert (image[30:] == image_file.NEUTRAL).all()
    assert (image[10:30, :19] == RED).all() and (image[10:30, 21:] == BLUE).all()


def test_squashing_keeps_the_whole_image(read):
    image = read(encode(two_halves(50, 100), ".png"), (40, 40), ReadOptions(fit="squash"))
    assert (image[:, :19] == RED).all() and (image[:, 21:] == BLUE).all()


def test_half_of_the_images_are_mirrored(read):
    content = encode(two_halves(), ".png")
    mirrored = [(read(content, options=ReadOptions(random_mirror=True),
                      rng=sample_rng(0, 0, row))[0, 0] == BLUE).all() for row in range(200)]
    assert 70 < sum(mirrored) < 130


def test_random_crops_reach_both_ends(read):
    ramp = np.repeat(np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 20, 0), 3, 2)
    content = encode(ramp, ".png")
    options = ReadOptions(random_crop=True)
    lefts = [int(read(content, (20, 20), options, sample_rng(0, 0, row))[0, 0, 0])
             for row in range(200)]
    assert min(lefts) < 15 and max(lefts) > 165 and 75 < np.mean(lefts) < 105


def test_random_areas_lie_between_their_limits(read):
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[:, :, 0], ramp[:, :, 1] = np.arange(100)[None], np.arange(100)[:, None]
    content = encode(ramp, ".png")
    options = ReadOptions(min_random_area=0.25, max_random_area=0.5, max_random_aspect_ratio=0.2)
    areas, aspects = [], []
    for row in range(100):
        image = read(content, (50, 50), options, sample_rng(1, 0, row)).astype(int)
        width = (image[25, -1, 0] - image[25, 0, 0] + 1) / 100
        height = (image[-1, 25, 1] - image[0, 25, 1] + 1) / 100
        areas.append(width * height)
        aspects.append(width / height)
    assert 0.22 < min(areas) < 0.3 and 0.45 < max(areas) < 0.53
    assert 0.75 < min(aspects) < 0.9 and 1.1 < max(aspects) < 1.25


def test_brightness_contrast_and_saturation_follow_their_definitions(read):
    picture = smooth(60, 60) // 2 + 60
    content = encode(picture, ".png")

    def jittered(**amounts):
        rng = sample_rng(0, 0, 3)
        draws = [rng.random() for _ in range(8)]
        image = read(content, (60, 60), ReadOptions(**amounts), sample_rng(0, 0, 3)).astype(float)
        return image, [1 + 0.4 * (2 * draw - 1) for draw in draws[5:]]

    grey = picture @ [0.299, 0.587, 0.114]
    image, (factor, _, _) = jittered(brightness=0.4)
    assert np.abs(image - np.clip(picture * factor, 0, 255)).max() <= 1
    image, (_, factor, _) = jittered(contrast=0.4)
    assert np.abs(image - np.clip(picture * factor + (1 - factor) * grey.mean(), 0, 255)).max() <= 1
    image, (_, _, factor) = jittered(saturation=0.4)
    expected = np.clip(picture * factor + (1 - factor) * grey[:, :, None], 0, 255)
    assert np.abs(image - expected).max() <= 1


def test_a_sample_depends_on_seed_epoch_and_row_alone(read):
    content = encode(smooth(100, 100), ".png")
    options = ReadOptions(random_crop=True, random_mirror=True, min_random_area=0.3, brightness=0.3)
    images = {key: read(content, (32, 32), options, sample_rng(*key)).tobytes()
              for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(set(images.values())) == 4
    assert read(content, (32, 32), options, sample_rng(0, 1, 0)).tobytes() == images[0, 1, 0]


def test_the_generator_gives_the_same_numbers_for_ever():
    assert sample_rng(1, 2, 3).random() == pytest.approx(0.48180005566373707, abs=1e-15)


def test_a_decode_is_reduced_only_while_it_covers_the_result(read, monkeypatch):
    reductions = []
    decode = image_file.decode
    monkeypatch.setattr(image_file, "decode",
                        lambda *args: reductions.append(args[2]) or decode(*args))
    content = encode(smooth(831, 550), ".jpg")
    for size, full in ((280, False), (224, False), (100, False), (40, False), (40, True)):
        read(content, (size, size), ReadOptions(full_decode=full))
    assert reductions == [1, 2, 4, 8, 1]


def fitted(full, size, fit):
    """What `read_image` makes of a picture, by area resizing of all of it; without padding."""
    rows, columns = full.shape[:2]
    if fit == "crop":
        side = min(rows, columns)
        top, left = (rows - side) // 2, (columns - side) // 2
        full = full[top:top + side, left:left + side]
    scale = size / max(rows, columns) if fit == "pad" else None
    shape = (round(columns * scale), round(rows * scale)) if scale else (size, size)
    return cv2.resize(full, shape, interpolation=cv2.INTER_AREA)


# The photos have 550x831 pixels: 37 to 46 and 58 to 66 lie about where the 1/8 begins, 90 to 110
# and 140 to 165 where the 1/4 does, 270 to 280 and 410 to 420 the 1/2; others in between.
@needs_photos
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [20, 28, 37, 39, 40, 41, 42, 46, 58, 61, 62, 66, 80, 90, 99, 100,
                                  101, 110, 128, 140, 150, 152, 165, 224, 270, 274, 276, 280, 410,
                                  415, 416, 420])
def test_reduced_decoding_looks_like_full_decoding(read, size, fit):
    differences = []
    for path in sorted(PHOTOS.glob("*.jpg"))[::60]:
        reference = fitted(cv2.imread(str(path)), size, fit)[:, :, ::-1]
        rows, columns = reference.shape[:2]
        top, left = (size - rows) // 2, (size - columns) // 2
        image = read(path, (size, size), ReadOptions(fit=fit))[top:top + rows, left:left + columns]
        differences.append(np.abs(image.astype(int) - reference).mean())
    assert np.mean(differences) <= 3


@needs_photos
@pytest.mark.parametrize("size", [224, 128, 100, 64, 40])
def test_random_crops_of_reduced_images_look_like_those_of_full_ones(read, size):
    differences = []
    for row, path in enumerate(sorted(PHOTOS.glob("*.jpg"))[::20]):
        random = {"random_crop": True, "min_random_area": 0.4, "max_random_aspect_ratio": 0.2}
        reduced, full = (
            read(path, (size, size), ReadOptions(**random, full_decode=full), sample_rng(0, 0, row))
            for full in (False, True))
        differences.append(np.abs(reduced.astype(int) - full).mean())
    assert np.mean(differences) <= 3


@pytest.mark.parametrize(("content", "match"), [
    (b"", "is empty"),
    (b"<!DOCTYPE html><html>404</html>", "begins with \"<!DOCTYPE html><html>404"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\0\0\0\x20ftypheic", r"begins with .* ftypheic\", which is no image of a known format"),
    (b"\0" * 5000, r"\\x00\\x00"), (b"II+\0" + bytes(90), "no image of a known format"),
    (b"\xff\xd8", "cut short"), (b"\xff\xd8\xff\xe0\0\x10JFIF", "cut short"),
    (b"\xff\xd8hello there", "damaged JPEG"), (b"\xff\xd8\xff\xd9\0\0", "damaged JPEG"),
    (b"\x89PNG\r\n\x1a\n", "cut short"), (b"GIF89a", "cut short"), (b"BM", "cut short"),
    (b"RIFF\xff\0\0\0WEBPVP8 ", "cut short"), (b"II*\0\xff\0\0\0", "cut short"),
    (b"GIF89a\0\0\0\0", "damaged or cut short"),
    (b"BM" + b"\0" * 12 + b"\x28" + b"\0" * 11, "damaged or cut short")])
def test_what_is_no_image_says_why(read, content, match):
    with pytest.raises(ImageError, match=match) as info:
        read(content)
    assert str(info.value) == f"{info.value.file}: {info.value.what}"


@pytest.mark.smoke
@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tiff", "gif"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_a_file_cut_off_in_the_middle_is_refused(read, extension, part):
    whole = ANIMATED_GIF[:260] if extension == "gif" else encode(smooth(64, 64), extension)
    with pytest.raises(ImageError):
        read(whole[:int(part * len(whole))])


@pytest.mark.parametrize("stray", [b"\0", b"\x01\x02\x03", b"\0\xff\0\xff\xff", b"\r\n" * 40])
@pytest.mark.parametrize("marker", [b"\xff\xe0", b"\xff\xdb", b"\xff\xc0", b"\xff\xc4"])
def test_stray_bytes_between_a_jpegs_segments_are_passed_over(read, stray, marker):
    whole = with_exif(encode(smooth(64, 96), ".jpg"), 3)
    at = whole.index(marker)
    content = whole[:at] + stray + whole[at:]
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    found = read(content, shape=(64, 96))
    assert np.abs(found.astype(int) - expected).mean() < 2
    np.testing.assert_array_equal(found, read(whole, shape=(64, 96)))
    with pytest.raises(ImageError):
        read(content[:len(content) // 2])


def test_a_jpeg_whose_end_was_never_downloaded_is_refused(read):
    whole = encode(smooth(300, 300), ".jpg")
    with pytest.raises(ImageError, match="cut short"):
        read(whole[:len(whole) // 2] + b"\0" * (len(whole) // 2))


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp", "tiff"])
def test_a_decompression_bomb_is_refused_by_its_header(read, kind):
    # Pillow has a limit of its own for WebP.
    with pytest.raises(ImageError, match=r"\d+x\d+ pixels, above the limit|pixels\) exceeds limit"):
        read(bomb(kind))


def test_the_limit_can_be_set(read):
    content = encode(two_halves(), ".png")
    read(content, options=ReadOptions(max_pixels=512))
    with pytest.raises(ImageError, match="32x16 pixels, above the limit of 511"):
        read(content, options=ReadOptions(max_pixels=511))
    with pytest.raises(ImageError, match="bytes are too many"):
        read(content + b"\0" * (2 << 20), options=ReadOptions(max_pixels=512))


def test_a_missing_image_a_folder_and_a_pipe_are_refused_at_once(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, match in (("none.jpg", "no such file"), ("", "is a directory"),
                        ("pipe.jpg", "not a regular file")):
        with pytest.raises(ImageError, match=match):
            read(tmp_path / name)
    with pytest.raises(ImageError, match="not a regular file"):
        read("/dev/zero")


def test_an_unreadable_image_is_refused(read, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    content = encode(two_halves(), ".png")
    path = tmp_path / "image.png"
    path.write_bytes(content)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageError, match="permission denied"):
        read(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(read, monkeypatch):
    content = encode(smooth(300, 300), ".jpg")
    status = os.fstat

    def shrink(handle):
        before = status(handle)
        os.truncate(handle, len(content) // 2)
        return before

    with_flags = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: with_flags(path, os.O_RDWR))
    monkeypatch.setattr(os, "fstat", shrink)
    with pytest.raises(ImageError, match="cut short"):
        read(content)


@pytest.mark.parametrize("wrong", [
    {"resize": -1}, {"min_random_area": 0}, {"min_random_area": 0.6, "max_random_area": 0.5},
    {"max_random_area": 1.5}, {"max_random_aspect_ratio": 1}, {"brightness": -0.1},
    {"contrast": 2}, {"saturation": float("nan")}, {"fit": "stretch"}, {"max_pixels": 0},
    {"fit": "squash", "min_random_area": 0.5}, {"background": (0, 0)},
    {"background": (0, 0, 256)}])
def test_settings_out_of_range_are_refused(wrong):
    with expect_error(flag=next(iter(wrong))):
        ReadOptions(**wrong)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_images_are_read_or_refused_never_worse(read, data):
    whole = bytearray(data.draw(st.sampled_from(
        [encode(smooth(20, 30), extension) for extension in (".jpg", ".png", ".bmp", ".webp",
                                                             ".tiff")] + [ANIMATED_GIF])))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 400)))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        read(bytes(whole), options=ReadOptions(max_pixels=1_000_000))


@given(st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF0000WEBP",
                        b"II*\0", b"MM\0*", b"II+\0"]), st.binary(max_size=100))
def test_any_bytes_have_a_header_or_a_reason(start, rest):
    try:
        header = read_header(start + rest)
    except BadImage:
        return
    assert header.width > 0 and header.height > 0


@pytest.mark.parametrize("full", [(300, 200), (160, 410), (97, 97)])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
@pytest.mark.parametrize("options", [
    {}, {"resize": 96}, {"fit": "pad"}, {"fit": "squash"}], ids=str)
def test_the_area_of_a_sample_is_where_its_pixels_come_from(read, full, shape, options):
    width, height = full
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    places = np.uint8(np.rint(np.stack([0 * x, 240 * y, 240 * x], axis=2)))  # blue, green, red
    given = ReadOptions(**options)
    sample = read(cv2.imencode(".png", places)[1].tobytes(), shape, given)
    left, top, across, down = sample_area(full, shape[::-1], given)
    rows, columns = shape
    expected_x = left + across * (np.arange(columns) + 0.5) / columns
    expected_y = top + down * (np.arange(rows) + 0.5) / rows
    inside = sample[..., 2] < 100  # padding is grey
    assert inside.mean() > 0.2
    for channel, expected in ((0, expected_x[None, :]), (1, expected_y[:, None])):
        off = np.abs(sample[..., channel] / 240 - expected)[inside]
        assert off.max() < 0.6 / min(full) + 1 / 240
    inner_x, inner_y = inside.any(axis=0), inside.any(axis=1)
    assert (inner_x == ((expected_x > 0) & (expected_x < 1))).all()
    assert (inner_y == ((expected_y > 0) & (expected_y < 1))).all()
