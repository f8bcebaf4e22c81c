"""Unpickling the state dicts of torch.save without torch, and without running code.

    tensors = Unpickler(file)
    state = tensors.load()                     # names and TensorViews
    tensors.storages["0"].fill(raw)            # their values, from elsewhere in the file
    state["conv1.weight"].array()

Two allow-lists, one of pickle operations and one of names (tensors, dictionaries and element
types), make a malicious file an error and nothing else.
"""
import math
import pickle
import struct
from collections import OrderedDict, namedtuple

import numpy as np

from common.cli import InputError

LARGEST_SIDE = 2**48
BFLOAT16 = "bfloat16"  # numpy has no such type: its bits are the upper half of a float32

# Types of values, as numpy, torch.save and safetensors call them.
VALUE_TYPES = (
    ("f8", "DoubleStorage", "F64"), ("f4", "FloatStorage", "F32"), ("f2", "HalfStorage", "F16"),
    (BFLOAT16, "BFloat16Storage", "BF16"), ("i8", "LongStorage", "I64"),
    ("i4", "IntStorage", "I32"), ("i2", "ShortStorage", "I16"), ("i1", "CharStorage", "I8"),
    ("u1", "ByteStorage", "U8"), ("?", "BoolStorage", "BOOL"))
STORAGE_TYPES = {storage: numpys for numpys, storage, _ in VALUE_TYPES}
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


# Stands for torch.FloatStorage and the like.
_StorageType = namedtuple("_StorageType", "type_name")


class Storage:
    """A run of values that tensors are views of; its bytes may come later than its name."""

    def __init__(self, type_name, count):
        if not isinstance(count, int) or count < 0:
            raise InputError("a storage whose number of values makes no sense")
        self.type_name = type_name
        self.count = count
        self.num_bytes = count * (2 if type_name == BFLOAT16 else np.dtype(type_name).itemsize)
        self.values = None

    def fill(self, raw):
        """Take the bytes, which must be as many as the storage has values."""
        if len(raw) != self.num_bytes:
            raise InputError(f"cut short, or changed: a storage of {self.count} values has "
                             f"{len(raw)} bytes instead of {self.num_bytes}")
        self.values = decode(raw, self.type_name)


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


def decode(raw, type_name):
    """Raw little-endian values as a numpy array; bfloat16 becomes float32."""
    if type_name == BFLOAT16:
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, type_name)


class Unpickler(pickle._Unpickler):
    """Reads the state dicts that torch.save writes; storages go into `storages` by key.

    Python's own unpickler rather than C's: its memo is a dictionary, which a malicious index
    cannot blow up, and its operations can be chosen. Keys are strings and integers only: hashing
    or printing a few nested tuples that share their parts would take forever.
    """

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
                for name in PICKLE_OPERATIONS}

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

    def load_build(self):
        """Leave attributes alone: only a state dict's metadata comes this way."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].update(_dictionary([(key, value)]))

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self):
        items = self.pop_mark()
        self.stack[-1].update(_dictionary(zip(items[::2], items[1::2])))

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return _dictionary
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return TensorView
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
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
            self.storages[key] = Storage(storage_type.type_name, count)
        return self.storages[key]


def _dictionary(items=()):
    """An OrderedDict of items whose keys are fit for one."""
    found = OrderedDict()
    for key, value in items:
        if not isinstance(key, (str, int)):
            raise InputError("a key that is neither text nor a number: no state dict")
        found[key] = value
    return found
