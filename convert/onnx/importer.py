"""An ONNX image classifier as an MXNet network that can be fine-tuned.

The file, which may come from a stranger, tells what images it takes. Its operators become MXNet's
layers (graph_to_symbol.py), and its weights their parameters. The result is compared with
onnxruntime's, and has to have gradients.
"""
import contextlib
import math
import os
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # a package that onnx needs

from common.cli import InputError
from common.files import open_regular_file
from common.mx_compat import mx, mxnet_errors
from convert import to_255_scale
from convert.onnx.graph_to_symbol import convert_graph
from convert.onnx.operators.values import BATCH, Tensor
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD, NORMALISATION, normalised_data
from network.graph import output_of
from network.untrusted import check_shapes

TOLERANCE = 1e-3  # of the largest logit
LARGEST_BYTES = 4 << 30  # of all weights
MAX_DIMENSIONS = 32
MAX_DIGITS = 20
FREE_SIZE = 224  # pixels, for a model that takes images of any size
LARGEST_SIZE = 2048  # of which a few images pass through a network in ordinary memory
LARGEST_BATCH_PIXELS = 1 << 26  # width times height times the images of a fixed batch
# ONNX's image metadata: mean and standard deviation, 0 to 255, that give the range.
NOMINAL_RANGES = {"NominalRange_0_255": ([0] * 3, [1] * 3), "Normalized_0_1": ([0] * 3, [255] * 3),
                  "Normalized_1_1": ([127.5] * 3, [127.5] * 3)}


def convert(path, mean=None, std=None, image_shape=None, channels="rgb"):
    """A network that computes what the ONNX model does, from raw pixels.

    The model is a classifier of (batch, 3, height, width) or (batch, height, width, 3) images with
    one output: logits, or probabilities by a last Softmax or Sigmoid. `mean` and `std` of red,
    green and blue are what its float images were normalised with, on the scale of 0 to 255 or of 0
    to 1; None takes what the file says, or else ImageNet's. `image_shape` is (3, height, width) of
    the images, where the file leaves it free, and `channels` ("rgb" or "bgr") their order.

    Returns the symbol, whose last layer is `softmax`, arg_params, aux_params, and the shape of its
    images, [3, height, width]. Raises an InputError when the file is no ONNX classifier, an
    operator or option is not known, or the result is not the same.
    """
    try:
        model = _load_model(path)
        image = _image_input(model, image_shape, channels)
        mean, std, source = _normalisation(model, image, mean, std)
        texts = [", ".join(f"{number:g}" for number in values) for values in (mean, std)]
        print(f"{path}: normalisation {source}; red, green, blue: mean {texts[0]}, standard "
              f"deviation {texts[1]}; it sees them as {channels}")
        _end_at_logits(model.graph)
        reference = _session(model)
        logits, arg_params, aux_params = _convert(model, image, (mean, std))
        shape = [3, image.height, image.width]
        check_shapes(logits, arg_params, aux_params, shape, path)
        difference = _compare(reference, (logits, arg_params, aux_params), image)
        print(f"{path}: logits differ from onnxruntime's by {difference:.1g} of the largest")
        _check_gradients(logits, arg_params, aux_params, shape)
    except InputError as error:
        raise error.at(file=path) from None
    return mx.sym.SoftmaxOutput(logits, name="softmax"), arg_params, aux_params, shape


def _load_model(path):
    """The model in a file, with the weights that it keeps in other files of its folder.

    An InputError says why a file is no ONNX model.
    """
    try:
        with open_regular_file(path) as file:
            model = onnx.load(file, load_external_data=False)
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
                         f"{_one_line(error)}") from None
    except (DecodeError, ValueError, RuntimeError):
        raise InputError("not an ONNX file, or cut short") from None
    for tensor in model.graph.initializer:
        if len(tensor.dims) > MAX_DIMENSIONS or min(tensor.dims, default=0) < 0 \
                or math.prod(max(side, 1) for side in tensor.dims) > LARGEST_BYTES:
            raise InputError(f"its weight {tensor.name:.100} has an impossible shape of "
                             f"{len(tensor.dims)} dimensions")
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


class _ImageInput(NamedTuple):
    name: str
    pixel_type: str  # "float32" or "uint8"
    batch: int  # that the file is for, 0 where it is free
    height: int
    width: int
    channels_last: bool
    blue_first: bool  # blue, green, red


def _image_input(model, image_shape, channels):
    """The model's only input; sides that are free by a number below 0 become so for onnx, too."""
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
    return _ImageInput(inputs[0].name, types[tensor.elem_type], batch, height, width, last,
                      channels == "bgr")


def _normalisation(model, image, mean, std):
    """Mean and standard deviation, 0 to 255, that a model's images are normalised with.

    Those given, of either scale; else what the model's metadata says; else ImageNet's. The third
    result says which, in words.
    """
    if image.pixel_type == "uint8":
        if mean or std:
            raise InputError("leave out {flag}: it takes uint8 pixels and normalises them itself",
                             flag="--rgb-mean" if mean else "--rgb-std")
        return (0, 0, 0), (1, 1, 1), "none: it takes uint8 pixels"
    if mean and std:
        return (*to_255_scale(mean, std), "as given")
    nominal = _metadata(model).get("Image.NominalPixelRange")
    if nominal in NOMINAL_RANGES:
        return (*NOMINAL_RANGES[nominal], "as its metadata says")
    return (IMAGENET_MEAN, IMAGENET_STD,
            "ImageNet's, assumed: neither flags nor metadata say it")


