"""What computes a run: the contexts, the key-value store, and the workers, mostly one alone.

    with open_compute(flags) as compute:
        total = compute.workers.sum([loss])
"""
import contextlib
import os
from typing import Any, NamedTuple

import numpy as np

from common.cli import InputError
from common.mx_compat import choose_devices, mx
from multilabel_metric import Metrics
from reading.image_list import SampleList
from reading.lst_file import read_lst

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async",
            "dist_device_async")


class Alone:
    """The only worker of a run; distributed.workers.Workers has the same methods for several."""

    rank, count, synchronous = 0, 1, True

    def gather(self, arrays):
        """What all workers pass, a list by rank, at rank 0."""
        return [arrays]

    def broadcast(self, arrays):
        """What rank 0 passes, everywhere."""
        return arrays

    def sum(self, values):
        """The sum of all workers' sequences of numbers, float64."""
        return np.array(values, np.float64)

    def mean(self, params):
        """The mean over all workers of parameters, dict of str to mx.nd.NDArray."""
        return params

    def read_list(self, path, folder, num_classes=None, label_format="multi-hot"):
        """The SampleList of a .lst, with its totals over all workers."""
        return SampleList(read_lst(path, num_classes, label_format), folder)

    def metrics(self, metrics):
        """Metrics over the samples of all workers."""
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
