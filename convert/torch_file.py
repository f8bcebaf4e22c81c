"""Read the tensors of a PyTorch or safetensors file with numpy alone: no torch, no code run.

    state = read_tensors("resnet18.pth")
    state["conv1.weight"].shape            # (64, 3, 7, 7)

Three formats, told apart by their first bytes:

- PyTorch's old one: pickles (magic number, protocol, system, tensors, storage keys), then for
  each key an int64 count and the raw values.
- PyTorch's zip: `data.pkl` and one raw file a storage, `data/KEY`.
- safetensors: the length of a JSON header, the header, the raw values.

The pickles go through an unpickler that knows tensors, dictionaries and element types, and
refuses every other name, so that a malicious file is an error and nothing else.
"""
import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

from common.cli import InputError

OLD_MAGIC = 0x1950a86a20f9469cfc6c
OLD_PROTOCOL = 1001
HEADER_LIMIT = 100 * 2**20  # the safetensors specification's own limit
BFLOAT16 = "bfloat16"  # numpy has no such type: its bits are the upper half of a float32

STORAGE_TYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": BFLOAT16,
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?",
}
SAFETENSORS_TYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": BFLOAT16, "I64": "i8", "I32": "i4",
    "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}
# What pickle raises on bytes that are cut or changed, depending on where.
BROKEN_PICKLE = (pickle.UnpicklingError, struct.error, EOFError, AttributeError, IndexError,
                 KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError,
                 RecursionError)


def read_tensors(path):
    """All tensors of a state file.

    Parameters
    ----------
    path : str or Path
        A .pth (old or zip format) or .safetensors file. A training checkpoint that keeps its
        state dict under "state_dict" or "model" is fine too.

    Returns
    -------
    dict of str to numpy.ndarray
        C-contiguous arrays in the file's order; bfloat16 becomes float32.

    Raises
    ------
    InputError
        When the file cannot be read, is none of these formats, is cut short, contradicts
        itself, or holds anything but tensors and plain values.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return parse_tensors(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse_tensors(content):
    """The same, from the bytes of such a file."""
    if content[:4] == b"PK\x03\x04":
        found = _read_zip(content)
    elif content[8:9] == b"{":
        found = _read_safetensors(content)
    elif content[:1] == b"\x80":
        found = _read_old(content)
    else:
        raise InputError("neither a PyTorch nor a safetensors file")
    return _state_dict(found)


def _state_dict(found):
    """The tensors among what a file held, under their names."""
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    tensors = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, _Tensor):
            value = value.array()
        if isinstance(name, str) and isinstance(value, np.ndarray):
            tensors[name] = value
    if not tensors:
        raise InputError("holds no named tensors; a state dict is wanted (model.state_dict())")
    return tensors


class _Storage:
    """A run of values that tensors are views of; its bytes may come later than its name."""

    def __init__(self, type_name, count):
        if not isinstance(count, int) or count < 0:
            raise InputError("a storage whose number of values makes no sense")
        self.type_name = type_name
        self.count = count
        self.values = None

    def fill(self, raw, order="<"):
        """Take the bytes, which must be as many as the storage has values."""
        width = _width(self.type_name)
        if len(raw) != self.count * width:
            raise InputError(f"cut short, or changed: a storage of {self.count} values has "
                             f"{len(raw)} bytes instead of {self.count * width}")
        self.values = _decode(raw, self.type_name, order)


class _Tensor:
    """A tensor as the pickle describes it: a view of a storage, checked when it is made."""

    def __init__(self, storage, offset, shape, strides):
        numbers = (offset, *shape, *strides)
        if not (isinstance(storage, _Storage) and len(shape) == len(strides) <= 32
                and all(isinstance(n, int) and 0 <= n < 2**48 for n in numbers)):
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


def _width(type_name):
    return 2 if type_name == BFLOAT16 else np.dtype(type_name).itemsize


def _decode(raw, type_name, order="<"):
    """Raw values as a numpy array in this machine's byte order."""
    if type_name == BFLOAT16:
        bits = np.frombuffer(raw, order + "u2").astype(np.uint32) << 16
        return bits.view(np.float32)
    values = np.frombuffer(raw, np.dtype(type_name).newbyteorder(order))
    return values.astype(values.dtype.newbyteorder("="))


