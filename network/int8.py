"""Networks in int8, which CPUs with instructions for it (VNNI) compute twice as fast as float32.

The weights of each layer become 8-bit integers, and so do its outputs, by the range that they have
on a few images. MXNet's own `contrib.quantization` does it. Without VNNI oneDNN, MXNet's library
for CPUs, adds products of integers in 16 bits, where they saturate.
"""
from __future__ import annotations

import math

import numpy as np

from common.mx_compat import mx
from network.graph import Graph, params_of, replaced


def in_int8(network, arg_params, aux_params, pixels, sample):
    """The network in int8, and its parameters; see ForwardPass, and one_pass_normalisation.

    The range of a layer's integers is that of its values on the sample. MXNet's own collector of
    these takes five times as long.
    """
    network = replaced(network, "rgb_normalised", mx.sym.Variable("data"))
    args, auxs = params_of(network, arg_params, aux_params)
    network = network.get_backend_symbol("MKLDNN_QUANTIZE")
    options = {"calib_mode": "naive", "quantized_dtype": "auto", "logger": None}
    quantised, _, _, collector = mx.contrib.quantization.quantize_graph(
        network, args, auxs, quantize_mode="smart", **options)
    layers = network.get_internals()
    names = [name for name in layers.list_outputs() if name in collector.include_layer]
    float_pass = mx.mod.Module(mx.sym.Group([layers[name] for name in names])(data=pixels),
                               label_names=None)
    float_pass.bind([mx.io.DataDesc("data", (1, *sample.shape[1:]), sample.dtype)],
                    for_training=False)
    float_pass.set_params(args, auxs, allow_extra=True)
    least, most = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for number in range(len(sample)):
        float_pass.forward(mx.io.DataBatch([sample[number:number + 1]]), is_train=False)
        values = [output.asnumpy() for output in float_pass.get_outputs()]
        least = np.minimum(least, [value.min() for value in values])
        most = np.maximum(most, [value.max() for value in values])
    collector.min_max_dict = dict(zip(names, zip(least.tolist(), most.tolist())))
    quantised, args, auxs = mx.contrib.quantization.calib_graph(
        quantised, args, auxs, collector, **options)
    return quantised.get_backend_symbol("MKLDNN_QUANTIZE")(data=pixels), args, auxs


def multiplies_exactly() -> bool:
    """Whether this processor adds products of 8-bit integers without saturating at 16 bits."""
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
    layers = symbol.get_internals()
    _, outputs, _ = layers.infer_shape(data=(1, *image_shape))
    shapes = dict(zip(layers.list_outputs(), outputs))
    return sum(math.prod(shapes[node.name + "_output"])
               * math.prod(shapes.get(node.input(1).name, (0,))[1:])
               for node in Graph(symbol).nodes if node.op in ("Convolution", "FullyConnected"))
