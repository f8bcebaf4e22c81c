"""Read the tensors of a PyTorch or safetensors file with numpy alone: no torch, no code run.

Three formats, told apart by their first bytes:

- PyTorch's old one: pickles (magic number, protocol, system, tensors, storage keys), then for
  each key an int64 count and the raw values.
- PyTorch's zip: `data.pkl` and one raw file per storage, `data/KEY`.
- safetensors, by the package of that name.

Two allow-lists for the pickles, one of operations and one of names (tensors, dictionaries and
element types), make a malicious file an error and nothing else.
"""
import io
import math
import os
import pickle
import struct
import zipfile

import numpy as np

from common.cli import InputError
from common.files import open_regular_file

LARGEST_FILE = 4 << 30  # bytes; a ResNet-152 has 0.24 of 2**30
LARGEST_SIDE = 2**48
OLD_MAGIC = 0x1950a86a20f9469cfc6c
OLD_PROTOCOL = 1001
STORAGE_TYPES = {name: np.dtype(code) for name, code in {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?"}.items()}
# Operations that torch.save writes, under Python 2 too. Sets, which hash their items, are not
# among them.
PICKLE_OPERATIONS = (
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE",
    "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT",
    "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "BINSTRING",
    "SHORT_BINSTRING", "FRAME", "MEMOIZE", "SHORT_BINUNICODE", "STACK_GLOBAL")
# What pickle raises on bytes that are cut or changed, depending on where.
BROKEN_PICKLE = (pickle.UnpicklingError, struct.error, EOFError, AttributeError, IndexError,
                 KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError,
                 RecursionError)


def read_tensors(path):
    """All tensors of a .pth (old or zip format) or .safetensors file, as numpy arrays by name.

    A training checkpoint that keeps its state dict under "state_dict" or "model" is fine too.
    The arrays are C-contiguous, in the file's order, those of safetensors sorted by name. An
    InputError says that the file cannot be read, is none of these formats, is cut short,
    contradicts itself, has values of a type that numpy lacks (bfloat16), or holds anything but
    tensors and plain values.
    """
    try:
        return parse_tensors(read_file(path))
    except InputError as error:
        raise error.at(file=path) from None


def read_file(path):
    """The content of a regular file that is not too large for a network."""
    try:
        with open_regular_file(path) as file:
            if os.fstat(file.fileno()).st_size <= LARGEST_FILE:
                return file.read()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    raise InputError(f"larger than {LARGEST_FILE >> 30} GB: no network here is", file=path)


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


def is_safetensors(content):
    return content[8:9] == b"{"


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
    except (zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, ValueError,
            KeyError, EOFError, OSError):
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
        import safetensors.numpy
    except ImportError:
        raise InputError("a .safetensors file needs the package safetensors: "
                         "pip install -r requirements-export.txt") from None
    try:
        tensors = safetensors.numpy.load(content)
        if any(tensor.dtype.kind not in "fiub" for tensor in tensors.values()):
            raise ValueError("complex numbers")
        return dict(sorted(tensors.items()))
    except (safetensors.SafetensorError, KeyError, ValueError, OverflowError) as error:
        raise InputError("not a whole safetensors file, or of a type or shape that numpy lacks: "
                         f"{error!s:.200}") from None


class Storage:
    """A run of values that tensors are views of; its bytes may come later than its name."""

    def __init__(self, dtype, count):
        if not isinstance(count, int) or count < 0:
            raise InputError("a storage whose number of values makes no sense")
        self.dtype, self.count, self.values = dtype, count, None
        self.num_bytes = count * dtype.itemsize

    def fill(self, raw):
        """Take the bytes, which must be as many as the storage has values."""
        if len(raw) != self.num_bytes:
            raise InputError(f"cut short, or changed: a storage of {self.count} values has "
                             f"{len(raw)} bytes instead of {self.num_bytes}")
        self.values = np.frombuffer(raw, self.dtype)


class TensorView:
    """A tensor as the pickle describes it: a view of a storage, checked when it is made."""

    def __init__(self, storage, offset, shape, strides, *_):
        shape, strides = tuple(shape), tuple(strides)
        numbers = (offset, *shape, *strides)
        if not (isinstance(storage, Storage) and len(shape) == len(strides) <= 32
                and all(isinstance(n, int) and 0 <= n < LARGEST_SIDE for n in numbers)
                and math.prod(max(n, 1) for n in shape) < LARGEST_SIDE):
            raise InputError("a tensor's offset, shape or strides make no sense")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
        if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
            raise InputError("cut short, or changed: a tensor reaches beyond its values")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self):
        if 0 in self.shape:
            return np.zeros(self.shape, np.float32)
        values = self.storage.values
        if values is None:
            raise InputError("cut short: a tensor's values are missing")
        view = np.lib.stride_tricks.as_strided(
            values[self.offset:], self.shape, [step * values.itemsize for step in self.strides],
            writeable=False)
        return np.ascontiguousarray(view)


class StateDict(dict):
    """A dictionary of text and numbers only as keys, in a pickle of anybody.

    Hashing or printing a few nested tuples that share their parts would take forever.
    """

    def __init__(self, items=()):
        super().__init__()
        for key, value in items:
            self[key] = value

    def __setitem__(self, key, value):
        if not isinstance(key, (str, int)):
            raise InputError("a key that is neither text nor a number: no state dict")
        super().__setitem__(key, value)


class Unpickler(pickle._Unpickler):
    """Reads the state dicts that torch.save writes; storages go into `storages` by key.

    Python's own unpickler rather than C's: its memo is a dictionary, which a malicious index
    cannot blow up, and its operations can be chosen.
    """

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
                for name in PICKLE_OPERATIONS}
    dispatch[pickle.EMPTY_DICT[0]] = lambda self: self.append(StateDict())
    # Attributes are left alone: only a state dict's metadata comes this way.
    dispatch[pickle.BUILD[0]] = lambda self: self.stack.pop()

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def load(self):
        """What the pickle holds. An InputError says that it is cut short or changed."""
        try:
            return super().load()
        except InputError:
            raise
        except BROKEN_PICKLE:
            raise InputError("cut short, or not what torch.save writes") from None

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return StateDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return TensorView
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        raise InputError(f"asks for {module}.{name}, which is no tensor that numpy has, and is "
                         "refused; save the state dict alone: "
                         "torch.save(model.float().state_dict(), FILE)")

    def persistent_load(self, pid):
        kind, dtype, key, _, count, *view = pid
        if (kind != "storage" or any(view) or not isinstance(dtype, np.dtype)
                or not isinstance(key, (str, int))):
            raise InputError("holds something other than storages of a known type and key")
        if str(key) not in self.storages:
            self.storages[str(key)] = Storage(dtype, count)
        return self.storages[str(key)]
