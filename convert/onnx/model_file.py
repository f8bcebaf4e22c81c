"""Reading an ONNX file that may come from a stranger.

    model = load_model("net.onnx")
"""
import math
import os

from common.cli import InputError

LARGEST_BYTES = 4 << 30  # of all weights
MAX_DIMENSIONS = 32
MAX_DIGITS = 20


def load_model(path):
    """The model in a file, with the weights that it keeps in other files of its folder.

    An InputError says why a file is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # a package that onnx needs

    try:
        model = onnx.load(path, load_external_data=False)
        folder, left = os.path.dirname(os.path.abspath(path)), LARGEST_BYTES
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                left -= _external_bytes(tensor, folder, left)
                onnx.external_data_helper.load_external_data_for_tensor(tensor, folder)
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from None
    except onnx.checker.ValidationError as error:
        raise InputError("keeps its weights in another file, which cannot be read: "
                         f"{one_line(error)}") from None
    except (DecodeError, ValueError, RuntimeError):
        raise InputError("not an ONNX file, or cut short") from None
    for tensor in model.graph.initializer:
        _check_shape(tensor)
    return model


def _external_bytes(tensor, folder, left):
    """Number of bytes that a weight has in another file, checked before they are read."""
    places = {entry.key: entry.value for entry in tensor.external_data}
    file = os.path.join(folder, places.get("location", ""))
    if not os.path.isfile(file):
        raise InputError("keeps its weights in another file, which cannot be read: "
                         f"{places.get('location', '')!r:.200}")
    available = os.path.getsize(file)
    offset, length = places.get("offset", "0"), places.get("length", str(available))
    if not all(text.isdecimal() and len(text) < MAX_DIGITS for text in (offset, length)) \
            or int(length) > left or int(offset) + int(length) > available:
        raise InputError(f"its weight {tensor.name:.100} has {length:.{MAX_DIGITS}} bytes from "
                         f"byte {offset:.{MAX_DIGITS}} of another file, which has {available}; "
                         f"{LARGEST_BYTES >> 30} GB at most are read")
    return int(length)


def _check_shape(tensor):
    if len(tensor.dims) > MAX_DIMENSIONS or min(tensor.dims, default=0) < 0 \
            or math.prod(max(side, 1) for side in tensor.dims) > LARGEST_BYTES:
        raise InputError(f"its weight {tensor.name:.100} has an impossible shape of "
                         f"{len(tensor.dims)} dimensions")


def one_line(error):
    """The text of another package's error, as one line of sensible length."""
    return " ".join(str(error).split())[:300]
