"""Threads that fill batches with images ahead of the consumer.

Each thread takes one sample at a time and writes it directly into its batch, so that all threads
are busy until the end of a batch of large and small images. Batches come out in order.
"""
from __future__ import annotations

import collections
import ctypes
import math
import os
import queue
import threading
import time
from typing import Any, Callable, Iterator

import cv2
import numpy as np

from common.mx_compat import mx


class Batch:
    """One batch: its rows (see `BatchSampler.batches`), its pixels, and its samples' errors."""

    def __init__(self, rows: np.ndarray, epochs: np.ndarray, pad: int,
                 data_shape: tuple[int, ...]) -> None:
        self.rows, self.epochs, self.pad = rows, epochs, pad
        self.data, self.pixels = shared_array((len(rows), *data_shape))
        self.errors = {}
        # A queue, because a Ctrl-C can break threading.Event, which is written in Python.
        self.done = queue.SimpleQueue()
        self._finished = []

    def finish(self, slot: int) -> None:
        """Record that a sample has been read or has failed."""
        # Appending is atomic; the thread that appends last sees the full count.
        self._finished.append(slot)
        if len(self._finished) == len(self.rows):
            self.done.put(None)


def shared_array(shape: tuple[int, ...]) -> tuple[mx.nd.NDArray, np.ndarray]:
    """A new uint8 NDArray and a numpy array over the same memory, for writing before its use.

    The NDArray owns the memory: no array of numpy's need outlive it, and nothing calls back
    into Python from MXNet's threads when it is freed, as with `mx.nd.from_numpy`.
    """
    if math.prod(shape) >= 2 ** 31:
        raise MemoryError("MXNet has no arrays of so many values")  # its own is a bare Exception
    array = mx.nd.empty(shape, dtype=np.uint8)
    pointer = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    pixels = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint8)), shape)
    return array, pixels


class Prefetcher:
    """Fills a sequence of batches, `ahead` of them in advance of the one that is taken.

    `fill(batch, slot)` writes one sample; what it raises is kept in `batch.errors[slot]`. Threads
    refer to this object and never to the LstIter, so that its garbage collection ends them.
    """

    def __init__(self, batches: Iterator[Batch], fill: Callable[[Batch, int], None],
                 num_threads: int, ahead: int) -> None:
        # OpenCV's own threads would compete with these. Its messages are turned off, because each
        # error is reported with file and line.
        cv2.setNumThreads(0)
        utils: Any = cv2.utils
        set_log_level = getattr(cv2, "setLogLevel", None) or utils.logging.setLogLevel
        set_log_level(0)  # OpenCV 5 has moved it
        self._batches, self._fill = batches, fill
        self._num_threads, self._ahead = num_threads, ahead
        self._waiting = collections.deque()
        self._jobs = queue.SimpleQueue()
        self._stopped = False
        self._process = os.getpid()
        self._threads = []

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a child process, where its threads do not exist."""
        return self._process != os.getpid()

    def next(self) -> Batch | None:
        """The next batch, complete; None at the end, RuntimeError after `stop` in between."""
        while len(self._threads) < self._num_threads:
            thread = threading.Thread(target=self._work, daemon=True,
                                      name=f"LstIter-{len(self._threads)}")
            # Before it starts: after a Ctrl-C in `start`, `stop` must still know the thread.
            self._threads.append(thread)
            thread.start()
        while len(self._waiting) <= self._ahead:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._waiting.append(batch)
            for slot in range(len(batch.rows)):
                self._jobs.put((batch, slot))
        if not self._waiting:
            return None
        self._waiting[0].done.get()
        if self._stopped:
            raise RuntimeError("closed while another thread waited for a batch")
        return self._waiting.popleft()

    def stop(self) -> None:
        """End the threads, waiting at most a second for the samples that they are reading."""
        self._stopped = True
        if self.forked:
            return
        for _ in self._threads:
            self._jobs.put(None)
        for batch in self._waiting:
            batch.done.put(None)
        deadline = time.monotonic() + 1
        for thread in self._threads:
            # After a Ctrl-C in `start` a thread may be about to run and cannot be joined yet.
            while thread.ident is None and time.monotonic() < deadline:
                time.sleep(0.001)
            # A finalizer may run in any thread, one of these included.
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0, deadline - time.monotonic()))

    def _work(self):
        while True:
            job = self._jobs.get()
            if job is None or self._stopped:
                return
            batch, slot = job
            try:
                self._fill(batch, slot)
            except BaseException as error:
                batch.errors[slot] = error
            batch.finish(slot)
            # Otherwise the last batch would stay in memory while the thread waits.
            del job, batch
