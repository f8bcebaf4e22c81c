"""What the workers of one training run tell each other besides gradients.

MXNet's parameter server sums gradients. What else the workers share (metrics, running statistics,
a request to stop) it would sum, compress or take for gradients too. So this goes over connections
of all workers to one of them. A worker that ends breaks its connection, and the others notice at
once, where MXNet's own calls would wait for ever.

    kv = mx.kvstore.create("dist_sync")
    with Workers(kv) as workers:
        parts = workers.gather({"scores": scores})      # a list at rank 0, None elsewhere
        total = workers.sum([1.0, loss])                # the same everywhere
"""
import contextlib
import socket

import numpy as np

from common.mx_compat import mx
from distributed.lists import read_list
from distributed.metrics import MergedMetrics
from distributed.network_watch import watch_network
from distributed.rendezvous import LostWorker, connect_workers


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
        self.rank, self._hub, self._streams, self._watched = 0, 0, {}, {}
        if self.count > 1:
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
        # So that there always is a number to send.
        own = np.array([1, *values], np.float64)
        if self.rank != self._hub:
            with self._stream(self._hub) as stream:
                stream.send_numbers(own)
                return stream.receive_numbers(len(own))[1:]
        parts = {self.rank: own}
        for rank in self._streams:
            with self._stream(rank) as stream:
                parts[rank] = stream.receive_numbers(len(own))
        # By rank, because the order changes the last bits.
        total = sum(parts[rank] for rank in range(self.count))
        for rank in self._streams:
            with self._stream(rank) as stream:
                stream.send_numbers(total)
        return total[1:]

    def mean(self, params):
        """The mean over all workers of parameters, dict of str to mx.nd.NDArray."""
        if not params:
            return params
        parts = self.gather({name: value.asnumpy() for name, value in params.items()})
        means = self.broadcast(parts and {
            name: np.mean([part[name] for part in parts], axis=0, dtype=np.float64).astype(
                parts[0][name].dtype) for name in params})
        return {name: mx.nd.array(value, dtype=value.dtype) for name, value in means.items()}

    def read_list(self, path, folder, num_classes=None, label_format="multi-hot"):
        """The SampleList of this worker, with its totals over all workers."""
        return read_list(path, folder, self, num_classes, label_format)

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
