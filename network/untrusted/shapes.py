"""Whether a network works on images of a size, with its parameters and a sensible amount of memory.
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
                 aux_params: Mapping[str, Any], image_shape: Sequence[int], file: str,
                 largest_layer: float = LARGEST_LAYER) -> tuple[int, ...]:
    """Check shapes and types of all layers and parameters, without computing anything.

    Returns the shape of the network's first output, without the batch. An InputError, about
    `file`, is raised when the network does not work on images of this shape (3, height, width), a
    parameter has another shape, or the image or a layer has more than `largest_layer` values
    (math.inf where the user chose the size). There may be fewer or more parameters than the network
    has.
    """
    layers = symbol.get_internals()
    raw = "rgb_mean" in symbol.list_arguments()
    what = f"the network does not work on images of {list(image_shape)}"
    # infer_shape prints the shapes given before it raises.
    with mxnet_errors(what, file), contextlib.redirect_stdout(io.StringIO()):
        shapes, outputs, aux_shapes = layers.infer_shape(data=(IMAGES, *image_shape))
        if shapes is None:
            raise InputError("shapes of the network's layers do not follow from its input's",
                             file=file)
        if layers.infer_type(data=np.uint8 if raw else np.float32)[0] is None:
            raise InputError("types of the network's layers do not follow from its input's",
                             file=file)
    known = [*zip(symbol.list_arguments(), shapes),
             *zip(symbol.list_auxiliary_states(), aux_shapes)]
    for name, shape in known:
        value = arg_params.get(name, aux_params.get(name))
        # A label that was saved among the parameters is not used.
        if value is not None and not name.endswith("label") and value.shape != shape:
            raise InputError(f"{what}: {name} is {value.shape}, but has to be {shape}; is it "
                             "another network's?", file=file)
    graph, sizes = Graph(layers), [0.0]
    shapes = {(node, number): shape for (node, number, *_), shape in zip(graph.outputs, outputs)}
    for (node, _), shape in shapes.items():
        if not node.is_variable or node.name == "data":
            sizes.append(math.prod(shape) / IMAGES if min(shape, default=1) > 0 else math.inf)
        if node.op in SOFTMAXES:  # MXNet checks their axis only when it computes
            axis = int(node.attrs.get("axis", -1))
            if not -len(shape) <= axis < len(shape):
                raise InputError(f"{what}: {node.name} has {len(shape)} dimensions, and no axis "
                                 f"{axis}", file=file)
        if node.op == "where":  # MXNet divides by the ratio of the sizes, and may read beyond them
            condition = shapes[node.inputs[0][:2]]
            if condition not in (shape, shape[:1]):
                raise InputError(f"{what}: the condition of {node.name} is {condition}, but has to "
                                 f"be {shape} or {shape[:1]}", file=file)
    if max(sizes) > largest_layer or sum(sizes) > LARGEST_LAYERS * largest_layer:
        raise InputError(f"{what}: the largest layer has {max(sizes):.3g} values per image, and "
                         f"all layers together {sum(sizes):.3g}; at most {largest_layer:.3g} and "
                         f"{LARGEST_LAYERS * largest_layer:.3g} are allowed", file=file)
    _check_overwritten(graph, shapes, what, file)
    with mxnet_errors(what, file), contextlib.redirect_stdout(io.StringIO()):
        images, *shape = symbol.infer_shape(data=(1, *image_shape))[1][0] or [0]
    if images != 1:
        raise InputError(f"{what}: it gives {images} rows for one image", file=file)
    return tuple(shape)


def _check_overwritten(graph, shapes, what, file):
    """Check the shapes of layers that are another layer's second input or a later one.

    Some operators, GroupNorm and InstanceNorm for instance, replace what MXNet has inferred of such
    a layer by what they want as gamma, and then write beyond the end of its memory. So the shape
    is inferred again from the layer's own inputs.
    """
    for node, number in {(source, number) for user in graph.nodes
                         for source, number, *_ in user.inputs[1:] if not source.is_variable}:
        names = [f"input{place}" for place in range(len(node.inputs))]
        alone = Graph(mx.sym.Variable("unused"))
        alone.outputs = [(Node(node.op, node.name, [Node("null", name) for name in names],
                               **node.attrs), number, 0)]
        with mxnet_errors(what, file), contextlib.redirect_stdout(io.StringIO()):
            symbol = alone.symbol()
            given = {name: shapes[source, place] for name, (source, place, *_)
                     in zip(names, node.inputs) if name in symbol.list_arguments()}
            _, found, _ = symbol.infer_shape_partial(**given)
        if found != [shapes[node, number]]:
            raise InputError(f"{what}: {node.name} gives {found[0]}, but what takes it wants "
                             f"{shapes[node, number]}", file=file)
