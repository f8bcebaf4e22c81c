"""An ONNX image classifier as an MXNet network, by MXNet's own importer.

The importer (`mxnet.contrib.onnx`) was written for operator sets up to 12. This module puts a
model into the form that it reads, refuses operators that it does not know, and compares the
result with onnxruntime's, because the importer ignores some options without a word.
"""
import json
import math
import os

import numpy as np

from common.cli import InputError
from common.files import require_regular_file
from common.mx_compat import mx
from convert.onnx_packages import import_onnx, mapping_for_mxnet
from network.checkpoint import CONSTANTS, normalised_data

FREE_SIZE = 224  # pixels, for a model that takes images of any size
LARGEST_SIZE = 2048  # of which a few images pass through a network in ordinary memory
LARGEST_BATCH_PIXELS = 1 << 26  # width times height times the images of a fixed batch
LARGEST_BYTES = 4 << 30  # of all weights
MAX_DIMENSIONS = 32
MAX_DIGITS = 20
TOLERANCE = 1e-3  # of the largest logit
# What the importer raises on a model that it cannot read, depending on where.
NOT_READ = (KeyError, IndexError, AttributeError, TypeError, ValueError, NameError,
            NotImplementedError, RuntimeError, AssertionError, mx.MXNetError)


def convert(path, mean, std):
    """A network that computes what the ONNX model does, from raw pixels.

    Returns the symbol, whose last layer is `softmax`, arg_params, aux_params, and the side of its
    images in pixels. Raises an InputError when a package is not installed, the file is no ONNX
    classifier, MXNet does not read its operators, or the result is not the same.

    Parameters
    ----------
    path : str
        A classifier of (batch, 3, height, width) images with one output: logits, or
        probabilities by a last Softmax or Sigmoid.
    mean, std : sequence of 3 floats
        What the model's float images were normalised with, on the scale of 0 to 255. A model
        that takes uint8 pixels normalises them itself.
    """
    onnx, onnxruntime = import_onnx("--onnx")
    require_regular_file(path)
    try:
        model = _load(onnx, path)
        for tensor in model.graph.initializer:
            _check_shape(tensor)
        pixel_type, size = _image_input(onnx, model.graph)
        _end_at_logits(model.graph)
        reference = _session(onnxruntime, model)
        name = _simplify(onnx, model.graph)
        net, arg_params, aux_params = _import(model)
        if pixel_type == "uint8":
            mean, std = (0, 0, 0), (1, 1, 1)
        x, constants = normalised_data(mean, std)
        logits = mx.sym.Flatten(net(**{name: x}), name="logits")
        arg_params.update(constants)
        _compare(reference, (logits, arg_params, aux_params), pixel_type, size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return mx.sym.SoftmaxOutput(logits, name="softmax"), arg_params, aux_params, size


def _load(onnx, path):
    """The model in a file, with the weights that it keeps in other files."""
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
                         f"{_reason(error)}") from None
    except (DecodeError, ValueError, RuntimeError):
        raise InputError("not an ONNX file, or cut short") from None
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


def _reason(error):
    """The text of another package's error, as one line of sensible length."""
    return " ".join(str(error).split())[:300]


def _image_input(onnx, graph):
    """Element type ("float32" or "uint8") and side in pixels of the image input."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise InputError(f"{len(inputs)} inputs and {len(graph.output)} outputs; an image "
                         "classifier has one of each")
    tensor = inputs[0].type.tensor_type
    sides = [dim.dim_value for dim in tensor.shape.dim]
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
    if len(sides) != 4 or sides[1] not in (0, 3) or sides[2] != sides[3] \
            or tensor.elem_type not in types:
        raise InputError(f"its input {inputs[0].name} is {sides} (0: free); wanted is (batch, 3, "
                         "height, width), square, float32 or uint8")
    if sides[2] > LARGEST_SIZE:
        raise InputError(f"it wants images of {sides[2]}x{sides[2]} pixels; at most {LARGEST_SIZE} "
                         "a side are compared, and so imported")
    if max(sides[0], 1) * sides[2]**2 > LARGEST_BATCH_PIXELS:
        raise InputError(f"it wants batches of {sides[0]} images, too many to compare; export it "
                         "with a free batch size")
    return types[tensor.elem_type], sides[2] or FREE_SIZE


def _end_at_logits(graph):
    """Take off a last Softmax or Sigmoid: SoftmaxOutput wants logits."""
    last = next((node for node in graph.node if graph.output[0].name in node.output), None)
    if last is not None and last.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
        graph.output[0].name = last.input[0]
        graph.node.remove(last)


def _session(onnxruntime, model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                            providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class of their own
        raise InputError(f"onnxruntime does not read it: {_reason(error)}") from None


def _simplify(onnx, graph):
    """Put the graph into the form that MXNet's importer reads; returns the image input's name."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if value is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
            graph.node.remove(node)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    listed = {value.name for value in graph.input}
    # An input may be called like a parameter of MXNet's functions (`name`, `self`).
    image = next(value for value in graph.input if value.name not in weights)
    used = {name for node in graph.node for name in (*node.input, *node.output)} | set(weights)
    old, image.name = image.name, "image"
    while image.name in used:
        image.name += "_"
    for node in graph.node:
        renamed = [image.name if name == old else name for name in node.input]
        del node.input[:]
        node.input.extend(renamed)
    # The importer looks for weights among the inputs, where exporters once listed them.
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer if tensor.name not in listed)
    for node in graph.node:
        options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "BatchNormalization":
            # An option the importer does not know; onnxruntime has refused any other value.
            options.pop("training_mode", 0)
            # ONNX's default is 1e-5 and MXNet's 1e-3.
            options.setdefault("epsilon", 1e-5)
        elif node.op_type == "Gemm" and len(node.input) == 3 and node.input[1] in weights:
            # A fully connected layer, which the importer would take for a bare product of matrices.
            plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **options}
            if (plain["alpha"], plain["beta"], plain["transA"], plain["transB"]) == (1, 1, 0, 1):
                node.op_type, options = "FC", {}
        else:
            continue
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(*item) for item in options.items())
    return image.name


