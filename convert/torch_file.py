"""Read the tensors of a PyTorch or safetensors file with numpy alone: no torch, no code run.

    state = read_tensors("resnet18.pth")
    state["conv1.weight"].shape            # (64, 3, 7, 7)

Three formats, told apart by their first bytes:

- PyTorch's old one: pickles (magic number, protocol, system, tensors, storage keys), then for
  each key an int64 count and the raw values.
- PyTorch's zip: `data.pkl` and one raw file per storage, `data/KEY`.
- safetensors, by the package of that name.

The pickles are read by torch_pickle.py, which runs no code of theirs.
"""
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np

from common.cli import InputError
from common.files import require_regular_file
from convert.torch_pickle import VALUE_TYPES, TensorView, Unpickler, decode

LARGEST_FILE = 4 << 30  # bytes; a ResNet-152 has 0.24 of 2**30
OLD_MAGIC = 0x1950a86a20f9469cfc6c
OLD_PROTOCOL = 1001
SAFETENSORS_TYPES = {name: numpys for numpys, _, name in VALUE_TYPES}


def read_tensors(path):
    """All tensors of a .pth (old or zip format) or .safetensors file, as numpy arrays by name.

    A training checkpoint that keeps its state dict under "state_dict" or "model" is fine too.
    The arrays are C-contiguous, in the file's order, those of safetensors sorted by name;
    bfloat16 becomes float32.

    Raises
    ------
    InputError
        When the file cannot be read, is none of these formats, is cut short, contradicts
        itself, or holds anything but tensors and plain values.
    """
    content = read_file(path)
    try:
        return parse_tensors(content)
    except InputError as error:
        raise error.with_file(path) from None


def read_file(path):
    """The content of a regular file that is not too large for a network."""
    require_regular_file(path)
    try:
        if os.stat(path).st_size > LARGEST_FILE:
            raise InputError(f"larger than {LARGEST_FILE >> 30} GB: no network here is", file=path)
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


def parse_tensors(content):
    """The tensors in the bytes of such a file, see `read_tensors`."""
    if content[:4] == b"PK\x03\x04":
        found = _read_zip(content)
    elif is_safetensors(content):
        found = _read_safetensors(content)
    elif content[:1] == b"\x80":
        found = _read_old(content)
    else:
        raise InputError("neither a PyTorch nor a safetensors file")
    return _state_dict(found)


def is_safetensors(content):
    return content[8:9] == b"{"


def _state_dict(found):
    """The tensors among what a file held, under their names."""
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    tensors = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, TensorView):
            value = value.array()
        if isinstance(name, str) and isinstance(value, np.ndarray):
            tensors[name] = value
    if not tensors:
        raise InputError("holds no named tensors; a state dict is wanted (model.state_dict())")
    return tensors


def _read_old(content):
    file = io.BytesIO(content)
    if Unpickler(file).load() != OLD_MAGIC or Unpickler(file).load() != OLD_PROTOCOL:
        raise InputError("a pickle, but not one that torch.save wrote")
    system, tensors = Unpickler(file).load(), Unpickler(file)
    found, keys = tensors.load(), Unpickler(file).load()
    if not isinstance(system, dict) or not isinstance(keys, list):
        raise InputError("cut short, or not what torch.save writes")
    _check_byte_order(system.get("little_endian", True))
    for key in keys:
        storage = tensors.storages.get(str(key)) if isinstance(key, (str, int)) else None
        if storage is None or int.from_bytes(file.read(8), "little") != storage.count:
            raise InputError("cut short, or changed: values that no tensor announced")
        storage.fill(file.read(storage.num_bytes))
    return found


def _check_byte_order(little_endian):
    if not little_endian:
        raise InputError("written on a big-endian machine, which is not read")


def _read_zip(content):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise InputError("a zip file, but not one that torch.save wrote: no data.pkl")
            folder = pickles[0][:-len("data.pkl")]
            if folder + "byteorder" in names:
                _check_byte_order(_stored(archive, folder + "byteorder") == b"little")
            tensors = Unpickler(io.BytesIO(_stored(archive, pickles[0])))
            found = tensors.load()
            for key, storage in tensors.storages.items():
                storage.fill(_stored(archive, f"{folder}data/{key}"))
            return found
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"cut short: {error.args[0]}") from None
    except (zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, ValueError,
            EOFError, OSError):
        raise InputError("a zip file that is cut short or damaged") from None


def _stored(archive, name):
    """The bytes of an entry, which torch.save never compresses (and a zip bomb does)."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{name} is compressed, which torch.save does not do")
    return archive.read(entry)


def _read_safetensors(content):
    try:
        import safetensors
    except ImportError:
        raise InputError("a .safetensors file needs the package safetensors: "
                         "pip install -r requirements-export.txt") from None
    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise InputError(f"not a whole safetensors file: {error!s:.200}") from None
    tensors = {}
    for name, entry in sorted(entries, key=lambda item: item[0]):
        if entry["dtype"] not in SAFETENSORS_TYPES:
            raise InputError(f"{name!s:.200}: of type {entry['dtype']}, not "
                             + ", ".join(SAFETENSORS_TYPES))
        values = decode(entry["data"], SAFETENSORS_TYPES[entry["dtype"]])
        try:
            tensors[name] = values.reshape(entry["shape"])
        except (ValueError, OverflowError):
            raise InputError(f"{name!s:.200}: a shape of {len(entry['shape'])} dimensions that "
                             "numpy cannot hold") from None
    return tensors
