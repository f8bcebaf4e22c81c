"""A network bound for inference only: for prediction, and for features to store.

    forward = ForwardPass(network, arg_params, aux_params, batches.provide_data[0], [mx.cpu()])
    for batch in batches:
        outputs = forward(batch.data[0], batch_size - batch.pad)  # computed in the background
        print(outputs.values().shape)
"""
from __future__ import annotations

import math
import time
from typing import Callable, Sequence

import numpy as np

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from network import checkpoint
from network.graph import Graph, layer_shapes, params_of, replaced

# Pixels per piece of a batch on a CPU: 8 images of 224x224. The activations then mostly stay in the
# processor's caches.
PIECE_PIXELS = 8 * 224 * 224

# The first of so many convolutions stay in float32: their errors pass through all later ones. On a
# CPU without VNNI the cosine of EfficientNet-Lite0's features was 0.968, and is 0.991, as fast.
FLOAT_SHARE = 16
# Images for the ranges of int8: with 4 the outputs are as near to float32's as with 32.
SAMPLE_IMAGES = 8
# int8 is chosen where it is so many times as fast, and its outputs are so near (cosine).
LEAST_SPEED_UP, LEAST_COSINE = 1.3, 0.98
# Multiplications below which trying takes longer than it saves: 10 seconds of two cores. Counted,
# not measured: whether to try does not depend on what else the machine does.
WORTH_TRYING = 5e11
TURNS = 3


