"""Whether memory and disk suffice for a run, asked before it begins.

What a run takes is estimated; only those are refused that surely take more than there is.
"""
import logging
import math
import os
import shutil

import numpy as np

from common.cli import InputError
from common.machine import available_memory
from network.graph import Graph

logger = logging.getLogger("train_multilabel")

# Measured peaks of training (resident memory, ResNets, MobileNet, SqueezeNet, VGG) were 0.75 to
# 2.4 times what the outputs of the trained layers take.
LEAST_SHARE = 0.75
IMAGE_BATCHES = 4  # one in use, one being filled, and two ahead


def check_limits(settings, network, compute):
    """Raise an InputError if memory or disk do not suffice; warn if the disk may not."""
    flags = settings.flags
    if flags.num_epoch and compute.contexts[0].device_type == "cpu":
        check_memory(network.symbol, settings.batch_size, settings.image_shape, settings.frozen)
    if compute.workers.rank == 0:
        kept = flags.num_epoch // flags.save_period + 1
        warning = check_disk(flags.save_result, {**network.arg_params, **network.aux_params},
                             min(kept, flags.keep) if flags.keep else kept)
        if warning:
            logger.warning("warning: %s", warning)


def choose_batch_size(batch_size, num_rows, num_workers=1):
    """The batch size of each worker, at most its share of the rows, and lines for the log."""
    most = -(-num_rows // num_workers)
    if batch_size <= most:
        return batch_size, []
    return most, [f"Batch size {most}, not {batch_size}: there are no more images"]


def check_memory(symbol, batch_size, image_shape, frozen, available=None):
    """Raise an InputError if training surely takes more memory than there is.

    Parameters
    ----------
    symbol : mx.sym.Symbol
        The network, loss included, whose input `data` are batches of pixels.
    batch_size : int
    image_shape : sequence of int
        (3, height, width).
    frozen : collection of str
        Names of the parameters that are not trained: layers before the first trained one keep
        nothing for the backward pass.
    available : int, optional
        Bytes; default: what the machine has free and the container may take.
    """
    available = available_memory() if available is None else available
    images = IMAGE_BATCHES * math.prod(image_shape)
    needed = images + LEAST_SHARE * _activation_bytes(symbol, image_shape, frozen)
    if needed * batch_size > available:
        most = int(available / needed)
        advice = (f"{most} or less fits" if most else "a smaller --image-shape or more "
                  "--freeze-stages takes less")
        raise InputError(f"{batch_size} images at once take {needed * batch_size / 1e9:.1f} GB or "
                         f"more, and {available / 1e9:.1f} GB of memory are free: {advice}",
                         flag="--batch-size")


def _activation_bytes(symbol, image_shape, frozen):
    """Bytes of one image's outputs of all layers from the first trained one on."""
    layers = symbol.get_internals()
    shapes = dict(zip(layers.list_outputs(), layers.infer_shape(data=(1, *image_shape))[1]))
    fixed = {"data", "softmax_label", *frozen}
    is_trained, total = {}, 0
    for node in Graph(symbol).nodes:
        if node.is_variable:
            is_trained[node] = node.name not in fixed
        else:
            is_trained[node] = any(is_trained[source] for source, *_ in node.inputs)
            # A layer of several outputs, which are rare, counts as none.
            shape = shapes.get(node.name + "_output", (0,))
            total += np.dtype(np.float32).itemsize * math.prod(shape) * is_trained[node]
    return total


def check_disk(folder, parameters, num_checkpoints):
    """Raise an InputError if not even the first epoch's files fit onto the disk of `folder`.

    `parameters` is a dict of the network's arrays, `num_checkpoints` how many checkpoints the run
    keeps. Returns a warning if the whole run may not fit, otherwise None.
    """
    size = sum(math.prod(value.shape) * np.dtype(value.dtype).itemsize
               for value in parameters.values())
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    disk = shutil.disk_usage(folder)
    # A checkpoint, the best one, and a snapshot; in the end two snapshots and one being written,
    # with the optimizer's state.
    least, most = 3 * size, (num_checkpoints + 1 + 3 * 2) * size
    if not disk.total or disk.free >= most:
        return None
    shown = f"{disk.free / 1e6:.0f} MB are free"
    if disk.free < least:
        raise InputError(f"{shown}, and the files of an epoch take {least / 1e6:.0f} MB",
                         file=folder, flag="--save-result")
    return (f"{folder}: {shown}, and {num_checkpoints} checkpoints and the snapshots take up to "
            f"{most / 1e6:.0f} MB: --keep or --save-period keeps fewer")
