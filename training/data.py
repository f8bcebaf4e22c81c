"""The images and labels of a run, and what else travels together through it."""
import logging
import math
import time
from typing import NamedTuple, Optional

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from common.progress import Progress
from lst_iter import LstIter
from network import checkpoint
from network.shape_check import check_shapes
from reading.data_args import augment_from_args
from reading.image_shape import best_shape, median_size
from training.worker_lists import WorkersList
from training.workers import Workers

logger = logging.getLogger("train_multilabel")


class Network(NamedTuple):
    """A symbol and its parameters."""

    symbol: mx.sym.Symbol
    arg_params: dict
    aux_params: dict


class Devices(NamedTuple):
    """What computes: this worker's contexts, the kvstore, and all workers."""

    contexts: list
    kv: mx.kvstore.KVStore
    workers: Workers


class Data(NamedTuple):
    """Iterators over training and validation, and the lists behind them; validation may be None.

    `why_shape` says how --image-shape auto was chosen; None for any other.
    """

    train: LstIter
    val: Optional[LstIter]
    train_lst: WorkersList
    val_lst: Optional[WorkersList]
    why_shape: Optional[str]


def open_data(args, pretrained, workers):
    """The Data of a run, if the training list is as long as --num-examples says.

    An --image-shape of "auto" is replaced by what it comes to.
    """
    train_lst = WorkersList(args.data_train, args.image_train, workers, args.num_classes,
                            args.label_format)
    # make_lst.py shard fills the shorter lists up with a row that does not count.
    fillers = workers.count - 1 if train_lst.lst.path != args.data_train else 0
    if (args.num_examples is not None
            and not 0 <= train_lst.num_rows - args.num_examples <= fillers):
        raise InputError(f"{args.data_train} has {train_lst.num_rows} rows, but --num-examples "
                         f"is {args.num_examples}")
    why_shape = None
    if args.image_shape == "auto":
        args.image_shape, why_shape = choose_image_shape(args, train_lst, pretrained, workers)
    train = open_iterator(args, train_lst, augmented=True)
    if not args.data_val:
        return Data(train, None, train_lst, None, why_shape)
    val_lst = WorkersList(args.data_val, args.image_val or args.image_train, workers,
                          train.num_classes, args.label_format)
    return Data(train, open_iterator(args, val_lst), train_lst, val_lst, why_shape)


def choose_image_shape(args, images, pretrained, workers):
    """The shape that --image-shape auto comes to for a WorkersList, and why; rank 0 decides."""
    shape = checkpoint.get_attributes(pretrained.symbol).get("image_shape", [3, 224, 224])
    size = None if workers.rank else median_size(images.lst, images.folder, args.max_pixels)
    if size is None:
        why = "the checkpoint's, because no training image can be read"
    else:
        found = best_shape(*size, args.image_area)
        why = "for training images of {:.0f}x{:.0f} pixels in the median".format(*size)
        try:
            check_shapes(*pretrained, found, args.model, math.inf)
            shape = found
        except InputError:
            why = "the checkpoint's, because the network does not work on {1}x{2}".format(*found)
    shape = workers.broadcast({"shape": np.array(shape)})["shape"].tolist()
    return shape, f"Image shape {','.join(map(str, shape))} (height, width): {why}"


def open_iterator(args, images, augmented=False):
    """An iterator over a WorkersList: shuffled and augmented, or in order."""
    return LstIter(
        batch_size=args.batch_size, data_shape=args.image_shape, path_imglist=images.lst,
        path_root=images.folder, shuffle=augmented, part_index=images.readers.rank,
        num_parts=images.readers.count, seed=args.seed, num_threads=args.data_nthreads,
        bad_images=args.bad_images, augment=augment_from_args(args, train=augmented))


def measure_reading(train):
    """Read one epoch and log how fast that went."""
    start, images = time.time(), 0
    with Progress("Reading", train.num_rows, "images") as progress:
        for batch in train:
            images += train.batch_size - batch.pad
            progress.update(train.batch_size - batch.pad)
    seconds = time.time() - start
    logger.info("Read %d images in %.1f s: %.0f samples/sec", images, seconds, images / seconds)
