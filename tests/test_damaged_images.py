"""Mutated image files, each read in a process of its own with 3 GB of memory and 20 s."""
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# Reads each file named on its input in a forked process; prints the process's status (0: read or
# refused in words) and its peak memory in MB. The seconds are of the processor, because the
# machine may be busy.
READER = """
import os, resource, signal, sys
import cv2
import numpy as np
from reading.image_file import ImageError, read_image

cv2.setNumThreads(0)
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)

def read(path):
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    signal.alarm(300)
    try:
        read_image(path, np.empty((3, 32, 32), np.uint8))
    except ImageError as error:
        assert "memory" not in str(error).lower() and len(str(error)) < 500, error
        assert str(error).isprintable(), error

for path in sys.stdin.read().split():
    child = os.fork()
    if child == 0:
        status = 1
        try:
            read(path)
            status = 0
        except BaseException as error:
            print(repr(error)[:500], file=sys.stderr, flush=True)
        os._exit(status)
    _, status, usage = os.wait4(child, 0)
    print(status, usage.ru_maxrss // 1024, path, flush=True)
"""


def read_in_processes(paths):
    """(status, peak MB, path) of each file; what the processes wrote to standard error."""
    done = subprocess.run([sys.executable, "-c", READER], input="\n".join(map(str, paths)),
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(int(status), int(peak), path) for status, peak, path in rows], done.stderr


