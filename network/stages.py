"""The stages of a network, and the network from the end of one on."""
from __future__ import annotations

import math
from typing import Sequence

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from network.fine_tune import split_head
from network.graph import Graph, replaced

FEATURES = "features"
LARGE_IMAGE = 100_000  # pixels
WIDER = 4  # times as many channels as the narrowest layer of a stage: of ResNets the last layers


def find_stages(symbol: mx.sym.Symbol,
                image_shape: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
    """The last layer of each stage but the head's, and its shape (channels, height, width).

    A stage is a run of layers of one resolution. Its last layer is the last one on every path; a
    next stage that begins by adding channels before it reduces the resolution (as inverted
    residuals do) does not count.
    """
    backbone = split_head(symbol)[0]
    layers = backbone.get_internals()
    with mxnet_errors(f"the network does not work on images of {image_shape}"):
        _, shapes, _ = layers.infer_shape(data=(1, *image_shape))
    shapes = dict(zip(layers.list_outputs(), shapes))
    nodes = Graph(backbone).nodes
    last_use = {source: number for number, node in enumerate(nodes)
                for source, *_ in node.inputs}
    stages, open_until = [], 0
    for number, node in enumerate(nodes):
        if node.is_variable and node.name != "data":
            continue  # a parameter
        # Nothing before this layer is used after it.
        alone, open_until = open_until <= number, max(open_until, last_use.get(node, number))
        shape = shapes.get(node.name + "_output", ())[1:]
        if (not alone or len(shape) != 3 or shape[1:] == (1, 1)
                or node.name.startswith(("rgb_", "data"))):
            continue
        if not stages or stages[-1][0][1][1:] != shape[1:]:
            stages.append([])
        stages[-1].append((node.name, shape))
    return [[layer for layer in stage
             if layer[1][0] <= WIDER * min(shape[0] for _, shape in stage)][-1]
            for stage in stages]


def automatic_stages(symbol: mx.sym.Symbol, image_shape: Sequence[int]) -> int:
    """How many stages --freeze-stages auto freezes: 3, and 4 for images of over 100,000 pixels.

    On photos of 480x320 pixels 4 were as good as 3, in half of the time and memory; on drawings of
    128x128 pixels 3 were better. The last stage is always trained; transformers have none.
    """
    stages = 4 if math.prod(image_shape[1:]) > LARGE_IMAGE else 3
    return max(min(stages, len(find_stages(symbol, image_shape)) - 1), 0)


def find_last_frozen_layer(symbol: mx.sym.Symbol, image_shape: Sequence[int],
                           frozen_stages: int) -> str:
    """Name of the last layer of the first `frozen_stages` stages; at least one stage must follow.

    An InputError says how many stages the network has.
    """
    stages = find_stages(symbol, image_shape)
    if frozen_stages >= len(stages):
        shapes = ", ".join("x".join(map(str, shape)) for _, shape in stages) or "none"
        raise InputError(f"the network has {len(stages)} stages ({shapes}), of which the last is "
                         "left to train", flag=f"--freeze-stages {frozen_stages}")
    return stages[frozen_stages - 1][0]


def layers_after(symbol: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
    """The network after layer `name`, in whose place is the input `features`, of any float type."""
    return replaced(symbol, name, mx.sym.Cast(mx.sym.Variable(FEATURES), dtype="float32"))
