"""Which rows of a list make up each batch: shuffling, shards, and the last batch.

Everything follows from (seed, epoch), so that any batch of any epoch can be named without
going through those before it, and workers agree without talking to each other.
"""
import numpy as np

from common.cli import InputError

LAST_BATCH_HANDLES = ("pad", "discard", "roll_over")


class EpochOrder:
    """The batches of a list's shard.

    The rows, shuffled anew each epoch over the whole list or in their order, are dealt out to
    the shards in turn: the shards of an epoch are disjoint and together complete. All shards
    have the same number of batches, as synchronous training needs: "pad" fills the shorter
    ones up, "discard" and "roll_over" leave out the row that some have more than others.

    Parameters
    ----------
    num_rows : int
        Rows of the whole list.
    batch_size : int
    shuffle : bool
    seed : int
        From 0 on.
    part_index, num_parts : int
        Number of this shard, from 0, and of shards in all.
    last_batch_handle : str
        "pad": the last batch is filled up with the epoch's first rows.
        "discard": rows that fill no batch are left out.
        "roll_over": they come first in the next epoch.

    Attributes
    ----------
    num_rows : int
        Rows of this shard in an epoch, padding not counted.

    Raises
    ------
    InputError
        When a value is out of its range, or no batch would ever come.
    """

    def __init__(self, num_rows, batch_size, shuffle=False, seed=0, part_index=0, num_parts=1,
                 last_batch_handle="pad"):
        if batch_size < 1:
            raise InputError(f"batch_size is at least 1, not {batch_size}")
        if seed < 0:
            raise InputError(f"seed is at least 0, not {seed}")
        if not 0 <= part_index < num_parts:
            raise InputError(f"part_index is 0 to num_parts - 1, not {part_index} of {num_parts}")
        if last_batch_handle not in LAST_BATCH_HANDLES:
            raise InputError(f"last_batch_handle is {', '.join(LAST_BATCH_HANDLES)}, not "
                             f"{last_batch_handle}")
        self.batch_size = batch_size
        self.last_batch_handle = last_batch_handle
        if last_batch_handle == "pad":
            self.num_rows = len(range(part_index, num_rows, num_parts))
        else:
            self.num_rows = num_rows // num_parts
        if self.num_rows < {"pad": 0, "discard": batch_size, "roll_over": 1}[last_batch_handle]:
            raise InputError(f"{num_rows} rows in {num_parts} parts leave {self.num_rows} for "
                             f"batches of {batch_size}: last_batch_handle={last_batch_handle} "
                             "needs more")
        self._list_rows = num_rows
        self._shuffle, self._seed = shuffle, seed
        self._part = slice(part_index, None, num_parts)
        # Rows of the longest shard, which all the others keep up with.
        self._longest = -(-num_rows // num_parts)
        self._last_epoch = None

    def num_batches(self, epoch):
        """Batches of an epoch. Only with "roll_over" do they differ between epochs."""
        if self.last_batch_handle == "pad":
            return -(-self._longest // self.batch_size)
        if self.last_batch_handle == "discard":
            return self.num_rows // self.batch_size
        return self._rolled(epoch + 1) - self._rolled(epoch)

    def batches(self, epoch, start=0):
        """Yield an epoch's batches from number `start` on.

        Yields
        ------
        rows, epochs : numpy.ndarray
            int64, (batch_size,): row numbers of the list, and the epoch whose order each is of.
        pad : int
            How many at the end only fill the batch up.
        """
        for number in range(start, self.num_batches(epoch)):
            if self.last_batch_handle == "roll_over":
                yield self._rolling_batch(self._rolled(epoch) + number)
            else:
                yield self._batch(epoch, number)

    def _batch(self, epoch, number):
        positions = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        order, shard = self._epoch(epoch)
        pad = int(np.count_nonzero(positions >= self.num_rows))
        filler = shard if self.num_rows else order  # an empty shard gets nothing but padding
        rows = filler[positions % len(filler)]
        return rows, np.full(self.batch_size, epoch), pad

    def _rolling_batch(self, number):
        """Batch `number` of all epochs laid end to end."""
        positions = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        epochs, places = positions // self.num_rows, positions % self.num_rows
        rows = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._epoch(int(epoch))[1][places[here]]
        return rows, epochs, 0

    def _rolled(self, epoch):
        """Full batches before an epoch, when all of them are laid end to end."""
        return epoch * self.num_rows // self.batch_size

    def _epoch(self, epoch):
        """The whole list's order in an epoch, and this shard of it."""
        if self._last_epoch is None or self._last_epoch[0] != epoch:
            if self._shuffle:
                # RandomState, unlike its successor, gives the same under every version of numpy.
                words = [self._seed & 0xFFFFFFFF, self._seed >> 32 & 0xFFFFFFFF, epoch]
                order = np.random.RandomState(words).permutation(self._list_rows)
            else:
                order = np.arange(self._list_rows)
            self._last_epoch = epoch, order, order[self._part]
        return self._last_epoch[1:]
