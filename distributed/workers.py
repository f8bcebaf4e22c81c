"""One of the several workers of a run: its process, its lists and metrics, and what all share.

MXNet's parameter server sums gradients. What else the workers share (metrics, running statistics,
a request to stop) it would sum, compress or take for gradients too. So this goes over connections
of all workers to one of them. A worker that ends breaks its connection, and the others notice at
once, where MXNet's own calls would wait for ever.
"""
import contextlib
import copy
import os
import socket
import sys
import time
import traceback

import numpy as np

from common.cli import MAY_PASS, InputError, run
from common.mx_compat import mx
from distributed.connections import LostWorker, connect_workers, time_to_connect, watch_network
from multilabel_metric import Metrics
from reading.lst_file import SampleList, read_lst

RANK = "{rank}"
# The worker that failed reports its error before those that only lost the connection to it.
SECONDS_BEFORE_REPORTING_LOSS = 1.0


@contextlib.contextmanager
def open_worker(kind, compresses):
    """The kvstore of this kind, which may compress, and all Workers, until the block ends.

    After an error the process ends here, without Python's cleaning up, which would destroy the
    kvstore, and that waits until all other workers do the same, while they may be waiting for this
    one.
    """
    try:
        with time_to_connect():
            kv = create_kvstore(kind, compresses)
            workers = Workers(kv)
        with workers:
            yield kv, workers
    except BaseException as error:
        if os.environ.get("DMLC_ROLE") != "worker":
            raise
        status = _report(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def create_kvstore(kind, compresses=False):
    """Create the kvstore for --kv-store, if it fits how this process was started."""
    is_worker = os.environ.get("DMLC_ROLE") == "worker"
    if "dist" not in kind and is_worker:
        raise InputError("trains in one process, but this is one of several: --kv-store dist_sync "
                         "joins them", flag=f"--kv-store {kind}")
    if not is_worker:
        raise InputError("is for several workers: start them with tools/launch.py",
                         flag=f"--kv-store {kind}")
    # The optimizer's state on a server cannot be read and saved. Servers of synchronous training
    # only sum, and each worker makes the same update.
    os.environ["MXNET_UPDATE_ON_KVSTORE"] = "1" if "async" in kind else "0"
    kv = mx.kvstore.create(kind)

    def pushpull(key, value, out=None, priority=0):
        kv.push(key, value, priority)
        kv.pull(key, value if out is None else out, priority)

    if compresses:  # MXNet's own cannot send such gradients to servers
        kv.pushpull = pushpull
    return kv


def _report(error):
    """Print an error as `cli.run` would, and return the exit status."""
    def fail(argv):
        raise error

    try:
        run(fail)
    except LostWorker:
        time.sleep(SECONDS_BEFORE_REPORTING_LOSS)
        print(error, file=sys.stderr)
        return MAY_PASS
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    return 1


class Workers:
    """All workers of a run, as seen by one of them.

    All workers of the kvstore `kv`, just made, create this object at the same time, and call the
    same methods in the same order. Each method raises LostWorker when another worker has ended or
    cannot be reached. `arrays` are a dict of str to np.ndarray.

    `rank` is this worker's number, from 0, and `count` the number of workers. DMLC_RANK gives the
    rank, where the launcher sets it for all: the kvstore's own changes from start to start. All
    take each batch together where `synchronous`, which is not so with "dist_async".
    """

    def __init__(self, kv):
        self.count = kv.num_workers
        self.synchronous = "async" not in kv.type
        # The hub is connected to all others, and these only to the hub.
        self.rank, self._hub, self._streams, self._watched = connect_workers(kv)
        watch_network(self._watched)

    def gather(self, arrays):
        """The arrays of all workers at rank 0, a list by rank; None elsewhere."""
        if self.rank == 0:
            return [arrays, *(self._receive(rank) for rank in range(1, self.count))]
        if self.rank != self._hub:
            self._send(0, arrays)
        else:
            for rank in range(1, self.count):
                self._send(0, arrays if rank == self.rank else self._receive(rank))
        return None

    def broadcast(self, arrays):
        """The arrays of rank 0, or None where it passes None; what others pass is ignored."""
        if self.rank:
            arrays = self._receive(0)
        if self.rank in (0, self._hub):
            for rank in self._streams:
                if rank:
                    self._send(rank, arrays)
        return arrays

    def sum(self, values):
        """The sum of all workers' sequences of numbers: float64, bit for bit the same everywhere.

        The sum of nothing is a barrier.
        """
        own = {"values": np.array(values, np.float64)}
        if self.rank != self._hub:
            self._send(self._hub, own)
            return self._receive(self._hub)["values"]
        parts = {self.rank: own, **{rank: self._receive(rank) for rank in self._streams}}
        # By rank, because the order changes the last bits.
        total = sum(parts[rank]["values"] for rank in range(self.count))
        for rank in self._streams:
            self._send(rank, {"values": total})
        return total

    def mean(self, params):
        """The mean over all workers of parameters, dict of str to mx.nd.NDArray."""
        if not params:
            return params
        parts = self.gather({name: value.asnumpy() for name, value in params.items()})
        means = self.broadcast(parts and {
            name: np.mean([part[name] for part in parts], axis=0, dtype=np.float64).astype(
                parts[0][name].dtype) for name in params})
        return {name: mx.nd.array(value, dtype=value.dtype) for name, value in means.items()}

    def merge_params(self, module):
        """Give all workers' Modules the same parameters, and the mean of their statistics."""
        if not self.synchronous:
            # Once all are here, nobody changes the servers' parameters any more.
            self.sum([])
            module.pull_params()
        arg_params, aux_params = module.get_params()
        module.set_params(arg_params, self.mean(aux_params))

    def read_list(self, path, folder, num_classes=None, label_format="multi-hot"):
        """The SampleList of this worker, whose totals are over all workers.

        Without {rank} in `path` all workers share the list, and each reads a part of it in each
        epoch. With {rank} each worker has a list of its own; `tools/make_lst.py shard` makes such
        lists. An InputError says what is wrong with a list, or that the workers' lists do not fit
        together.
        """
        rank = str(self.rank)
        lst = read_lst(path.replace(RANK, rank), num_classes, label_format)
        folder = folder.replace(RANK, rank)
        if RANK not in path or self.count == 1:
            return SampleList(lst, folder, (self.rank, self.count))
        return self._with_totals(SampleList(lst, folder), path)

    def _with_totals(self, lst, path):
        """A worker's own SampleList with the totals of all; a shorter one is padded."""
        def of_all(**numbers):
            parts = self.gather({key: np.array(value) for key, value in numbers.items()})
            return self.broadcast(
                parts and {key: np.array([part[key] for part in parts]) for key in numbers})

        lists = of_all(classes=lst.num_classes, rows=lst.num_rows, checksum=lst.checksum)
        if len(set(lists["classes"])) > 1:
            raise InputError("the workers' lists have different numbers of classes "
                             f"({', '.join(map(str, lists['classes']))}): {{flag}} says how many "
                             "there are", file=path, flag="--num-classes")
        labels = of_all(positives=lst.positives, negatives=lst.negatives)
        # A worker with fewer rows would end its epoch early, and the others would wait for it.
        lst.lst = PaddedLst(lst.lst, int(lists["rows"].max()))
        lst.num_rows = int(lists["rows"].sum())
        lst.checksum = " ".join(lists["checksum"])
        lst.positives, lst.negatives = (labels[key].sum(axis=0)
                                        for key in ("positives", "negatives"))
        return lst

    def metrics(self, metrics):
        """Metrics over the samples of all workers."""
        return MergedMetrics(metrics, self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in self._streams.values():
            stream.close()
        for connection in self._watched.values():
            with contextlib.suppress(OSError):  # the other one has ended
                connection.shutdown(socket.SHUT_RDWR)

    def _send(self, rank, arrays):
        with self._stream(rank) as stream:
            stream.send(arrays)

    def _receive(self, rank):
        with self._stream(rank) as stream:
            return stream.receive()

    @contextlib.contextmanager
    def _stream(self, rank):
        """The connection to a worker, which leads by way of the hub."""
        peer = rank if self.rank == self._hub else self._hub
        try:
            yield self._streams[peer]
        except (OSError, EOFError):
            raise LostWorker(f"worker {self.rank} lost worker {peer}") from None


class PaddedLst:
    """An LstFile padded to a length with its own rows, there with unknown labels (-1)."""

    def __init__(self, lst, length):
        self._lst, self._length = lst, length
        self.path, self.num_classes = lst.path, lst.num_classes

    def __len__(self):
        return self._length

    def labels(self, rows):
        """Labels of some rows, as LstFile's; -1 in padding."""
        rows = np.asarray(rows)
        labels = self._lst.labels(rows % len(self._lst))
        labels[rows >= len(self._lst)] = -1
        return labels

    def name(self, row):
        return self._lst.name(row % len(self._lst))

    def line(self, row):
        return self._lst.line(row % len(self._lst))


class MergedMetrics(Metrics):
    """Metrics whose global values are over the samples of all workers, as if one had seen them all.

    The metrics need methods `state`, `load_state` and `merge`; see multilabel_metric.
    """

    def __init__(self, metrics, workers):
        self._workers = workers
        super().__init__(metrics)
        self._totals = self.metrics  # over all workers, once these are merged

    def reset(self):
        self._merged = None
        super().reset()

    def update(self, labels, preds):
        self._merged = None
        super().update(labels, preds)

    def get_global_name_value(self):
        """Names and values over all workers, who must all ask."""
        if self._merged is None:
            self._totals = self._merge()
            values = dict(pair for metric in self._totals
                          for pair in metric.get_global_name_value())
            self._merged = [(name, float(value))
                            for name, value in self._workers.broadcast(values).items()]
        return self._merged

    def samples(self):
        """As Metrics'; only rank 0 has them, once all have asked for the global values."""
        return Metrics(self._totals).samples()

    def _merge(self):
        """The metrics over the samples of all workers; none at ranks above 0."""
        states = self._workers.gather(self.state())
        totals = list(map(copy.copy, self.metrics)) if states else []
        for total, *parts in zip(totals, *map(self.parts, states or ())):
            total.load_state(total.merge(parts))
        return totals
