"""LstIter: raw images and a .lst, as batches for MXNet.

    python lst_iter.py demo/data/train.lst --path-root demo/data --show sheet.png
    python lst_iter.py train.lst --path-root photos --squash --brightness 0.4 --show sheet.png

draws the first samples of an epoch as the network gets them in training, with their labels.
"""
import functools
import logging
import os
import weakref

import cv2
import numpy as np

from common.cli import ArgumentParser, InputError, run
from common.files import write_atomically
from common.mx_compat import mx
from common.processors import processors
from common.text import printable
from reading import contact_sheet
from reading.augment import Augment, sample_rng
from reading.class_names import read_class_names
from reading.data_args import BAD_IMAGES, add_data_args, augment_from_args
from reading.epoch_order import EpochOrder
from reading.image_reader import NEUTRAL, ImageError, read_image
from reading.lst_file import read_lst
from reading.prefetch import Batch, Prefetcher

MOST_BAD = 0.05  # of an epoch's images, before `skip` gives up
MOST_DEFAULT_THREADS = 16

logger = logging.getLogger(__name__)


class LstIter(mx.io.DataIter):
    """An iterator over the images of a .lst, decoded and augmented by threads, batches ahead.

    The same seed gives the same batches, whatever the number of threads.

    Parameters
    ----------
    batch_size : int
    data_shape : tuple of int
        (3, height, width).
    path_imglist : str or LstFile
        The .lst, or one that has been read, or anything with its length, `path`,
        `num_classes`, `labels`, `name` and `line`.
    path_root : str
        Folder that the names in the .lst start from. Absolute names stay as they are.
    label_width : int, optional
        Number of classes. Default: what the .lst has.
    shuffle : bool
        Draw a new order each epoch.
    part_index, num_parts : int
        Read only this shard, from 0, of so many. See `EpochOrder`.
    data_name, label_name : str
    last_batch_handle : str
        "pad", "discard" or "roll_over", as in mx.image.ImageIter. Padding carries the label -1.
    seed : int
        Of the order and the augmentation, at least 0.
    num_threads : int, optional
        Default: one per processor that this process may use, 16 at most.
    prefetch : int
        Batches made ahead of the one handed out; memory grows with it.
    augment : Augment, optional
        Default: the middle of each image, no randomness.
    bad_images : str
        "fail": stop at the first image that cannot be used, in the order of the batches.
        "skip": a grey image with the label -1 in its place; stop once they are more than 5 %
        of the epoch's.
        "report": that too, but never stop or log; the reasons come with the batch.
    label_format : str
        "multi-hot" or "indices"; see `read_lst`.
    dtype : str
        Type of the pixels handed out, 0 to 255: "uint8" or "float32".

    Attributes
    ----------
    num_classes : int
    num_rows : int
        Rows of this shard.
    num_batches : int
        Batches in this epoch.
    epoch : int
        From 0; `reset` begins the next one.
    num_bad : int
        Images left out in this epoch so far.
    bad_rows : dict of int to str
        The reason for each row ever left out.

    Raises
    ------
    InputError
        When an argument or the .lst is wrong; from `next`, when an image is.

    Example
    -------
    >>> with LstIter(32, (3, 224, 224), "train.lst", "photos", shuffle=True) as batches:
    ...     for batch in batches:
    ...         print(batch.data[0].shape, batch.label[0].shape, batch.index)
    """

    def __init__(self, batch_size, data_shape, path_imglist, path_root="", label_width=None,
                 shuffle=False, part_index=0, num_parts=1, data_name="data",
                 label_name="softmax_label", last_batch_handle="pad", seed=0, num_threads=None,
                 prefetch=2, augment=None, bad_images="fail", label_format="multi-hot",
                 dtype="uint8"):
        super().__init__(batch_size)
        self._series = self._finalizer = None
        data_shape = tuple(data_shape)
        if len(data_shape) != 3 or data_shape[0] != 3 or min(data_shape) < 1:
            raise InputError(f"data_shape is (3, height, width), not {data_shape}")
        if num_threads is None:
            num_threads = min(processors(), MOST_DEFAULT_THREADS)
        for name, value in (("num_threads", num_threads), ("prefetch", prefetch)):
            if value < 1:
                raise InputError(f"{name} is at least 1, not {value}")
        if bad_images not in BAD_IMAGES + ("report",):
            raise InputError(f"bad_images is fail, skip or report, not {bad_images}")
        if dtype not in ("uint8", "float32"):
            raise InputError(f"dtype is uint8 or float32, not {dtype}")
        if path_root and not os.path.isdir(path_root):
            raise InputError(f"{printable(path_root)}: no such folder (path_root, where the names "
                             "in the .lst start from)")
        lst = path_imglist
        if isinstance(lst, (str, os.PathLike)):
            lst = read_lst(lst, label_width, label_format)
        elif label_width not in (None, lst.num_classes):
            raise InputError(f"{lst.path}: {lst.num_classes} labels, but label_width is "
                             f"{label_width}")
        self.lst = lst
        self.data_shape = data_shape
        self.dtype = dtype
        self.num_classes = lst.num_classes
        self.num_threads, self.prefetch = num_threads, prefetch
        self.bad_images = bad_images
        self._order = EpochOrder(len(lst), batch_size, shuffle, seed, part_index, num_parts,
                                 last_batch_handle)
        self.num_rows = self._order.num_rows
        self._fill = functools.partial(_fill, lst, path_root, augment or Augment(), seed)
        self.provide_data = [mx.io.DataDesc(data_name, (batch_size,) + data_shape,
                                            np.dtype(dtype).type, "NCHW")]
        self.provide_label = [mx.io.DataDesc(label_name, (batch_size, lst.num_classes),
                                             np.float32, "NC")]
        self.bad_rows = {}
        self.seek(0, 0)

    @property
    def num_batches(self):
        """Batches in this epoch: the same in all shards."""
        return self._order.num_batches(self.epoch)

    def reset(self):
        """Begin the next epoch, if anything of this one was asked for; else do nothing."""
        if self._begun:
            self.seek(self.epoch + 1, 0)

    def seek(self, epoch, batch):
        """Go to a batch of an epoch, without reading those before it.

        Parameters
        ----------
        epoch, batch : int
            From 0. What follows is what a run that never stopped would get.

        Raises
        ------
        InputError
            When there is no such batch. The number just after the last is the epoch's end.
        """
        if epoch < 0 or not 0 <= batch <= self._order.num_batches(epoch):
            raise InputError(f"{self.lst.path}: there is no batch {batch} in epoch {epoch}")
        self.close()
        self.epoch = epoch
        self._batch = batch
        self._begun = False
        self.num_bad = self._num_read = 0

    def next(self):
        """The next batch.

        Returns
        -------
        mx.io.DataBatch
            data: [(batch_size, 3, height, width)], RGB; label: [(batch_size, num_classes)],
            float32; pad: slots at the end that only fill the batch up; index: int64,
            (batch_size,), the samples' rows in the .lst, from 0; bad: dict of int to str,
            the slots of images left out, and why.

        Raises
        ------
        StopIteration
            At the end of the epoch.
        InputError
            When an image cannot be used, or, with "skip", too many.
        """
        self._begun = True
        if self._batch == self.num_batches:
            self.close()
            raise StopIteration
        try:
            batch = self._next_filled()
            bad = self._bad_slots(batch)
        except BaseException:
            # Ctrl-C too. Asked again, the iterator starts again from this batch.
            self.close()
            raise
        self._batch += 1
        labels = self.lst.labels(batch.rows)
        labels[self.batch_size - batch.pad:] = -1
        labels[list(bad)] = -1
        data = batch.data if self.dtype == "uint8" else batch.data.astype(self.dtype)
        made = mx.io.DataBatch([data], [mx.nd.array(labels)], pad=batch.pad, index=batch.rows)
        made.bad = bad
        return made

    def close(self):
        """End the threads and free what was read ahead. Reading on starts them again."""
        if self._series is not None:
            # In this order, so that a Ctrl-C in between leaves something to close again.
            self._series.stop()
            self._finalizer.detach()
            self._series = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):
        raise TypeError("LstIter has threads and cannot be pickled; make one in each process")

    def _next_filled(self):
        if self._series is None or self._series.forked:
            self.close()
            data_shape = self.data_shape  # a reference to `self` would keep the iterator alive
            batches = (Batch(*plan, data_shape)
                       for plan in self._order.batches(self.epoch, self._batch))
            series = Prefetcher(batches, self._fill, self.num_threads, self.prefetch)
            self._finalizer = weakref.finalize(self, series.stop)
            self._series = series
        return self._series.next()

    def _bad_slots(self, batch):
        """Slots of images left out, and why, after raising what must not be left out."""
        real = self.batch_size - batch.pad
        bad = {}
        for slot in sorted(batch.errors):
            error, row = batch.errors[slot], int(batch.rows[slot])
            if not isinstance(error, ImageError):
                raise error
            bad[slot] = error.reason
            if self.bad_images == "report":
                continue
            reason = f"{printable(self.lst.path)}:{self.lst.line(row)}: {error}"
            if self.bad_images == "fail":
                raise InputError(f"{reason} (--bad-images skip leaves such images out)")
            if row not in self.bad_rows:
                self.bad_rows[row] = error.reason
                logger.warning("%s: left out", reason)
        # The errors know the frames that they were raised in, and these know the batch.
        batch.errors.clear()
        # Counted once the batch is sure to be handed out: asked again, it comes again.
        num_read = self._num_read + real
        num_bad = self.num_bad + sum(slot < real for slot in bad)
        if self.bad_images == "skip" and num_bad:
            # Against the whole epoch, so that it makes no difference where bad images stand.
            whole = (self.num_rows if self._order.last_batch_handle == "pad"
                     else self.num_batches * self.batch_size)
            if num_bad / whole > MOST_BAD:
                raise InputError(f"{printable(self.lst.path)}: {num_bad} of the first {num_read} "
                                 f"images of epoch {self.epoch} cannot be used, more than "
                                 f"{MOST_BAD:.0%} of all {whole}: "
                                 f"{next(iter(self.bad_rows.values()))}")
            if self._batch + 1 == self.num_batches:
                logger.warning("%s: %d of %d images left out in epoch %d", printable(self.lst.path),
                               num_bad, num_read, self.epoch)
        self._num_read, self.num_bad = num_read, num_bad
        return bad


