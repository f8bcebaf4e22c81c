"""Whether a network works on images of a size, with its parameters and a sensible amount of memory.

    check_shapes(symbol, arg_params, aux_params, (3, 224, 224), "net-symbol.json")
"""
from __future__ import annotations

import contextlib
import io
import json
import math
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from common.cli import InputError
from common.mx_compat import mx

# Values that one layer may give for one image, and as how many such layers all may count. At
# 1024x1024 pixels VGG-16 gives 67 million in its largest layer, ResNet-152 1.6 billion in all.
LARGEST_LAYER = 1 << 26
LARGEST_LAYERS = 32
IMAGES = 2  # in the batch that shapes are inferred for
SOFTMAXES = ("softmax", "log_softmax", "softmin")


@contextlib.contextmanager
def mxnet_errors(what: str) -> Iterator[None]:
    """Raise an InputError that begins with `what` in place of any error of MXNet's."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        # MXNet chooses the class of an error by its text.
        raise InputError(f"{what}: {error_line(error)}") from None


def error_line(error: BaseException) -> str:
    """What an MXNetError says, without its stack."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Traceback", "  File"))]
    return next((line for line in told if "Error" in line), told[0] if told else str(error))


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
    graph, sizes = json.loads(layers.tojson()), [0.0]
    for (number, *_), shape in zip(graph["heads"], outputs):
        node = graph["nodes"][number]
        if node["op"] != "null" or node["name"] == "data":
            sizes.append(math.prod(shape) / IMAGES if min(shape, default=1) > 0 else math.inf)
        if node["op"] in SOFTMAXES:  # MXNet checks their axis only when it computes
            axis = int(node.get("attrs", {}).get("axis", -1))
            if not -len(shape) <= axis < len(shape):
                raise InputError(f"{does_not_work}: {node['name']} has {len(shape)} dimensions, "
                                 f"and no axis {axis}")
    if max(sizes) > largest_layer or sum(sizes) > LARGEST_LAYERS * largest_layer:
        raise InputError(f"{does_not_work}: the largest layer has {max(sizes):.3g} values per "
                         f"image, and all layers together {sum(sizes):.3g}; at most "
                         f"{largest_layer:.3g} and {LARGEST_LAYERS * largest_layer:.3g} are "
                         "allowed")
    with mxnet_errors(does_not_work), contextlib.redirect_stdout(io.StringIO()):
        images, *shape = symbol.infer_shape(data=(1, *image_shape))[1][0] or [0]
    if images != 1:
        raise InputError(f"{does_not_work}: it gives {images} rows for one image")
    return tuple(shape)
