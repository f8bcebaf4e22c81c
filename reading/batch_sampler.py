"""Which rows of a .lst make up each batch: shuffling, shards, and the last batch.

Everything follows from the seed and the epoch, so that any batch of any epoch can be computed
without those before it, and workers agree without communicating.
"""
from __future__ import annotations

import math
from typing import Iterator

import numpy as np

from common.cli import InputError, require
from common.mx_compat import mx

LAST_BATCH_HANDLES = ("pad", "discard", "roll_over")


class BatchSampler:
    """The rows of each batch of one shard of a .lst file of `num_rows` rows; see also `LstIter`.

    The rows, in their order or shuffled over the whole file in each epoch, are dealt out to the
    shards in turn: the shards of an epoch are disjoint and together complete. All shards have
    the same number of batches, as synchronous training needs: "pad" pads the shorter shards,
    "discard" and "roll_over" leave out the row that some shards have more than others.

    "pad" fills the last batch up with the epoch's first rows. "discard" leaves out the rows that
    do not fill a batch; with "roll_over" they come first in the next epoch.

    The attribute `num_rows` is that of this shard in an epoch, without padding. An InputError is
    raised when a value is out of its range, or there would never be a batch.
    """

    def __init__(self, num_rows: int, batch_size: int, shuffle: bool = False, seed: int = 0,
                 part_index: int = 0, num_parts: int = 1, last_batch_handle: str = "pad") -> None:
        require(batch_size >= 1, "batch_size", "at least 1", batch_size)
        require(seed >= 0, "seed", "at least 0", seed)
        require(0 <= part_index < num_parts, "part_index", "0 to num_parts - 1",
                f"{part_index} of {num_parts}")
        require(last_batch_handle in LAST_BATCH_HANDLES, "last_batch_handle",
                ", ".join(LAST_BATCH_HANDLES), last_batch_handle)
        self.batch_size = batch_size
        self.last_batch_handle = last_batch_handle
        if last_batch_handle == "pad":
            self.num_rows = len(range(part_index, num_rows, num_parts))
        else:
            self.num_rows = num_rows // num_parts
        if self.num_rows < {"pad": 0, "discard": batch_size, "roll_over": 1}[last_batch_handle]:
            raise InputError(f"{num_rows} rows in {num_parts} parts leave {self.num_rows} for "
                             f"batches of {batch_size}: {{flag}}={last_batch_handle} needs more",
                             flag="last_batch_handle")
        self._list_rows, self._num_parts = num_rows, num_parts
        self._shuffle, self._seed = shuffle, seed
        self._part = slice(part_index, None, num_parts)
        self._last_epoch: tuple[int, np.ndarray] | None = None

    def num_batches(self, epoch: int) -> int:
        """Number of batches of an epoch; differs between epochs with "roll_over" only."""
        if self.last_batch_handle == "pad":
            return math.ceil(math.ceil(self._list_rows / self._num_parts) / self.batch_size)
        if self.last_batch_handle == "discard":
            return self.num_rows // self.batch_size
        return self._batches_before(epoch + 1) - self._batches_before(epoch)

    def epoch_size(self, epoch: int) -> int:
        """Number of samples of an epoch, without padding."""
        if self.last_batch_handle == "pad":
            return self.num_rows
        return self.num_batches(epoch) * self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yield (rows, epochs, pad) of an epoch's batches from number `start` on.

        The rows of the .lst file, and the epoch that each belongs to, are int64, (batch_size,);
        `pad` is the number of samples at the end that are padding.
        """
        for number in range(start, self.num_batches(epoch)):
            yield self._batch(epoch, number)

    def _batch(self, epoch, number):
        places = np.arange(self.batch_size) + number * self.batch_size
        if self.last_batch_handle == "roll_over":  # a place in the sequence of all epochs
            places += self._batches_before(epoch) * self.batch_size
            epochs, places = np.divmod(places, self.num_rows)
        else:
            epochs = np.full(self.batch_size, epoch)
        rows = np.empty(self.batch_size, np.int64)
        for one in np.unique(epochs).tolist():
            here, shard = epochs == one, self._shard(one)
            rows[here] = shard[places[here] % len(shard)]
        return rows, epochs, int(np.count_nonzero(places >= self.num_rows))

    def _batches_before(self, epoch):
        """Number of full batches before an epoch in the sequence of all epochs."""
        return epoch * self.num_rows // self.batch_size

    def _shard(self, epoch):
        """This shard's rows in their order in an epoch; an empty shard pads with any rows."""
        if self._last_epoch is None or self._last_epoch[0] != epoch:
            order = np.arange(self._list_rows)
            if self._shuffle:
                # RandomState, unlike its successor, gives the same under every version of numpy.
                words = [self._seed & 0xFFFFFFFF, self._seed >> 32 & 0xFFFFFFFF, epoch]
                order = np.random.RandomState(words).permutation(self._list_rows)
            self._last_epoch = epoch, order[self._part] if self.num_rows else order
        return self._last_epoch[1]


class SampledIter(mx.io.DataIter):
    """A DataIter over the epochs of the BatchSampler `_sampler`.

    A subclass's `seek(epoch, batch)` sets `epoch`, from 0, and `_begun`: whether a batch was read.
    """

    @property
    def num_batches(self) -> int:
        """Number of batches in this epoch; the same in all shards."""
        return self._sampler.num_batches(self.epoch)

    def reset(self) -> None:
        """Begin the next epoch, unless nothing of this one has been read yet."""
        if self._begun:
            self.seek(self.epoch + 1, 0)
