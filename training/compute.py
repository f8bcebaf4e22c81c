"""What computes a run: devices, key-value store, workers, and whether memory and disk suffice."""
import contextlib
import logging
import math
import os
import shutil
from typing import Any, NamedTuple

import numpy as np

from common.cli import InputError
from common.machine import available_memory
from common.mx_compat import choose_devices, mx
from multilabel_metric import Metrics
from network.graph import Graph
from reading.image_list import SampleList
from reading.lst_file import read_lst

logger = logging.getLogger("train_multilabel")

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async",
            "dist_device_async")
# Measured peaks of training (resident memory, ResNets, MobileNet, SqueezeNet, VGG) were 0.75 to
# 2.4 times what the outputs of the trained layers take.
LEAST_SHARE = 0.75
IMAGE_BATCHES = 4  # one in use, one being filled, and two ahead


class Alone:
    """The only worker of a run, with the methods of distributed.workers.Workers."""

    rank, count, synchronous = 0, 1, True

    def gather(self, arrays):
        return [arrays]

    def broadcast(self, arrays):
        return arrays

    def sum(self, values):
        return np.array(values, np.float64)

    def merge_params(self, module):
        pass

    def read_list(self, path, folder, num_classes=None, label_format="multi-hot"):
        return SampleList(read_lst(path, num_classes, label_format), folder)

    def metrics(self, metrics):
        return Metrics(metrics)


class Compute(NamedTuple):
    """What computes: this worker's contexts, the kvstore that Module.fit takes, all workers."""

    contexts: list
    kvstore: Any
    workers: Any = Alone()


@contextlib.contextmanager
def open_compute(flags):
    """The Compute of a run, until the block ends; an InputError says which flag does not suit."""
    contexts = choose_devices(flags.gpus)
    if flags.dtype == "float16" and contexts[0].device_type == "cpu":
        raise InputError("needs a GPU: MXNet has no float16 convolution for CPUs",
                         flag="--dtype float16")
    kind = flags.kv_store
    if kind not in KVSTORES:  # MXNet would create a local one
        raise InputError(f"there are {', '.join(KVSTORES)}", flag=f"--kv-store {kind}")
    if "dist" in kind or os.environ.get("DMLC_ROLE") == "worker":
        from distributed.workers import open_worker  # which most runs do not need
        with open_worker(kind) as (kvstore, workers):
            yield Compute(contexts, kvstore, workers)
        return
    if flags.gc_type != "none" and len(contexts) == 1:
        raise InputError("compresses what several devices or machines send each other, but this "
                         "run has one device", flag=f"--gc-type {flags.gc_type}")
    try:
        mx.kvstore.create(kind)
    except mx.MXNetError as error:
        # The reason is the last line, after the place in MXNet's code.
        raise InputError(str(error).strip().splitlines()[-1], flag=f"--kv-store {kind}") from None
    try:
        yield Compute(contexts, kind)
    finally:
        # At exit MXNet stops the threads of custom operators, and then waits for their results.
        with contextlib.suppress(mx.MXNetError):
            mx.nd.waitall()


def check_limits(settings, network, compute):
    """Raise an InputError if memory or disk do not suffice; warn if the disk may not.

    What a run takes is estimated; only those are refused that surely take more than there is.
    """
    flags = settings.flags
    if flags.num_epoch and compute.contexts[0].device_type == "cpu":
        check_memory(network.symbol, settings.batch_size, settings.image_shape, settings.frozen)
    if compute.workers.rank == 0:
        kept = flags.num_epoch // flags.save_period + 1
        warning = check_disk(flags.save_result, {**network.arg_params, **network.aux_params},
                             min(kept, flags.keep) if flags.keep else kept)
        if warning:
            logger.warning("warning: %s", warning)


def check_memory(symbol, batch_size, image_shape, frozen, available=None):
    """Raise an InputError if training surely takes more memory than there is.

    `symbol` is the network, loss included; `image_shape` is (3, height, width). Layers before the
    first parameter that is not among the names `frozen` keep nothing for the backward pass.
    `available` is in bytes; default: what the machine has free and the container may take.
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