class ForwardPass:
    """Computes the outputs, (batch, ...), of a network that takes raw pixels as `data`.

    `network` has one output or several (mx.sym.Group); `arg_params` and `aux_params` may hold more
    parameters than it has. `data` describes the batches, uint8 (batch, 3, height, width). Several
    GPUs in `devices` share each batch; on a CPU a batch is divided into pieces, which is faster,
    and float16 is computed in float32. With `sample`, images as uint8 (count, 3, height, width), it
    computes in int8: the first of them give the ranges of the layers' integers. An error of MXNet's
    says that it cannot.

    Attributes: `precision`, "float32" or "int8", and `output_shapes`, a tuple of int for each
    output of one image.
    """

    def __init__(self, network: mx.sym.Symbol, arg_params: checkpoint.Params,
                 aux_params: checkpoint.Params, data: mx.io.DataDesc,
                 devices: Sequence[mx.Context], sample: mx.nd.NDArray | None = None) -> None:
        batch_size, *shape = data.shape
        self._piece = batch_size
        if devices[0].device_type == "cpu":
            most = max(1, PIECE_PIXELS // (shape[1] * shape[2]))
            self._piece = -(-batch_size // -(-batch_size // most))
            network, arg_params, aux_params = in_float32(network, arg_params, aux_params)
        pixels = one_pass_normalisation(arg_params)
        self.precision = "float32" if sample is None else "int8"
        if sample is None:
            network = replaced(network, "rgb_normalised", pixels)
        else:
            network, arg_params, aux_params = in_int8(network, arg_params, aux_params, pixels,
                                                      sample[:SAMPLE_IMAGES])
        self._module = mx.mod.Module(network, label_names=None, context=devices[:self._piece])
        self._module.bind([mx.io.DataDesc("data", (self._piece, *shape), data.dtype)],
                          for_training=False)
        self._module.set_params(arg_params, aux_params, allow_extra=True)
        self.output_shapes = [tuple(shape[1:]) for _, shape in self._module.output_shapes]

    def __call__(self, data: mx.nd.NDArray, count: int | None = None,
                 mirror: bool = False) -> Outputs:
        """Start to compute the Outputs of the first `count` images of a batch, None: of all.

        A batch of padding only has a count of 0. With `mirror` each image is mirrored first, left
        to right.
        """
        if mirror:
            # mx.nd.flip takes ten times as long.
            data = mx.nd.slice(data, begin=(None,) * 4, end=(None,) * 4, step=(1, 1, 1, -1))
        count = len(data) if count is None else count
        pieces = []
        for first in range(0, count, self._piece):
            first = min(first, len(data) - self._piece)
            piece = data[first:first + self._piece]
            self._module.forward(mx.io.DataBatch([piece]), is_train=False)
            # Copies, because the next forward overwrites the outputs.
            pieces.append((first, [output.copy() for output in self._module.get_outputs()]))
        return Outputs(pieces, [(count, *shape) for shape in self.output_shapes])


class Outputs:
    """Outputs of the first images of a batch, which MXNet may still be computing."""

    def __init__(self, pieces, shapes):
        self._pieces, self._shapes = pieces, shapes

    def values(self, number: int = 0) -> np.ndarray:
        """Wait for one of the outputs and return it: np.ndarray, (count, ...), float32."""
        values = np.empty(self._shapes[number], np.float32)
        for first, outputs in self._pieces:
            piece = outputs[number]
            values[first:first + len(piece)] = piece.asnumpy()[:len(values) - first]
        return values


def one_pass_normalisation(arg_params):
    """The normalised pixels of `data`, in one pass over memory instead of the network's two."""
    mean, std = (tuple(arg_params[name].asnumpy().ravel().tolist())
                 for name in checkpoint.NORMALISATION)
    return mx.sym.image.normalize(mx.sym.Cast(mx.sym.Variable("data"), dtype="float32"), mean, std)


def choose_forward_pass(network: checkpoint.Network, data: mx.io.DataDesc,
                        devices: Sequence[mx.Context], precision: str, num_images: int,
                        read_sample: Callable[[], mx.nd.NDArray]) -> tuple[ForwardPass, str]:
    """A ForwardPass in int8 where that pays off, otherwise in float32; and the reason for it.

    `network` and `data` are as ForwardPass takes them. `precision` is float32, int8, or auto:
    whichever one batch shows to be better for `num_images`. `read_sample` returns that batch, of
    which the first images give the ranges. The reason is empty where float32 is asked for.
    """
    plain = ForwardPass(*network, data, devices)
    if precision == "float32":
        return plain, ""
    if devices[0].device_type != "cpu":
        return plain, "int8 is for CPUs"
    exact = multiplies_exactly()
    if precision == "auto":
        if num_images * multiplications(network[0], data.shape[1:]) < WORTH_TRYING:
            return plain, "too few images for trying int8 to pay off"
        if not exact:
            return plain, "this processor's int8 arithmetic saturates: it lacks VNNI"
    sample = read_sample()
    try:
        with mxnet_errors("MXNet cannot compute this network in int8"):
            forward = ForwardPass(*network, data, devices, sample)
            cosine = least_cosine(plain, forward, sample)
            speed_up = _speed_up(plain, forward, sample)
    except InputError as error:
        return plain, str(error)
    reason = f"int8 is {speed_up:.1f} times as fast, cosine {cosine:.4f}"
    if precision == "auto" and not (speed_up >= LEAST_SPEED_UP and cosine >= LEAST_COSINE):
        return plain, reason
    return forward, reason + "; this processor's int8 arithmetic saturates" * (not exact)


def _speed_up(plain, forward, images):
    """How many times as fast as the ForwardPass `plain` another one is."""
    seconds = []
    for _ in range(1 + TURNS):  # the first only warms up
        for each in (plain, forward):
            began = time.perf_counter()
            each(images, SAMPLE_IMAGES).values()
            seconds.append(time.perf_counter() - began)
    return min(seconds[2::2]) / min(seconds[3::2])


def least_cosine(plain: ForwardPass, forward: ForwardPass, images: mx.nd.NDArray) -> float:
    """Cosine of what two passes give for an image, its mean over the images: the least output's.

    Of feature maps, the means over the positions are compared.
    """
    cosines = []
    for number in range(len(plain.output_shapes)):
        one, other = (each(images).values(number) for each in (plain, forward))
        one, other = (v.reshape(*v.shape[:2], -1).mean(axis=2) for v in (one, other))
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines.append(np.mean(np.sum(one * other, axis=1) / np.maximum(norms, 1e-12)))
    return float(np.min(cosines))


def in_int8(network, arg_params, aux_params, pixels, sample):
    """The network in int8, and its parameters; see ForwardPass, and one_pass_normalisation.

    The weights of each layer become 8-bit integers, and so do its outputs, by the range of their
    values on the sample. MXNet's own `contrib.quantization` does it; its collector of these ranges
    takes five times as long.
    """
    network = replaced(network, "rgb_normalised", mx.sym.Variable("data"))
    args, auxs = params_of(network, arg_params, aux_params)
    network = network.get_backend_symbol("MKLDNN_QUANTIZE")
    options = {"calib_mode": "naive", "quantized_dtype": "auto", "logger": None}
    convolutions = [node.name for node in Graph(network).nodes if node.op == "_sg_mkldnn_conv"]
    quantised, _, _, collector = mx.contrib.quantization.quantize_graph(
        network, args, auxs, quantize_mode="smart",
        excluded_sym_names=convolutions[:len(convolutions) // FLOAT_SHARE], **options)
    layers = network.get_internals()
    names = [name for name in layers.list_outputs() if name in collector.include_layer]
    executor = mx.sym.Group([layers[name] for name in names])(data=pixels).simple_bind(
        mx.cpu(), grad_req="null", data=(1, *sample.shape[1:]), type_dict={"data": sample.dtype})
    executor.copy_params_from(args, auxs, allow_extra_params=True)
    ranges = []  # of each image and layer
    for number in range(len(sample)):
        outputs = executor.forward(is_train=False, data=sample[number:number + 1])
        ranges.append([(v.min(), v.max()) for v in (output.asnumpy() for output in outputs)])
    least, most = np.min(ranges, axis=0)[:, 0].tolist(), np.max(ranges, axis=0)[:, 1].tolist()
    collector.min_max_dict = dict(zip(names, zip(least, most)))
    quantised, args, auxs = mx.contrib.quantization.calib_graph(
        quantised, args, auxs, collector, **options)
    return quantised.get_backend_symbol("MKLDNN_QUANTIZE")(data=pixels), args, auxs


def multiplies_exactly() -> bool:
    """Whether this processor adds products of 8-bit integers without saturating at 16 bits.

    Those without VNNI add them in 16 bits in oneDNN, MXNet's library for CPUs.
    """
    data, weight = mx.nd.full((4, 64), 255, dtype="uint8"), mx.nd.full((16, 64), 127, dtype="int8")
    ranges = zip(("min_data", "max_data", "min_weight", "max_weight"), (0, 255, -127, 127))
    try:
        total = mx.nd.contrib.quantized_fully_connected(
            data, weight, num_hidden=16, no_bias=True, bias=None, min_bias=None, max_bias=None,
            **{name: mx.nd.array([value]) for name, value in ranges})[0].asnumpy()
    except mx.MXNetError:  # this MXNet has no such operator
        return False
    return bool(total[0, 0] == 64 * 255 * 127)


def multiplications(symbol, image_shape) -> int:
    """How many the convolutions and fully connected layers of a network take for one image."""
    shapes = layer_shapes(symbol, image_shape)
    return sum(math.prod(shapes[node.name + "_output"])
               * math.prod(shapes.get(node.input(1).name, (0,))[1:])
               for node in Graph(symbol).nodes if node.op in ("Convolution", "FullyConnected"))


def without_loss(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """The network up to its probabilities, which CrossEntropyLoss would only pass on."""
    return symbol.get_children()[0] if Graph(symbol).output.op == "Custom" else symbol


def in_float32(net: mx.sym.Symbol, arg_params: checkpoint.Params,
               aux_params: checkpoint.Params) -> checkpoint.Network:
    """The same network and parameters with float32 in place of float16.

    MXNet has no float16 convolution for the CPU, and its exporter writes none.
    """
    graph = Graph(net)
    for node in graph.nodes:
        if node.is_variable and node.attrs.get("__dtype__") == "2":  # MXNet's number of float16
            del node.attrs["__dtype__"]
        elif node.attrs.get("dtype") == "float16":
            node.attrs["dtype"] = "float32"
    params = ({name: value.astype(np.float32, copy=False) for name, value in params.items()}
              for params in (arg_params, aux_params))
    return (graph.symbol(), *params)