def _metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def _end_at_logits(graph):
    """Take off a last Softmax or Sigmoid: SoftmaxOutput wants logits."""
    last = next((node for node in graph.node if graph.output[0].name in node.output), None)
    if last is not None and last.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
        graph.output[0].name = last.input[0]
        graph.node.remove(last)


def _convert(model, image, normalised):
    """The logits as a symbol of raw pixels, arg_params and aux_params."""
    x, constants = normalised_data(*normalised)
    if image.blue_first:
        x = mx.sym.slice(x, begin=(None,) * 4, end=(None,) * 4, step=(1, -1, 1, 1), name="bgr")
    shape = (BATCH, 3, image.height, image.width)
    if image.channels_last:
        x = mx.sym.transpose(x, axes=(0, 2, 3, 1), name="channels_last")
        shape = (BATCH, image.height, image.width, 3)
    result, arg_params, aux_params = convert_graph(
        model, {image.name: Tensor(x, shape, trained=False)}, image.batch or 1)
    if result.shape[0] != BATCH:
        raise InputError("its output does not have one row per image")
    logits = mx.sym.Flatten(result.symbol, name="logits")
    return logits, {**arg_params, **constants}, aux_params


def _session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # It computes nothing yet, not even constants, whose size has not been checked.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _onnxruntime_errors("does not read it"):
        return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                            providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _onnxruntime_errors(what):
    try:
        yield
    except Exception as error:  # its errors have no base class of their own
        raise InputError(f"onnxruntime {what}: {_one_line(error)}") from None


def _compare(reference, imported, image):
    """Largest difference of logits to onnxruntime's, as part of the largest logit.

    A network that differs by TOLERANCE or more is refused.
    """
    logits, arg_params, aux_params = imported
    batch = image.batch or 1
    # Another number than the model's own shows whether it runs on that one only.
    count = 3 if batch == 2 else 2
    images = np.random.RandomState(0).randint(
        0, 256, (count, 3, image.height, image.width)).astype(np.uint8)
    mean, std = (arg_params[name].asnumpy() for name in NORMALISATION)
    pixels = (images - mean) / std  # for a model that takes uint8 pixels, these are 0 and 1
    if image.blue_first:
        pixels = pixels[:, ::-1]
    if image.channels_last:
        pixels = pixels.transpose(0, 2, 3, 1)
    pixels = pixels.astype(image.pixel_type)
    with _onnxruntime_errors("cannot run it"):
        theirs = np.stack([
            reference.run(None, {image.name: np.repeat(one[None], batch, axis=0)})[0]
            .reshape(batch, -1)[0] for one in pixels])
    if not np.isfinite(theirs).all() or not theirs.any():
        raise InputError("onnxruntime computes infinite values, no numbers, or nothing but 0 from "
                         "random pixels")
    with mxnet_errors("MXNet cannot run it"):
        ours = output_of(logits, arg_params, aux_params, images)
    difference = np.inf
    if ours.shape == theirs.shape:
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not difference < TOLERANCE:
        raise InputError(f"MXNet computes something else (by {difference:.1g} of the largest "
                         "logit)")
    return difference


def _check_gradients(logits, arg_params, aux_params, shape):
    """Refuse a network that cannot be trained; tell weights that random pixels do not reach."""
    random = np.random.RandomState(1)
    images = mx.nd.array(random.randint(0, 256, (4, *shape)), dtype="uint8")
    attributes = logits.attr_dict()
    weights = [name for name in arg_params if attributes.get(name, {}).get("__lr_mult__") != "0"]
    with mxnet_errors("MXNet cannot train it"):
        executor = logits.simple_bind(
            mx.cpu(), data=images.shape, type_dict={"data": "uint8"},
            grad_req={name: "write" if name in weights else "null"
                      for name in logits.list_arguments()})
        executor.copy_params_from(arg_params, aux_params)
        out, = executor.forward(is_train=True, data=images)
        executor.backward([mx.nd.array(random.normal(size=out.shape))])
        sums = {name: float(mx.nd.abs(executor.grad_dict[name]).sum().asscalar())
                for name in weights}
    infinite = [name for name, total in sums.items() if not np.isfinite(total)]
    if infinite or not any(sums.values()):
        raise InputError(f"its weight {min(infinite or sums)} has no finite gradient, so that it "
                         "cannot be trained")
    unreached = [name for name, total in sums.items() if not total]
    if unreached:
        print(f"{len(unreached)} of {len(sums)} weights have no gradient on random pixels: "
              f"{', '.join(unreached):.300}")


def _one_line(error):
    """The text of another package's error, as one line of sensible length."""
    return " ".join(str(error).split())[:300]