def saved(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def samples(name):
    """Small files of a format, of several kinds."""
    waves = np.sin(np.mgrid[:48, :64][..., None] / [5.0, 7.0, 9.0]).sum(axis=0)
    colours = Image.fromarray(np.uint8(127 + 60 * waves))
    clear = colours.copy()
    clear.putalpha(Image.fromarray(np.uint8(np.mgrid[:48, :64][0] * 5)))
    few = colours.quantize(16)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "camera"
    kinds = {
        "JPEG": [(colours, {"exif": exif}), (colours, {"progressive": True}),
                 (colours.convert("CMYK"), {})],
        "PNG": [(colours, {"exif": exif}), (clear, {}), (few, {"transparency": 3}),
                (colours.convert("I;16"), {})],
        "GIF": [(few, {"transparency": 3}),
                (few, {"save_all": True, "append_images": [clear, colours], "disposal": 2})],
        "BMP": [(colours, {}), (few, {}), (colours.convert("1"), {}), (clear, {})],
        "TIFF": [(colours, {"tiffinfo": {274: 6}}), (clear, {"compression": "tiff_lzw"}),
                 (few, {}), (colours, {"compression": "jpeg"}),
                 (colours.convert("1"), {"compression": "group4"})],
        "WEBP": [(colours, {"exif": exif}), (clear, {"lossless": True}), (clear, {}),
                 (clear, {"save_all": True, "append_images": [colours]})]}
    return [saved(image, name, **options) for image, options in kinds[name]]


def mutated(content, rng):
    """A copy with a few bytes, lengths or whole stretches changed, mostly near its start."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        near = 64 if rng.rand() < 0.4 else 400 if rng.rand() < 0.7 else len(content)
        at = rng.randint(2, min(near, len(content)))
        kind = rng.randint(6)
        if kind == 0:
            content[at] = rng.randint(256)
        elif kind == 1:
            content[at] ^= 1 << rng.randint(8)
        elif kind == 2:  # a length
            number = rng.choice([0, 1, 255, 65535, 10**8, 2**31 - 1, 2**31, 2**32 - 1])
            order = rng.choice(["<I", ">I", "<H", ">H"])
            packed = struct.pack(order, number & (0xFFFF if "H" in order else 0xFFFFFFFF))
            content[at:at + len(packed)] = packed
        elif kind == 3 and len(content) > 40:
            del content[at:at + rng.randint(1, 20)]
        elif kind == 4:
            stretch = rng.randint(1, 60)
            content[at:at] = content[at - min(at, stretch):at]
        elif rng.rand() < 0.3 and len(content) > 40:
            del content[rng.randint(20, len(content)):]
    return bytes(content)


def check_mutations(tmp_path, name, count):
    rng = np.random.RandomState(len(name) + count)
    originals = samples(name)
    paths = []
    for number in range(count):
        paths.append(tmp_path / f"{number}.{name.lower()}")
        paths[-1].write_bytes(mutated(originals[number % len(originals)], rng))
    for number, content in enumerate(originals):
        paths.append(tmp_path / f"original{number}")
        paths[-1].write_bytes(content)
    results, errors = read_in_processes(paths)
    assert len(results) == len(paths)
    assert [path for status, _, path in results if status] == [], errors[:2000]


FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_few_mutated_images_are_read_or_refused_in_words(tmp_path, name):
    check_mutations(tmp_path, name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_mutated_images_are_read_or_refused_in_words(tmp_path, name):
    check_mutations(tmp_path, name, 300)


def png_chunk(kind, data, length=None):
    return (struct.pack(">I", len(data) if length is None else length) + kind + data
            + struct.pack(">I", zlib.crc32(kind + data)))


def png_with(*chunks, after_pixels=False):
    """A PNG of 16x16 pixels with further chunks."""
    plain = saved(Image.new("RGB", (16, 16)), "PNG")
    at = len(plain) - 12 if after_pixels else 33
    return plain[:at] + b"".join(chunks) + plain[at:]


def tiff_of_overlapping_entries(entries, sub_directory):
    """A TIFF of 16x16 pixels, and a directory in which each entry points to the whole file."""
    pad = bytes(400_000)
    size = 8 + 2 + 12 * (entries + 9) + 4 + 256
    many = [(40000 + n, 7, len(pad), size) for n in range(entries)]
    basic = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
             (273, 4, 1, 8), (278, 4, 1, 16), (279, 4, 1, 256)]
    directory = [*basic, *many]
    if sub_directory:
        start = size + len(pad)
        directory = [*basic, (34665, 4, 1, start)]
        pad += (struct.pack("<H", entries) + b"".join(struct.pack("<HHII", *e) for e in many)
                + bytes(4))
    data = struct.pack("<H", len(directory)) + b"".join(
        struct.pack("<HHII", *entry) for entry in directory)
    return b"II*\0" + struct.pack("<I", 8) + data + bytes(size - 8 - len(data)) + pad


def exif_bomb(entries=4000):
    many = b"".join(struct.pack("<HHII", 40000 + n, 7, 10**6, 0) for n in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + many + bytes(10**6)


def webp_of_size(side):
    plain = bytearray(saved(Image.new("RGBA", (16, 16), (1, 2, 3, 4)), "WEBP"))
    plain[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(plain)


def bmp_with(offset, code, number):
    plain = bytearray(saved(Image.new("P", (16, 16)), "BMP"))
    struct.pack_into(code, plain, offset, number)
    return bytes(plain)


BOMBS = {
    "png chunk of 2 GB": png_with(png_chunk(b"tEXt", b"x" * 5000, 2**31 - 1)),
    "png chunk of 2 GB after the pixels": png_with(png_chunk(b"tEXt", b"x" * 5000, 2**31 - 1),
                                                   after_pixels=True),
    "png pixels of 2 GB": png_with(png_chunk(b"IDAT", b"x" * 5000, 2**31 - 1)),
    "png profile that unpacks to 1 GB": png_with(png_chunk(
        b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 27)) * 8)),
    "png exif": png_with(png_chunk(b"eXIf", exif_bomb())),
    "tiff directory": tiff_of_overlapping_entries(4000, sub_directory=False),
    "tiff sub-directory": tiff_of_overlapping_entries(4000, sub_directory=True),
    "webp canvas": webp_of_size(9_900),
    "bmp palette": bmp_with(46, "<I", 2**31), "bmp offset": bmp_with(10, "<I", 2**32 - 1),
    "bmp header": bmp_with(14, "<I", 2**31),
    "gif screen": b"GIF89a" + struct.pack("<HH", 9000, 9000) + saved(
        Image.new("P", (16, 16)), "GIF")[10:],
}


def test_a_small_file_that_names_gigabytes_takes_none(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(png_with())
    paths = [tmp_path / str(number) for number in range(len(BOMBS))]
    for path, content in zip(paths, BOMBS.values()):
        path.write_bytes(content)
    ((_, base, _), *results), errors = read_in_processes([plain, *paths])
    assert [status for status, *_ in results] == [0] * len(BOMBS), errors
    peaks = {name: peak - base for name, (_, peak, _) in zip(BOMBS, results)}
    # A picture that takes what its header says, 98 megapixels, may take 12 bytes for each.
    assert all(peak < (1200 if name in ("webp canvas", "gif screen") else 100)
               for name, peak in peaks.items()), peaks