def _import(model):
    """What MXNet's importer makes of the graph: symbol, arg_params, aux_params."""
    from mxnet.contrib.onnx.onnx2mx import _import_helper
    from mxnet.contrib.onnx.onnx2mx.import_onnx import GraphProto

    unknown = {node.op_type for node in model.graph.node} - set(_import_helper._convert_map)
    if unknown:
        raise InputError("MXNet does not read the operators "
                         + ", ".join(sorted(unknown))[:300])
    opset = max(entry.version for entry in model.opset_import)
    try:
        with mapping_for_mxnet():
            net, arg_params, aux_params = GraphProto().from_onnx(model.graph, opset_version=opset)
        return _tidy(net), arg_params, aux_params
    except NOT_READ as error:
        reason = _reason(error) or type(error).__name__
        raise InputError(f"MXNet's importer does not read this form of operator set {opset} "
                         f"({reason}); an export with operator set 9 or 11 may work") from None


def _tidy(net):
    """The same network without what only the importer writes.

    It pads by nothing in front of every pooling layer; and it writes `relu` where MXNet's
    networks have Activation, which oneDNN joins to the convolution before it.
    """
    graph = json.loads(net.tojson())
    source = {}
    for number, node in enumerate(graph["nodes"]):
        node["inputs"] = [source.get(entry[0], entry) for entry in node["inputs"]]
        if node["op"] == "Pad" and set(node["attrs"]["pad_width"]) <= set("(0, )"):
            source[number] = node["inputs"][0]
        elif node["op"] == "relu":
            node["op"], node["attrs"] = "Activation", {"act_type": "relu"}
    return mx.sym.load_json(json.dumps(graph))


def _compare(reference, imported, pixel_type, size):
    """Refuse a network whose logits differ from onnxruntime's on a few images."""
    logits, arg_params, aux_params = imported
    batch = reference.get_inputs()[0].shape[0]
    batch = batch if isinstance(batch, int) else 1
    # Another number than the model's own shows whether it runs on that one only.
    count = 3 if batch == 2 else 2
    images = np.random.RandomState(0).randint(0, 256, (count, 3, size, size)).astype(np.uint8)
    mean, std = (arg_params[name].asnumpy() for name in CONSTANTS)
    pixels = (images - mean) / std  # for a model that takes uint8 pixels, these are 0 and 1
    theirs = np.stack([_run(reference, np.repeat(image[None], batch, axis=0).astype(pixel_type))
                       .reshape(batch, -1)[0] for image in pixels])
    if not np.isfinite(theirs).all():
        raise InputError("onnxruntime computes infinite values, or no numbers, from random pixels")
    if not theirs.any():
        raise InputError("onnxruntime computes nothing but 0 from random pixels")
    fixed = (f"MXNet cannot run it on {count} images of {size}x{size}; export it with a free batch "
             "size")
    try:
        # Before running: an error while it runs would take the whole process down.
        if logits.infer_shape(data=images.shape)[1][0][0] != len(images):
            raise InputError(fixed)
        executor = logits.bind(mx.cpu(), {**arg_params, "data": mx.nd.array(images, dtype="uint8")},
                               aux_states=aux_params, grad_req="null")
        ours = executor.forward(is_train=False)[0].asnumpy()
    except mx.MXNetError:
        raise InputError(fixed) from None
    difference = np.inf
    if ours.shape == theirs.shape:
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not difference < TOLERANCE:
        raise InputError(f"MXNet reads it, but computes something else (by {difference:.1g} of "
                         "the largest logit); it has an option that MXNet's importer ignores")


def _run(session, pixels):
    try:
        return session.run(None, {session.get_inputs()[0].name: pixels})[0]
    except Exception as error:  # its errors have no base class of their own
        raise InputError(f"onnxruntime cannot run it: {_reason(error)}") from None