class _Unpickler(pickle._Unpickler):
    """Knows tensors, dictionaries and element types; storages go into `storages` by key.

    Python's own unpickler rather than C's: its memo is a dictionary, which a malicious index
    cannot blow up, and its operations can be replaced. Keys are texts and whole numbers only: a
    few nested tuples that share their parts would take for ever to hash or to print.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def load_build(self):
        """Leave attributes alone: only a state dict's metadata comes this way."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def load_dict(self):
        items = self.pop_mark()
        self.append(_dictionary(zip(items[::2], items[1::2])))

    dispatch[pickle.DICT[0]] = load_dict

    def load_setitem(self):
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self):
        self._set_items(self.pop_mark())

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def _set_items(self, items):
        self.stack[-1].update(_dictionary(zip(items[::2], items[1::2])))

    def load_additems(self):
        items = self.pop_mark()
        self.stack[-1].update(_dictionary((key, None) for key in items))

    def load_frozenset(self):
        self.append(frozenset(_dictionary((key, None) for key in self.pop_mark())))

    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return _dictionary
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in STORAGE_TYPES:
            return _StorageType(STORAGE_TYPES[name])
        raise InputError(f"asks for {module}.{name}, which is no tensor, and is refused; "
                         "save the state dict alone: torch.save(model.state_dict(), FILE)")

    def persistent_load(self, pid):
        kind, storage_type, key, _, count, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise InputError("holds something other than storages of a known type")
        if not isinstance(key, (str, int)):
            raise InputError("a storage whose key is neither text nor a number")
        key = str(key)
        if key not in self.storages:
            self.storages[key] = _Storage(storage_type.type_name, count)
        return self.storages[key]


class _StorageType:
    """Stands for torch.FloatStorage and the like."""

    def __init__(self, type_name):
        self.type_name = type_name


def _dictionary(items=()):
    """An OrderedDict of items whose keys are fit for one."""
    found = OrderedDict()
    for key, value in items:
        if not isinstance(key, (str, int)):
            raise InputError("a key that is neither text nor a number: no state dict")
        found[key] = value
    return found


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data, *_):
    return data


def _unpickle(unpickler):
    try:
        return unpickler.load()
    except InputError:
        raise
    except BROKEN_PICKLE:
        raise InputError("cut short, or not what torch.save writes") from None


def _read_old(content):
    file = io.BytesIO(content)
    if _unpickle(_Unpickler(file)) != OLD_MAGIC or _unpickle(_Unpickler(file)) != OLD_PROTOCOL:
        raise InputError("a pickle, but not one that torch.save wrote")
    system = _unpickle(_Unpickler(file))
    if not isinstance(system, dict):
        raise InputError("cut short, or not what torch.save writes")
    order = "<" if system.get("little_endian", True) else ">"
    tensors = _Unpickler(file)
    found = _unpickle(tensors)
    keys = _unpickle(_Unpickler(file))
    if not isinstance(keys, list):
        raise InputError("cut short, or not what torch.save writes")
    for key in keys:
        storage = tensors.storages.get(str(key)) if isinstance(key, (str, int)) else None
        count = int.from_bytes(file.read(8), "little" if order == "<" else "big")
        if storage is None or count != storage.count:
            raise InputError("cut short, or changed: values that no tensor announced")
        storage.fill(file.read(storage.count * _width(storage.type_name)), order)
    return found


def _read_zip(content):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise InputError("a zip file, but not one that torch.save wrote: no data.pkl")
            folder = pickles[0][:-len("data.pkl")]
            big = folder + "byteorder" in names and _stored(archive, folder + "byteorder") == b"big"
            tensors = _Unpickler(io.BytesIO(_stored(archive, pickles[0])))
            found = _unpickle(tensors)
            for key, storage in tensors.storages.items():
                storage.fill(_stored(archive, f"{folder}data/{key}"), ">" if big else "<")
            return found
    except KeyError as error:
        raise InputError(f"cut short: {error.args[0]}") from None
    except (zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, ValueError,
            EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("a zip file that is cut short or damaged") from None


def _stored(archive, name):
    """The bytes of an entry, which torch.save never compresses (and a zip bomb does)."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{name} is compressed, which torch.save does not do")
    return archive.read(entry)


def _read_safetensors(content):
    length = struct.unpack("<Q", content[:8])[0]
    if length > min(HEADER_LIMIT, len(content) - 8):
        raise InputError("cut short: its header reaches beyond its end")
    try:
        header = json.loads(content[8:8 + length].decode("utf-8"))
    except (ValueError, RecursionError):
        raise InputError("its header is not JSON") from None
    data = memoryview(content)[8 + length:]
    tensors, used = {}, 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            type_name = SAFETENSORS_TYPES[entry["dtype"]]
            shape = [int(n) for n in entry["shape"]]
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{name}: its entry in the header is not readable, or of a type "
                             "other than " + ", ".join(SAFETENSORS_TYPES)) from None
        size = math.prod(shape) * _width(type_name)
        used += size
        if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(data) \
                or end - begin != size or used > len(data):
            raise InputError(f"{name}: cut short, or its shape does not fit its values")
        tensors[name] = _decode(data[begin:end], type_name).reshape(shape)
    return tensors
