"""Random graphs of layers that fit together as far as MXNet's shape inference goes.

    write_checkpoint(random.Random(7), "folder/net")

Each layer takes earlier layers or new parameters as any of its inputs, gamma and beta included.
"""
import contextlib
import io
import json
import warnings

import numpy as np

from common.mx_compat import mx
from network import checkpoint
from network.untrusted.symbols import NUM_INPUTS

SHAPE = (3, 8, 8)
# What suits an attribute that an operator needs, or that changes its shapes. Others are left out.
ATTRIBUTES = {
    "Activation": {"act_type": ["relu", "sigmoid", "tanh"]}, "Cast": {"dtype": ["float32"]},
    "BatchNorm": {"axis": ["1", "2", "-1"], "fix_gamma": ["True", "False"]},
    "Convolution": {"kernel": ["(1, 1)", "(3, 3)"], "pad": ["(1, 1)", "(0, 0)"],
                    "num_filter": ["3", "4", "8"], "no_bias": ["False", "True"]},
    "Deconvolution": {"kernel": ["(2, 2)"], "stride": ["(1, 1)", "(2, 2)"], "num_filter": ["4"],
                      "no_bias": ["False", "True"]},
    "FullyConnected": {"num_hidden": ["3", "8"], "flatten": ["True", "False"],
                       "no_bias": ["False", "True"]},
    "GroupNorm": {"num_groups": ["1", "2", "3", "4"]}, "LayerNorm": {"axis": ["-1", "1", "2"]},
    "L2Normalization": {"mode": ["instance", "channel", "spatial"]}, "LRN": {"nsize": ["3"]},
    "LeakyReLU": {"act_type": ["leaky", "prelu", "elu", "gelu"]},
    "Pad": {"mode": ["constant", "edge"], "pad_width": ["(0, 0, 0, 0, 1, 1, 1, 1)"]},
    "Pooling": {"kernel": ["(2, 2)"], "stride": ["(1, 1)", "(2, 2)"],
                "pool_type": ["max", "avg"], "global_pool": ["False", "True"]},
    "Reshape": {"shape": ["(0, -1)", "(-1,)", "(0, -1, 1, 1)", "(-3, 0, 0)", "(0, 0, -1)"]},
    "SliceChannel": {"num_outputs": ["1", "2"], "squeeze_axis": ["False"]},
    "SwapAxis": {"dim1": ["1", "0"], "dim2": ["2", "3"]},
    "UpSampling": {"scale": ["2"], "sample_type": ["nearest", "bilinear"]},
    "_contrib_AdaptiveAvgPooling2D": {"output_size": ["(4, 4)", "1"]},
    "_contrib_BilinearResize2D": {"height": ["4"], "width": ["8"]},
    "_image_normalize": {"mean": ["(0, 0, 0)"], "std": ["(1, 1, 1)"]},
    "broadcast_axis": {"axis": ["1"], "size": ["4"]}, "clip": {"a_min": ["0"], "a_max": ["6"]},
    "broadcast_to": {"shape": ["(0, 0, 8, 8)"]}, "concat": {"dim": ["1", "0", "2"]},
    "Concat": {"dim": ["1", "0", "2"]}, "expand_dims": {"axis": ["1", "2"]},
    "batch_dot": {"transpose_b": ["True", "False"]}, "dot": {"transpose_b": ["True", "False"]},
    "depth_to_space": {"block_size": ["2"]}, "space_to_depth": {"block_size": ["2"]},
    "repeat": {"repeats": ["2"], "axis": ["1"]}, "reverse": {"axis": ["1"]},
    "tile": {"reps": ["(1, 2, 1, 1)"]}, "stack": {"axis": ["1"]},
    "slice": {"begin": ["(0, 0)"], "end": ["(None, 2)"]},
    "slice_axis": {"axis": ["1", "2"], "begin": ["0"], "end": ["2", "None"]},
    "transpose": {"axes": ["(0, 2, 3, 1)", "()"]}, "squeeze": {"axis": ["1", "2"]},
    **{name: {"axis": ["1", "(2, 3)", "0", "-1"], "keepdims": ["True", "False"]}
       for name in ("max", "mean", "min", "norm", "prod", "sum")},
    **{name: {"axis": ["1", "-1"]} for name in ("softmax", "log_softmax", "softmin")},
    **{name: {"scalar": ["2"]} for name in NUM_INPUTS if name.lower().endswith("scalar")}}