def _fill(lst, path_root, augment, seed, batch, slot):
    """Write one sample into its batch. Knows no iterator, so that threads keep none alive."""
    row = int(batch.rows[slot])
    rng = sample_rng(seed, int(batch.epochs[slot]), row) if augment.random else None
    try:
        read_image(os.path.join(path_root, lst.name(row)), batch.pixels[slot], augment, rng)
    except ImageError:
        batch.pixels[slot] = NEUTRAL
        raise


def _shape(text):
    shape = tuple(int(side) for side in text.split(","))
    if len(shape) != 3:
        raise ValueError
    return shape


def main(argv=None):
    parser = ArgumentParser(
        description="Draw the samples that a network gets in training, with their labels.")
    parser.add_argument("lst", metavar="LST", help="the .lst")
    parser.add_argument("--path-root", default="", metavar="DIR",
                        help="folder that the names in the .lst start from")
    parser.add_argument("--show", required=True, metavar="PNG", help="picture to write")
    parser.add_argument("--image-shape", type=_shape, default=(3, 224, 224), metavar="3,H,W",
                        help="shape of a sample (default: 3,224,224)")
    parser.add_argument("--labels", metavar="FILE", help="class names in column order, one a line")
    parser.add_argument("--num-images", type=int, default=24, metavar="N",
                        help="samples to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of order and augmentation")
    add_data_args(parser)
    args = parser.parse_args(argv)

    lst = read_lst(args.lst, label_format=args.label_format)
    names = [str(number) for number in range(lst.num_classes)]
    if args.labels:
        names = read_class_names(args.labels, lst.num_classes)
    if args.num_images < 1:
        raise InputError(f"--num-images is at least 1, not {args.num_images}")
    batches = LstIter(min(args.num_images, len(lst)), args.image_shape, lst, args.path_root,
                      shuffle=True, seed=args.seed, num_threads=args.data_nthreads, prefetch=1,
                      augment=augment_from_args(args), bad_images=args.bad_images)
    with batches:
        batch = batches.next()
    pixels, labels = batch.data[0].asnumpy(), batch.label[0].asnumpy()
    captions = [f"{lst.ids[row]}: " + ", ".join(
        names[c] if label[c] == 1 else f"{names[c]} {label[c]:g}" for c in np.flatnonzero(label > 0)
    ) for row, label in zip(batch.index, labels)]
    sheet = contact_sheet.draw(pixels, captions)
    # Encoded here, because by a file's name OpenCV knows some formats only.
    encoded = cv2.imencode(".png", sheet[:, :, ::-1])[1]
    write_atomically(args.show, encoded.tofile)


if __name__ == "__main__":
    run(main)
