"""The lists and iterators of a run."""
import logging
import time
from typing import Any, NamedTuple

from common.cli import InputError
from common.progress import Progress
from lst_iter import LstIter

logger = logging.getLogger("train_multilabel")


class Split(NamedTuple):
    """What training and validation have each of: lists, iterators, metrics."""

    train: Any
    val: Any  # None without validation


def read_lists(flags, workers):
    """The SampleLists of a run, a Split; --num-examples must be the length of the training list."""
    train = workers.read_list(flags.data_train, flags.image_train, flags.num_classes,
                              flags.label_format)
    # make_lst.py shard fills the shorter lists up with a row that does not count.
    fillers = workers.count - 1 if train.lst.path != flags.data_train else 0
    if (flags.num_examples is not None
            and not 0 <= train.num_rows - flags.num_examples <= fillers):
        raise InputError(f"{train.num_rows} rows, but {{flag}} is {flags.num_examples}",
                         file=flags.data_train, flag="--num-examples")
    val = flags.data_val and workers.read_list(
        flags.data_val, flags.image_val or flags.image_train, train.num_classes,
        flags.label_format)
    return Split(train, val or None)


def open_data(settings, lists):
    """The iterators of a run: training is shuffled and augmented, validation in order."""
    return Split(open_iterator(settings, lists.train, augmented=True),
                 lists.val and open_iterator(settings, lists.val))


def open_iterator(settings, lst, augmented=False, **options):
    """An LstIter over a SampleList: shuffled and augmented, or in order; `options` are its own."""
    flags = settings.flags
    options = {
        "shuffle": augmented, "part_index": lst.shard[0], "num_parts": lst.shard[1],
        "seed": flags.seed, "num_threads": flags.data_nthreads, "bad_images": flags.bad_images,
        "read_options": settings.reading if augmented else settings.plain_reading, **options}
    return LstIter(settings.batch_size, settings.image_shape, lst.lst, lst.folder, **options)


def measure_reading(train):
    """Read one epoch and log how fast that went."""
    start, images = time.time(), 0
    with Progress("Reading", train.num_rows, "images") as progress:
        for batch in train:
            images += train.batch_size - batch.pad
            progress.update(train.batch_size - batch.pad)
    seconds = time.time() - start
    logger.info("Read %d images in %.1f s: %.0f samples/sec", images, seconds, images / seconds)
