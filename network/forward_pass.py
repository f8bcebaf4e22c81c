"""A network bound for inference only: for prediction, and for features to store.

    forward = ForwardPass(network, arg_params, aux_params, batches.provide_data[0], [mx.cpu()])
    for batch in batches:
        outputs = forward(batch.data[0], batch_size - batch.pad)  # computed in the background
        print(outputs.values().shape)
"""
from __future__ import annotations

from typing import Sequence

import numpy as np

from common.mx_compat import mx
from network import checkpoint
from network.graph import replaced

# Pixels per piece of a batch on a CPU: 8 images of 224x224. The activations then mostly stay in the
# processor's caches.
PIECE_PIXELS = 8 * 224 * 224


class ForwardPass:
    """Computes the outputs, (batch, ...), of a network that takes raw pixels as `data`.

    Parameters
    ----------
    network : mx.sym.Symbol
        With one output or several (mx.sym.Group).
    arg_params, aux_params : dict of str to mx.nd.NDArray
        May hold more parameters than the network has.
    data : mx.io.DataDesc
        Description of the batches, uint8 (batch, 3, height, width).
    devices : list of mx.Context
        Several GPUs share each batch. On a CPU a batch is divided into pieces, which is faster.

    The attribute `output_shape` is that of the first output of one image.
    """

    def __init__(self, network: mx.sym.Symbol, arg_params: checkpoint.Params,
                 aux_params: checkpoint.Params, data: mx.io.DataDesc,
                 devices: Sequence[mx.Context]) -> None:
        batch_size, *shape = data.shape
        self._piece = batch_size
        if devices[0].device_type == "cpu":
            most = max(1, PIECE_PIXELS // (shape[1] * shape[2]))
            self._piece = -(-batch_size // -(-batch_size // most))
        network = with_one_pass_normalisation(network, arg_params)
        self._module = mx.mod.Module(network, label_names=None, context=devices[:self._piece])
        self._module.bind([mx.io.DataDesc("data", (self._piece, *shape), data.dtype)],
                          for_training=False)
        self._module.set_params(arg_params, aux_params, allow_extra=True)
        self._shapes = [tuple(shape[1:]) for _, shape in self._module.output_shapes]
        self.output_shape = self._shapes[0]

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
        return Outputs(pieces, [(count, *shape) for shape in self._shapes])


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


def with_one_pass_normalisation(network, arg_params):
    """The same network, which normalises its pixels in one pass over memory instead of two."""
    mean, std = (tuple(arg_params[name].asnumpy().ravel().tolist())
                 for name in checkpoint.NORMALISATION)
    pixels = mx.sym.image.normalize(mx.sym.Cast(mx.sym.Variable("data"), dtype="float32"),
                                    mean, std)
    return replaced(network, "rgb_normalised", pixels)
