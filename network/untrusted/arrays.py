"""Arrays in an .npz file of a stranger."""
import io
import os
import struct
import tokenize
import zipfile

import numpy as np

from common.files import open_regular_file

# What reading a broken file raises.
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError,
           OverflowError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile)


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
