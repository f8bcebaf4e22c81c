"""What computes a run: devices, key-value store, workers, and whether memory and disk suffice."""
import contextlib
import math
import os
import shutil
from typing import Any, NamedTuple

import numpy as np

from common.cli import InputError
from common.machine import available_memory
from common.mx_compat import choose_devices, mx
from multilabel_metric import Metrics
from network.graph import Graph, layer_shapes
from reading.lst_file import SampleList, read_lst

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
    if "dist" in flags.kv_store or os.environ.get("DMLC_ROLE") == "worker":
        from distributed.workers import open_worker  # which most runs do not need
        with open_worker(flags.kv_store, flags.gc_type != "none") as (kvstore, workers):
            yield Compute(contexts, kvstore, workers)
        return
    if flags.gc_type != "none" and len(contexts) == 1:
        raise InputError("compresses what several devices or machines send each other, but this "
                         "run has one device", flag=f"--gc-type {flags.gc_type}")
    try:
        yield Compute(contexts, flags.kv_store)
    finally:
        # At exit MXNet stops the threads of custom operators, and then waits for their results.
        with contextlib.suppress(mx.MXNetError):
            mx.nd.waitall()


def check_limits(settings, network, compute):
    """Raise an InputError if the run surely takes more memory or disk than there is."""
    if settings.flags.num_epoch and compute.contexts[0].device_type == "cpu":
        check_memory(network.symbol, settings.batch_size, settings.image_shape, settings.frozen)
    if compute.workers.rank == 0:
        check_disk(settings.flags.save_result, {**network.arg_params, **network.aux_params})


def check_memory(symbol, batch_size, image_shape, frozen, available=None):
    """Raise an InputError if training surely takes more memory than there is.

    `symbol` is the network, loss included; `image_shape` is (3, height, width). Layers before the
    first parameter that is not among the names `frozen` keep nothing for the backward pass.
    `available` is in bytes; default: what the machine has free and the container may take.
    """
    available = available_memory() if available is None else available
    shapes = layer_shapes(symbol, image_shape)
    fixed = {"data", "softmax_label", *frozen, *symbol.list_auxiliary_states()}
    is_trained, kept = False, 0  # values of one image
    for node in Graph(symbol).nodes:  # each layer comes right after its own parameters
        is_trained |= node.is_variable and node.name not in fixed
        if is_trained:
            # A layer of several outputs, which are rare, counts as none.
            kept += math.prod(shapes.get(node.name + "_output", (0,)))
    needed = (IMAGE_BATCHES * math.prod(image_shape)
              + LEAST_SHARE * np.dtype(np.float32).itemsize * kept)
    if needed * batch_size > available:
        fits = int(available / needed)
        raise InputError(f"{batch_size} images at once take {needed * batch_size / 1e9:.1f} GB or "
                         f"more, and {available / 1e9:.1f} GB of memory are free: "
                         + f"{fits} or less fits; " * bool(fits)
                         + "a smaller --image-shape takes less", flag="--batch-size")


def check_disk(folder, parameters):
    """Raise an InputError if not even the first epoch's files fit onto the disk of `folder`."""
    size = sum(math.prod(value.shape) * np.dtype(value.dtype).itemsize
               for value in parameters.values())
    needed = 3 * size  # a checkpoint, the best one, and a snapshot
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    disk = shutil.disk_usage(folder)
    if disk.free < needed and disk.total:  # which is 0 where a file system does not say
        raise InputError(f"{disk.free / 1e6:.0f} MB are free, and the files of an epoch take "
                         f"{needed / 1e6:.0f} MB", file=folder, flag="--save-result")
