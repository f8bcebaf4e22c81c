"""Whether a network works on images of a size, with its parameters and a sensible amount of memory.

    check_shapes(symbol, arg_params, aux_params, (3, 224, 224), "net-symbol.json")
"""
from __future__ import annotations

import contextlib
import io
import math
from typing import Any, Mapping, Sequence

import numpy as np

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from network.graph import Graph, Node

# Values that one layer may give for one image, and as how many such layers all may count. At
# 1024x1024 pixels VGG-16 gives 67 million in its largest layer, ResNet-152 1.6 billion in all.
LARGEST_LAYER = 1 << 26
LARGEST_LAYERS = 32
IMAGES = 2  # in the batch that shapes are inferred for
SOFTMAXES = ("softmax", "log_softmax", "softmin")


def check_shapes(symbol: mx.sym.Symbol, arg_params: Mapping[str, Any],
                 aux_params: Mapping[str, Any], image_shape: Sequence[int], source: str,
                 largest_layer: float = LARGEST_LAYER) -> tuple[int, ...]:
    """Check shapes and types of all layers and parameters, without computing anything.

    Returns the shape of the network's first output, without the batch. An InputError, which begins
    with `source`, is raised when the network does not work on images of this shape (3, height,
    width), a parameter has another shape, or the image or a layer has more than `largest_layer`
    values (math.inf where the user chose the size). There may be fewer or more parameters than the
    network has.
    """
    layers = symbol.get_internals()
    raw = "rgb_mean" in symbol.list_arguments()
    does_not_work = f"{source}: the network does not work on images of {list(image_shape)}"
    # infer_shape prints the shapes given before it raises.
    with mxnet_errors(does_not_work), contextlib.redirect_stdout(io.StringIO()):
        shapes, outputs, aux_shapes = layers.infer_shape(data=(IMAGES, *image_shape))
        if shapes is None:
            raise InputError(f"{source}: shapes of the network's layers do not follow from its "
                             "input's")
        if layers.infer_type(data=np.uint8 if raw else np.float32)[0] is None:
            raise InputError(f"{source}: types of the network's layers do not follow from its "
                             "input's")
    known = [*zip(symbol.list_arguments(), shapes),
             *zip(symbol.list_auxiliary_states(), aux_shapes)]
    for name, shape in known:
        value = arg_params.get(name, aux_params.get(name))
        # A label that was saved among the parameters is not used.
        if value is not None and not name.endswith("label") and value.shape != shape:
            raise InputError(f"{does_not_work}: {name} is {value.shape}, but has to be {shape}; is "
                             "it another network's?")
    graph, sizes = Graph(layers), [0.0]
    for (node, *_), shape in zip(graph.outputs, outputs):
        if not node.is_variable or node.name == "data":
            sizes.append(math.prod(shape) / IMAGES if min(shape, default=1) > 0 else math.inf)
        if node.op in SOFTMAXES:  # MXNet checks their axis only when it computes
            axis = int(node.attrs.get("axis", -1))
            if not -len(shape) <= axis < len(shape):
                raise InputError(f"{does_not_work}: {node.name} has {len(shape)} dimensions, "
                                 f"and no axis {axis}")
    if max(sizes) > largest_layer or sum(sizes) > LARGEST_LAYERS * largest_layer:
        raise InputError(f"{does_not_work}: the largest layer has {max(sizes):.3g} values per "
                         f"image, and all layers together {sum(sizes):.3g}; at most "
                         f"{largest_layer:.3g} and {LARGEST_LAYERS * largest_layer:.3g} are "
                         "allowed")
    _check_overwritten(graph, outputs, does_not_work)
    with mxnet_errors(does_not_work), contextlib.redirect_stdout(io.StringIO()):
        images, *shape = symbol.infer_shape(data=(1, *image_shape))[1][0] or [0]
    if images != 1:
        raise InputError(f"{does_not_work}: it gives {images} rows for one image")
    return tuple(shape)


def _check_overwritten(graph, shapes, does_not_work):
    """Check the shapes of layers that are another layer's second input or a later one.

    Some operators, GroupNorm and InstanceNorm for instance, replace what MXNet has inferred of such
    a layer by what they want as gamma, and then write beyond the end of its memory. So the shape
    is inferred again from the layer's own inputs.
    """
    shapes = {(node, number): shape for (node, number, *_), shape in zip(graph.outputs, shapes)}
    for node, number in {(source, number) for user in graph.nodes
                         for source, number, *_ in user.inputs[1:] if not source.is_variable}:
        names = [f"input{place}" for place in range(len(node.inputs))]
        alone = Graph(mx.sym.Variable("unused"))
        alone.outputs = [(Node(node.op, node.name, [Node("null", name) for name in names],
                               **node.attrs), number, 0)]
        with mxnet_errors(does_not_work), contextlib.redirect_stdout(io.StringIO()):
            symbol = alone.symbol()
            given = {name: shapes[source, place] for name, (source, place, *_)
                     in zip(names, node.inputs) if name in symbol.list_arguments()}
            _, (shape,), _ = symbol.infer_shape(**given)
        if shape != shapes[node, number]:
            raise InputError(f"{does_not_work}: {node.name} gives {shape}, but what takes it wants "
                             f"{shapes[node, number]}")
