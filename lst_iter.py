"""LstIter: the images and labels of a .lst, as batches for MXNet.

    python lst_iter.py train.lst --path-root photos --squash --brightness 0.4 --show sheet.png

The command draws the first samples of an epoch as the network gets them in training, with labels.
"""
from __future__ import annotations

import functools
import logging
import os
import weakref
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from common.cli import InputError, require, run
from common.machine import processors
from common.mx_compat import mx
from common.text import printable
from reading.batch_sampler import BatchSampler, SampledIter
from reading.image_file import NEUTRAL, ImageError, read_image
from reading.lst_file import LstFile, read_lst
from reading.prefetch import Batch, Prefetcher
from reading.read_options import BAD_IMAGES, ReadOptions, sample_rng

if TYPE_CHECKING:
    from reading.image_list import ImageList

MAX_DEFAULT_THREADS = 16
MAX_BAD_SHARE = 0.05  # of an epoch's images, with bad_images="skip"

logger = logging.getLogger("lst_iter")


class LstIter(SampledIter):
    """Iterator over the images of a .lst file, decoded and augmented by threads in advance.

    The same seed gives the same batches with any number of threads.

    Parameters
    ----------
    data_shape : tuple of int
        (3, height, width).
    path_imglist : str, LstFile or ImageList
        Path of the .lst file, or what has been read already.
    path_root : str
        Folder that relative image names in the .lst file start from.
    label_width : int, optional
        Number of classes. Default: that of the .lst file.
    shuffle : bool
        Whether each epoch has a new random order.
    part_index, num_parts : int
        Index, from 0, and number of shards; only this shard is read. See `BatchSampler`.
    data_name, label_name : str
        Names in `provide_data` and `provide_label`.
    last_batch_handle : str
        "pad", "discard" or "roll_over", as in mx.image.ImageIter. Padding has the label -1.
    seed : int
        Random seed of the sample order and the augmentation; at least 0.
    num_threads : int, optional
        Default: one per processor that this process may use, 16 at most.
    prefetch : int
        Number of batches prepared in advance; memory grows with it.
    read_options : ReadOptions, optional
        How images are cropped, resized and augmented. Default: centre crop, not random.
    bad_images : str
        What to do with an image that cannot be used. "fail": raise an InputError.
        "skip": replace it by a grey image with the label -1, and raise an InputError once more
        than 5 % of the epoch's images are bad. "report": replace it, and neither raise nor log.
    label_format : str
        "multi-hot", "indices" or "signed"; see `read_lst`.
    dtype : str
        Type of the pixels, whose values are 0 to 255: "uint8" or "float32".

    Attributes
    ----------
    num_classes, num_rows : int
        Number of classes, and of rows in this shard.
    epoch : int
        Number of this epoch, from 0; `reset` begins the next one.

    Raises
    ------
    InputError
        When an argument or the .lst file is wrong; by `next`, when an image cannot be used.

    Example
    -------
    >>> with LstIter(32, (3, 224, 224), "train.lst", "photos", shuffle=True) as batches:
    ...     for batch in batches:
    ...         print(batch.data[0].shape, batch.label[0].shape, batch.index)
    """

    def __init__(self, batch_size: int, data_shape: Sequence[int],
                 path_imglist: str | os.PathLike[str] | LstFile | ImageList, path_root: str = "",
                 label_width: int | None = None, shuffle: bool = False, part_index: int = 0,
                 num_parts: int = 1, data_name: str = "data", label_name: str = "softmax_label",
                 last_batch_handle: str = "pad", seed: int = 0, num_threads: int | None = None,
                 prefetch: int = 2, read_options: ReadOptions | None = None,
                 bad_images: str = "fail", label_format: str = "multi-hot",
                 dtype: str = "uint8") -> None:
        super().__init__(batch_size)
        self._prefetcher: Prefetcher | None = None
        self._finalizer: Any = None
        data_shape = tuple(data_shape)
        require(len(data_shape) == 3 and data_shape[0] == 3 and min(data_shape) >= 1,
                "data_shape", "(3, height, width)", data_shape)
        if num_threads is None:
            num_threads = min(processors(), MAX_DEFAULT_THREADS)
        require(num_threads >= 1, "num_threads", "at least 1", num_threads)
        require(prefetch >= 1, "prefetch", "at least 1", prefetch)
        require(dtype in ("uint8", "float32"), "dtype", "uint8 or float32", dtype)
        require(bad_images in (*BAD_IMAGES, "report"), "bad_images", "fail, skip or report",
                bad_images)
        if path_root and not os.path.isdir(path_root):
            raise InputError("no such folder; the image names in the .lst start from it",
                             file=printable(path_root))
        lst = path_imglist
        if isinstance(lst, (str, os.PathLike)):
            lst = read_lst(lst, label_width, label_format)
        elif label_width not in (None, lst.num_classes):
            raise InputError(f"{lst.num_classes} labels, but {{flag}} is {label_width}",
                             file=lst.path, flag="label_width")
        self.lst = lst
        self.data_shape, self.dtype = data_shape, dtype
        self.num_classes = lst.num_classes
        self.num_threads, self.prefetch = num_threads, prefetch
        self._bad_images = bad_images
        self._bad_reasons = {}  # for each row that was ever left out
        self._sampler = BatchSampler(len(lst), batch_size, shuffle, seed, part_index, num_parts,
                                     last_batch_handle)
        self.num_rows = self._sampler.num_rows
        self._fill = functools.partial(_fill, lst, path_root, read_options or ReadOptions(), seed)
        self.provide_data = [mx.io.DataDesc(data_name, (batch_size, *data_shape),
                                            np.dtype(dtype).type, "NCHW")]
        self.provide_label = [mx.io.DataDesc(label_name, (batch_size, lst.num_classes),
                                             np.float32, "NC")]
        self.seek(0, 0)

    def seek(self, epoch: int, batch: int) -> None:
        """Continue at a batch of an epoch, both from 0; `num_batches` is the end of the epoch.

        An InputError is raised when there is no such batch.
        """
        if epoch < 0 or not 0 <= batch <= self._sampler.num_batches(epoch):
            raise InputError(f"there is no batch {batch} in epoch {epoch}", file=self.lst.path)
        self.close()
        self.epoch, self._batch, self._begun = epoch, batch, False
        self._num_bad = 0

    def next(self) -> mx.io.DataBatch:
        """Return the next batch, or raise StopIteration at the end of the epoch.

        Returns
        -------
        mx.io.DataBatch
            data: [(batch_size, 3, height, width)], RGB; label: [(batch_size, num_classes)],
            float32; pad: number of samples at the end that are padding; index: int64,
            (batch_size,), the samples' rows in the .lst file, from 0; bad: dict of int to str,
            the reason for each sample that was replaced.
        """
        self._begun = True
        if self._batch == self.num_batches:
            self.close()
            raise StopIteration
        try:
            batch = self._next_filled()
            bad = self._leave_out(batch)
        except BaseException:  # including Ctrl-C: the next call starts again with this batch
            self.close()
            raise
        self._batch += 1
        labels = self.lst.labels(batch.rows)
        labels[self.batch_size - batch.pad:] = -1
        labels[list(bad)] = -1
        data = batch.data if self.dtype == "uint8" else batch.data.astype(self.dtype)
        result = mx.io.DataBatch([data], [mx.nd.array(labels)], pad=batch.pad, index=batch.rows)
        result.bad = bad
        return result

    def close(self) -> None:
        """End the threads and free the prefetched batches. The next read starts them again."""
        if self._prefetcher is not None:
            # In this order, so that after a Ctrl-C in between `close` can be called again.
            self._prefetcher.stop()
            self._finalizer.detach()
            self._prefetcher = None

    def __enter__(self) -> LstIter:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __reduce__(self):
        raise TypeError("LstIter has threads and cannot be pickled; make one in each process")

    def _next_filled(self):
        if self._prefetcher is None or self._prefetcher.forked:
            self.close()
            data_shape = self.data_shape  # a reference to `self` would keep the iterator alive
            batches = (Batch(*plan, data_shape)
                       for plan in self._sampler.batches(self.epoch, self._batch))
            prefetcher = Prefetcher(batches, self._fill, self.num_threads, self.prefetch)
            self._finalizer = weakref.finalize(self, prefetcher.stop)
            self._prefetcher = prefetcher
        return self._prefetcher.next()

    def _leave_out(self, batch: Batch) -> dict[int, str]:
        """Count and log a filled batch's images that cannot be used: their slots, and why.

        What must not be left out is raised, and nothing is counted then, so that the batch can be
        asked for again.
        """
        path, bad = printable(self.lst.path), {}
        for slot in sorted(batch.errors):
            error, row = batch.errors[slot], int(batch.rows[slot])
            if not isinstance(error, ImageError):
                raise error
            bad[slot] = error.what
            line = self.lst.line(row)
            if self._bad_images == "fail":
                raise InputError(f"{error} ({{flag}} skip leaves such images out)", file=path,
                                 line=line, flag="--bad-images") from error
            if self._bad_images == "skip" and row not in self._bad_reasons:
                self._bad_reasons[row] = error.what
                logger.warning("%s:%d: %s: left out", path, line, error)
        # The exceptions refer to the frames that they were raised in, and these to the batch.
        batch.errors.clear()
        num_images = self.batch_size - batch.pad
        num_bad = self._num_bad + sum(slot < num_images for slot in bad)
        if self._bad_images == "skip" and num_bad:
            # As a share of the whole epoch, so that it does not matter where bad images stand.
            size = self._sampler.epoch_size(self.epoch)
            if num_bad / size > MAX_BAD_SHARE:
                raise InputError(f"{num_bad} images of epoch {self.epoch} cannot be used, more "
                                 f"than {MAX_BAD_SHARE:.0%} of all {size}: "
                                 f"{next(iter(self._bad_reasons.values()))}", file=path)
            if self._batch + 1 == self.num_batches:
                logger.warning("%s: images left out in epoch %d: %d", path, self.epoch, num_bad)
        self._num_bad = num_bad
        return bad


def _fill(lst, path_root, read_options, seed, batch, slot):
    """Read one sample into its batch. A function, so that no thread refers to an iterator."""
    row = int(batch.rows[slot])
    rng = sample_rng(seed, int(batch.epochs[slot]), row) if read_options.random else None
    try:
        read_image(os.path.join(path_root, lst.name(row)), batch.pixels[slot], read_options, rng)
    except ImageError:
        batch.pixels[slot] = NEUTRAL
        raise


def main(argv: Sequence[str] | None = None) -> None:
    from reading.contact_sheet import draw_samples  # which no iterator needs
    draw_samples(LstIter, argv)


if __name__ == "__main__":
    run(main)
