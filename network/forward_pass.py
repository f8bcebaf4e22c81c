"""A network bound for nothing but its outputs: for prediction, and for features to store.

    forward = ForwardPass(network, arg_params, aux_params, batches.provide_data[0], [mx.cpu()])
    for batch in batches:
        outputs = forward(batch.data[0], batch_size - batch.pad)  # computed in the background
        print(outputs.values().shape)
"""
import json

import numpy as np

from common.mx_compat import mx
from network import checkpoint

# Pixels that go through the network at a time on a CPU: 8 images of 224x224. What its layers hand
# to each other then mostly stays in the processor's caches.
PIECE_PIXELS = 8 * 224 * 224


class ForwardPass:
    """A network that takes batches of images.

    Parameters
    ----------
    network : mx.sym.Symbol
        Takes raw pixels as `data`; its output is (batch, values).
    arg_params, aux_params : dict of str to mx.nd.NDArray
        There may be more than it needs.
    data : mx.io.DataDesc
        Of the batches, uint8 (batch, 3, height, width).
    devices : list of mx.Context
        GPUs share each batch. On a CPU it goes through in pieces, which is faster.
    """

    def __init__(self, network, arg_params, aux_params, data, devices):
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
        self.num_values = self._module.output_shapes[0][1][1]

    def __call__(self, data, count=None, mirror=False):
        """Begin to compute the outputs of a batch.

        Parameters
        ----------
        data : mx.nd.NDArray
        count : int, optional
            Only the first so many images matter; 0 where a batch holds nothing but padding.
        mirror : bool
            Of the mirror image, left to right.

        Returns
        -------
        Outputs
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
            # A copy, because the next forward overwrites the output.
            pieces.append((first, self._module.get_outputs()[0].copy()))
        return Outputs(pieces, (count, self.num_values))


class Outputs:
    """Outputs of a batch's first images, which may still be being computed."""

    def __init__(self, pieces, shape):
        self._pieces, self._shape = pieces, shape

    def values(self):
        """Wait for them: np.ndarray, (count, values), float32."""
        values = np.empty(self._shape, np.float32)
        for first, piece in self._pieces:
            values[first:first + len(piece)] = piece.asnumpy()[:len(values) - first]
        return values


def with_one_pass_normalisation(network, arg_params):
    """The same network, which takes mean and deviation off its pixels in one pass, not in two."""
    mean, std = (tuple(arg_params[name].asnumpy().ravel().tolist())
                 for name in checkpoint.CONSTANTS)
    pixels = mx.sym.image.normalize(mx.sym.Cast(mx.sym.Variable("data"), dtype="float32"),
                                    mean, std)
    return checkpoint.with_layer(json.loads(network.tojson()), "rgb_normalised", pixels)
