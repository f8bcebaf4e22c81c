"""What an ONNX file that may come from a stranger holds: its model, and the images that it takes.

    model = load_model("net.onnx")
    image = image_input(onnx, model)                   # their type, layout and size
    mean, std, source = normalisation(model, None, None)  # of its float images, 0 to 255
"""
import json
import math
import os
from typing import NamedTuple

from common.cli import InputError
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD

LARGEST_BYTES = 4 << 30  # of all weights
MAX_DIMENSIONS = 32
MAX_DIGITS = 20
FREE_SIZE = 224  # pixels, for a model that takes images of any size
LARGEST_SIZE = 2048  # of which a few images pass through a network in ordinary memory
LARGEST_BATCH_PIXELS = 1 << 26  # width times height times the images of a fixed batch
# ONNX's image metadata: mean and standard deviation, 0 to 255, that give the range.
NOMINAL_RANGES = {"NominalRange_0_255": (0, 1), "Normalized_0_1": (0, 255),
                  "Normalized_1_1": (127.5, 127.5)}


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


class ImageInput(NamedTuple):
    name: str
    pixel_type: str  # "float32" or "uint8"
    batch: int  # that the file is for, 0 where it is free
    height: int
    width: int
    channels_last: bool
    blue_first: bool  # blue, green, red


def image_input(onnx, model, image_shape=None, channels="rgb"):
    """The model's only input, an ImageInput.

    `image_shape` is (3, height, width), for sides that the file leaves free: named ones, and those
    below 0, which become free in the model too. `channels` is "rgb" or "bgr".
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise InputError(f"{len(inputs)} inputs and {len(graph.output)} outputs; an image "
                         "classifier has one of each")
    for value in (*inputs, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.Clear()
    tensor = inputs[0].type.tensor_type
    sides = [dim.dim_value for dim in tensor.shape.dim]
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
    last = len(sides) == 4 and sides[3] == 3 and sides[1] != 3
    batch, channel_count, height, width = sides if len(sides) == 4 else (0, -1, 0, 0)
    if last:
        batch, height, width, channel_count = sides
    if channel_count not in (0, 3) or tensor.elem_type not in types:
        raise InputError(f"its input {inputs[0].name:.100} is {sides} (0: free); wanted is (batch, "
                         "3, height, width) or (batch, height, width, 3), float32 or uint8")
    pixels = _metadata(model).get("Image.BitmapPixelFormat", "")
    if pixels.lower() not in ("", f"{channels}8", f"{channels}a8"):
        raise InputError(f"its images are {pixels!r:.50}, and {{flag}} is {channels}",
                         flag="--channels")
    size = image_shape[1:] if image_shape else (
        height or width or FREE_SIZE, width or height or FREE_SIZE)
    if any(side not in (0, wanted) for side, wanted in zip((height, width), size)):
        raise InputError(f"{{flag}} is another size: it is for images of {height or 'any'}x"
                         f"{width or 'any'} pixels", flag="--image-shape")
    height, width = size
    if max(height, width) > LARGEST_SIZE:
        raise InputError(f"it wants images of {height}x{width} pixels; at most {LARGEST_SIZE} "
                         "a side are compared, and so imported")
    if max(batch, 1) * height * width > LARGEST_BATCH_PIXELS:
        raise InputError(f"it wants batches of {batch} images, too many to compare; export it "
                         "with a free batch size")
    return ImageInput(inputs[0].name, types[tensor.elem_type], batch, height, width, last,
                      channels == "bgr")


def normalisation(model, mean, std):
    """Mean and standard deviation, 0 to 255, that a model's images are normalised with.

    Those given, of either scale; else what the model's metadata says; else ImageNet's. The third
    result says which, in words.
    """
    metadata = _metadata(model)
    stored = (_three_numbers(metadata.get(f"image_{kind}")) for kind in ("mean", "std"))
    nominal = NOMINAL_RANGES.get(metadata.get("Image.NominalPixelRange"), (None, None))
    mean, std, source = next(each for each in (
        (mean, std, "as given"),
        (*stored, "as its metadata says"),
        ([nominal[0]] * 3, [nominal[1]] * 3, "as its metadata says"),
        (IMAGENET_MEAN, IMAGENET_STD, "ImageNet's, assumed: neither flags nor metadata say it"),
    ) if each[0] and each[1] and None not in (*each[0], *each[1]))
    return (*to_255_scale(mean, std), source)


def _metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def _three_numbers(text):
    try:
        values = json.loads(text or "")
        return [float(value) for value in values] if len(values) == 3 else None
    except (ValueError, TypeError):
        return None


def to_255_scale(mean, std):
    """Mean and standard deviation on the scale of 0 to 255, from that one or that of 0 to 1."""
    scale = 255 if max(std) < 1 and max(mean) <= 1 else 1
    return [value * scale for value in mean], [value * scale for value in std]


def one_line(error):
    """The text of another package's error, as one line of sensible length."""
    return " ".join(str(error).split())[:300]
