"""Write state dicts as torch.save and safetensors do, byte by byte and without torch."""
import io
import json
import struct
import zipfile

import numpy as np

STORAGES = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "f8": "DoubleStorage"}
OLD_HEAD = (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # magic number
            b"\x80\x02M\xe9\x03."  # protocol
            b"\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u.")


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value):
    return b"J" + struct.pack("<i", value)


def group(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tensor(key, count, shape, strides, offset=0, storage="FloatStorage", old=False):
    """The pickle operations that build one tensor."""
    view = [b"N"] if old else []
    storage = group(text("storage"), name("torch", storage), text(key), text("cpu"),
                    number(count), *view) + b"Q"
    return name("torch._utils", "_rebuild_tensor_v2") + group(
        storage, number(offset), group(*map(number, shape)), group(*map(number, strides)),
        b"\x89", name("collections", "OrderedDict") + b")R") + b"R"


def dictionary(entries):
    """A pickled OrderedDict, with the _metadata attribute that a state dict has."""
    items = b"".join(text(key) + value + b"s" for key, value in entries.items())
    return (b"\x80\x02" + name("collections", "OrderedDict") + b")R" + items
            + b"}" + text("_metadata") + b"}sb.")


def _tensors(state, old):
    entries = {}
    for index, (key, array) in enumerate(state.items()):
        strides = [step // array.itemsize for step in np.zeros(array.shape, array.dtype).strides]
        entries[key] = tensor(str(index), array.size, array.shape, strides,
                              storage=STORAGES[array.dtype.str[1:]], old=old)
    return entries


def old_format(state):
    """Bytes of torch.save before version 1.6."""
    keys = b"\x80\x02](" + b"".join(text(str(index)) for index in range(len(state))) + b"e."
    values = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in state.values())
    return OLD_HEAD + dictionary(_tensors(state, old=True)) + keys + values


def zip_format(state, pickled=None, folder="archive", byteorder="little"):
    """Bytes of torch.save since version 1.6; `pickled` replaces data.pkl."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", pickled or dictionary(_tensors(state, old=False)))
        archive.writestr(f"{folder}/byteorder", byteorder)
        for index, array in enumerate(state.values()):
            archive.writestr(f"{folder}/data/{index}", array.tobytes())
        archive.writestr(f"{folder}/version", "3\n")
    return file.getvalue()


def safetensors(state, **changed):
    """Bytes of a .safetensors file; `changed` replaces fields of every entry of its header."""
    types = {"f4": "F32", "f2": "F16", "i8": "I64", "f8": "F64"}
    header, values = {"__metadata__": {"format": "pt"}}, b""
    for key, array in state.items():
        header[key] = {"dtype": types[array.dtype.str[1:]], "shape": array.shape,
                       "data_offsets": [len(values), len(values) + array.nbytes], **changed}
        values += array.tobytes()
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + values
