"""An ONNX image classifier as an MXNet network that can be fine-tuned.

    sym, arg_params, aux_params, image_shape = convert("net.onnx")

Its operators become MXNet's layers (graph_to_symbol.py), and its weights their parameters. The
result is compared with onnxruntime's, and has to have gradients.
"""
import contextlib

import numpy as np

from common.cli import InputError
from common.files import require_regular_file
from common.mx_compat import mx, mxnet_errors
from convert.onnx import import_onnx
from convert.onnx.graph_to_symbol import convert_graph
from convert.onnx.model_file import image_input, load_model, normalisation, one_line
from convert.onnx.operators.table import BATCH, Tensor
from network.checkpoint import NORMALISATION, normalised_data
from network.untrusted import check_shapes

TOLERANCE = 1e-3  # of the largest logit


def convert(path, mean=None, std=None, image_shape=None, channels="rgb"):
    """A network that computes what the ONNX model does, from raw pixels.

    Returns the symbol, whose last layer is `softmax`, arg_params, aux_params, and the shape of its
    images, [3, height, width]. Raises an InputError when a package is not installed, the file is
    no ONNX classifier, an operator or option is not known, or the result is not the same.

    Parameters
    ----------
    path : str
        A classifier of (batch, 3, height, width) or (batch, height, width, 3) images with one
        output: logits, or probabilities by a last Softmax or Sigmoid.
    mean, std : sequence of 3 floats, optional
        What the model's float images were normalised with, on the scale of 0 to 255 or of 0 to 1;
        None takes what the file says, or else ImageNet's. A model that takes uint8 pixels
        normalises them itself.
    image_shape : sequence of 3 ints, optional
        (3, height, width) of the images, where the file leaves it free.
    channels : str
        Order of the model's channels: "rgb" or "bgr". `mean` and `std` are of red, green, blue.
    """
    onnx, onnxruntime = import_onnx("--onnx")
    require_regular_file(path)
    try:
        model = load_model(path)
        image = image_input(onnx, model, image_shape, channels)
        if image.pixel_type == "uint8":
            if mean or std:
                raise InputError("leave out {flag}: it takes uint8 pixels and normalises them "
                                 "itself", flag="--rgb-mean" if mean else "--rgb-std")
            mean, std, source = (0, 0, 0), (1, 1, 1), "none: it takes uint8 pixels"
        else:
            mean, std, source = normalisation(model, mean, std)
        texts = [", ".join(f"{number:g}" for number in values) for values in (mean, std)]
        print(f"{path}: normalisation {source}; red, green, blue: mean {texts[0]}, standard "
              f"deviation {texts[1]}; it sees them as {channels}")
        _end_at_logits(model.graph)
        reference = _session(onnxruntime, model)
        logits, arg_params, aux_params = _convert(model, image, (mean, std))
        shape = [3, image.height, image.width]
        check_shapes(logits, arg_params, aux_params, shape, path)
        difference = _compare(reference, (logits, arg_params, aux_params), image)
        print(f"{path}: logits differ from onnxruntime's by {difference:.1g} of the largest")
        _check_gradients(logits, arg_params, aux_params, shape)
    except InputError as error:
        raise error.with_file(path) from None
    return mx.sym.SoftmaxOutput(logits, name="softmax"), arg_params, aux_params, shape


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
    arg_params = {name: mx.nd.array(value) for name, value in arg_params.items()}
    aux_params = {name: mx.nd.array(value) for name, value in aux_params.items()}
    return logits, {**arg_params, **constants}, aux_params


def _session(onnxruntime, model):
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
        raise InputError(f"onnxruntime {what}: {one_line(error)}") from None


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
    if not np.isfinite(theirs).all():
        raise InputError("onnxruntime computes infinite values, or no numbers, from random pixels")
    if not theirs.any():
        raise InputError("onnxruntime computes nothing but 0 from random pixels")
    with mxnet_errors("MXNet cannot run it"):
        executor = logits.bind(mx.cpu(), {**arg_params, "data": mx.nd.array(images, dtype="uint8")},
                               aux_states=aux_params, grad_req="null")
        ours = executor.forward(is_train=False)[0].asnumpy()
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
    gradients = {name: mx.nd.zeros_like(arg_params[name]) for name in weights}
    with mxnet_errors("MXNet cannot train it"):
        executor = logits.bind(
            mx.cpu(), {**arg_params, "data": images}, args_grad=gradients,
            grad_req={name: "write" if name in gradients else "null"
                      for name in logits.list_arguments()},
            aux_states={name: value.copy() for name, value in aux_params.items()})
        out, = executor.forward(is_train=True)
        executor.backward([mx.nd.array(random.normal(size=out.shape))])
        sums = {name: float(mx.nd.abs(value).sum().asscalar())
                for name, value in gradients.items()}
    infinite = [name for name, total in sums.items() if not np.isfinite(total)]
    if infinite or not any(sums.values()):
        raise InputError(f"its weight {min(infinite or sums)} has no finite gradient, so that it "
                         "cannot be trained")
    unreached = [name for name, total in sums.items() if not total]
    if unreached:
        print(f"{len(unreached)} of {len(sums)} weights have no gradient on random pixels: "
              f"{', '.join(unreached):.300}")
