"""What a run learns from: its lists and iterators, a check of the images, and its metrics."""
import logging
import time
from typing import Any, NamedTuple

from common.cli import InputError
from common.progress import Progress
from lst_iter import LstIter
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision
from network.fine_tune import variance_ratio

logger = logging.getLogger("train_multilabel")

# Training's mAP is that of the epoch's latest samples, to bound its memory and each snapshot's.
TRAINING_MAP_SAMPLES = 20000
TRAINING_MAP_BYTES = 50e6
BYTES_PER_LABEL = 5
CHECKED_IMAGES = 16
# Right normalisations gave 0.27 to 1.04 on photos, wrong ones 8e-5 to 0.04.
LEAST_RATIO, LARGEST_RATIO = 0.1, 10


class Split(NamedTuple):
    """What training and validation have each of: lists, iterators, metrics."""

    train: Any
    val: Any  # None without validation


def read_lists(flags, workers):
    """The SampleLists of a run, a Split; --num-examples must be the length of the training list."""
    train = workers.read_list(flags.data_train, flags.image_train, flags.num_classes,
                              flags.label_format)
    if flags.num_examples not in (None, train.num_rows):
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
        "read_options": settings.reading if augmented else settings.reading.plain, **options}
    return LstIter(settings.batch_size, settings.image_shape, lst.lst, lst.folder, **options)


def check_normalisation(network, lst, image_shape, read_options):
    """A warning where images of a SampleList vary otherwise than the network's own did: a list."""
    with LstIter(min(CHECKED_IMAGES, len(lst.lst)), image_shape, lst.lst, lst.folder, shuffle=True,
                 prefetch=1, read_options=read_options, bad_images="report") as images:
        batch = next(images)
    is_read = (batch.label[0].asnumpy() >= 0).any(axis=1)  # training says what is wrong with others
    found = is_read.any() and variance_ratio(*network, batch.data[0].asnumpy()[is_read])
    if not found or LEAST_RATIO <= found[1] <= LARGEST_RATIO:
        return []
    return ["at {} the training images vary {:.2g} times as much as those that the network was "
            "trained on (median over channels): is it normalised otherwise? --rgb-mean and "
            "--rgb-std say how".format(*found)]


def measure_reading(train):
    """Read one epoch and log how fast that went."""
    start = time.monotonic()
    with Progress("Reading", train.num_rows, "images") as progress:
        for batch in train:
            progress.update(train.batch_size - batch.pad)
    seconds = time.monotonic() - start
    logger.info("Read %d images in %.1f s: %.0f samples/sec", progress.n, seconds,
                progress.n / seconds)


def make_metrics(loss, num_classes, workers):
    """The metrics of a run, a Split; `loss` are options of CrossEntropyLoss."""
    samples = min(TRAINING_MAP_SAMPLES, TRAINING_MAP_BYTES / (BYTES_PER_LABEL * num_classes))
    latest = max(int(samples / workers.count), 1)
    return Split(*(workers.metrics([Loss(loss), Accuracy(), MeanAveragePrecision(latest=latest)])
                   for latest in (latest, None)))
