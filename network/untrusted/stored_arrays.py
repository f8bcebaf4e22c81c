"""Files of arrays that a stranger may have written: MXNet's .params, and .npz of numpy.

MXNet believes each length that it reads in a .params file. The layout, little-endian: 8 bytes of
magic number, 8 reserved, the number of arrays (8), the arrays, the number of names (8), and each
name as its length (8) and UTF-8 text. An array is its magic number (4), the kind of storage (4;
from MXNet 1.0 on), the number of dimensions (4), the dimensions (8 bytes each), device type and
number (4, 4), type of values (4), and the values. Before MXNet 0.11 the magic number was missing
and a dimension had 4 bytes.
"""
from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import zipfile

import numpy as np

from common.cli import InputError
from common.files import open_regular_file

MAGIC = 0x112
WITHOUT_STORAGE, WITH_STORAGE, NUMPY_SHAPES = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 0
MOST_DIMENSIONS = 8
MOST_NAME_BYTES = 1000
# By MXNet's numbers of types: float32, float64, float16, uint8, int32, int8, int64, bool.
VALUE_BYTES = (4, 8, 2, 1, 4, 1, 8, 1)
DEVICE_TYPES = (1, 2, 3, 5)  # CPU, GPU, and two kinds of shared CPU memory
# What reading a broken .npz file raises.
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError,
           OverflowError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile)


def check_params(path: str) -> None:
    """Check the structure of a file of dense, named arrays.

    An InputError says where the file is another one, is cut short or too long, or holds an array
    that is sparse, has no values, or has more dimensions than those of image classifiers.
    """
    try:
        with open_regular_file(path) as file:
            _check(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except InputError as error:
        raise InputError(f"not an MXNet parameter file, or cut short: {error}", file=path) from None


def _check(file, size):
    def read(layout):
        data = file.read(struct.calcsize(layout))
        if len(data) < struct.calcsize(layout):
            raise InputError("it ends too early")
        return struct.unpack(layout, data)

    def skip(count):
        if count > size - file.tell():
            raise InputError("it ends too early")
        file.seek(count, os.SEEK_CUR)

    magic, _, count = read("<QQQ")
    if magic != MAGIC:
        raise InputError("wrong magic number")
    for number in range(count):  # an array has 20 bytes at least, so that the file's end bounds it
        name = f"array {number}"
        dimensions, = read("<I")
        layout = "I"
        if dimensions in (WITHOUT_STORAGE, WITH_STORAGE, NUMPY_SHAPES):
            if dimensions != WITHOUT_STORAGE and read("<i") != (DENSE,):
                raise InputError(f"{name} is sparse")
            dimensions, = read("<I")
            layout = "q"
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise InputError(f"{name} has {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are "
                             "allowed")
        shape = read(f"<{dimensions}{layout}")
        device, index, kind = read("<iii")
        if min(shape) < 1 or kind not in range(len(VALUE_BYTES)) or (
                device not in DEVICE_TYPES or not 0 <= index < 1024):
            raise InputError(f"{name}: shape {shape}, type {kind}, device {device}, {index}")
        skip(VALUE_BYTES[kind] * math.prod(shape))
    names = set()
    if read("<Q") != (count,):
        raise InputError(f"it does not name each of its {count} arrays")
    for _ in range(count):
        length, = read("<Q")
        if length > MOST_NAME_BYTES:
            raise InputError(f"a name has {length} bytes; {MOST_NAME_BYTES} are allowed")
        text, = read(f"<{length}s")
        try:
            names.add(text.decode())
        except UnicodeDecodeError:
            raise InputError(f"the name {text!r:.80} is not UTF-8 text") from None
    if len(names) < count:
        raise InputError("duplicate array name")
    if file.tell() != size:
        raise InputError(f"{size - file.tell()} bytes follow its end")


def read_arrays(path):
    """The arrays of an untrusted .npz file; raises one of DAMAGED where it is none.

    They take no more memory than the file is long, because nothing in it may be compressed.
    """
    arrays = {}
    with open_regular_file(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if (any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
                or sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size):
            raise ValueError("compressed entries")
        for entry in entries:
            content = io.BytesIO(archive.read(entry))  # compares the checksum
            if np.lib.format.read_magic(content) != (1, 0):
                raise ValueError("not a plain array")
            shape, transposed, dtype = np.lib.format.read_array_header_1_0(content)
            if dtype.kind not in "fiu":
                raise ValueError("not an array of plain numbers")
            arrays[entry.filename[:-len(".npy")]] = np.ndarray(
                shape, dtype, content.getbuffer(), content.tell(), order="F" if transposed else "C")
    return arrays