PARAMETER_TAKERS = (  # or takers of another shape: chosen more often
    "BatchNorm", "BatchNorm_v1", "Convolution", "Deconvolution", "FullyConnected", "GroupNorm",
    "InstanceNorm", "LayerNorm", "LeakyReLU", "_contrib_SyncBatchNorm", "broadcast_like",
    "reshape_like", "slice_like", "where")
OTHERS = sorted(set(NUM_INPUTS) - {"Custom", "Crop"})


def infer(nodes, heads):
    """The symbol and what MXNet infers for a batch of 2; None where the layers do not fit."""
    graph = {"nodes": nodes, "heads": heads, "attrs": {"mxnet_version": ["int", 10901]},
             "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"]}
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            symbol = mx.sym.load_json(json.dumps(graph))
            return symbol, symbol.infer_shape(data=(2, *SHAPE))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return None


def with_random_layer(draw, nodes, outputs):
    """The nodes, a layer that takes some of the outputs, and its new parameters."""
    op = draw.choice(PARAMETER_TAKERS if draw.random() < 0.4 else OTHERS)
    least, most = NUM_INPUTS[op]
    attrs = {key: draw.choice(values) for key, values in ATTRIBUTES.get(op, {}).items()
             if draw.random() < 0.9}
    nodes, inputs, favourite = [*nodes], [], draw.choice(outputs)
    for place in range(draw.randint(least, min(most, 3))):
        turn = draw.random()
        if place == 0 or turn < 0.45:
            inputs.append(draw.choice(outputs[-4:]))
        elif turn < 0.65:
            inputs.append(favourite)
        else:
            inputs.append(append(nodes, "null", f"v{len(nodes)}"))
    if "no_bias" in attrs:
        attrs["no_bias"] = str(len(inputs) < 3)
    if most == 1000:
        attrs["num_args"] = str(len(inputs))
    append(nodes, op, f"n{len(nodes)}", inputs, **attrs)
    return nodes


def append(nodes, op, name, inputs=(), **attrs):
    """Append a node; returns its first output."""
    nodes.append({"op": op, "name": name, "attrs": attrs, "inputs": [*inputs]})
    return [len(nodes) - 1, 0, 0]


def append_head(nodes, outputs):
    """Append a classifier on the mean, for each image, of every layer that no other one takes."""
    used = {source for node in nodes for source, *_ in node["inputs"]}
    means = []
    for output in outputs:
        if output[0] not in used:
            flat = append(nodes, "Flatten", f"flat{len(nodes)}", [output])
            means.append(append(nodes, "mean", f"mean{len(nodes)}", [flat], axis="1",
                                keepdims="True"))
    joined = append(nodes, "Concat", "joined", means, num_args=str(len(means)), dim="1")
    weights = [append(nodes, "null", name) for name in ("fc_weight", "fc_bias")]
    logits = append(nodes, "FullyConnected", "fc", [joined, *weights], num_hidden="3")
    return append(nodes, "sigmoid", "sig", [logits])


def write_checkpoint(draw, prefix):
    """Write PREFIX-symbol.json and PREFIX-0002.params of a random network."""
    pixels, constants = checkpoint.normalised_data((127,) * 3, (128,) * 3)
    net = mx.sym.Convolution(pixels, num_filter=4, kernel=(3, 3), pad=(1, 1), name="conv")
    nodes = json.loads(net.tojson())["nodes"]
    outputs, wanted = [[len(nodes) - 1, 0, 0]], len(nodes) + draw.randint(2, 12)
    for _ in range(60):
        more = with_random_layer(draw, nodes, outputs)
        output = [len(more) - 1, 0, 0]
        found = infer(more, [*outputs, output])
        if found and found[1][1] and all(found[1][1]):
            nodes = more
            outputs.append(output)
        if len(nodes) >= wanted:
            break
    next(node for node in nodes if node["name"] == "data")["attrs"] = {
        "__rgb_image_shape__": json.dumps(SHAPE), "__rgb_class_names__": '["a", "b", "c"]'}
    head = append_head(nodes, outputs)
    found = infer(nodes, [head])
    if not found or not found[1][0]:
        found = infer(nodes, outputs)  # without the head, to be refused
    symbol, (shapes, _, aux_shapes) = found
    random = np.random.RandomState(draw.randrange(1000))
    arg_params = {name: mx.nd.array(random.normal(0, 0.5, shape))
                  for name, shape in zip(symbol.list_arguments(), shapes)
                  if name != "data" and min(shape, default=0) > 0}
    aux_params = {name: mx.nd.array(random.uniform(0.5, 1, shape))
                  for name, shape in zip(symbol.list_auxiliary_states(), aux_shapes)}
    checkpoint.save(prefix, 2, symbol, {**arg_params, **constants}, aux_params)
