"""The warm head: train the new classifier on stored features before fine-tuning everything.

While the backbone is frozen, its features of an image never change. So every image passes through
it once, and the classifier trains on the stored features in seconds. Starting fine-tuning from
such a head distorts the pretrained features less: Kumar et al., "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution", ICLR 2022
(https://arxiv.org/abs/2202.10054).
"""
import json
import logging
import os
import tempfile
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.cli import InputError
from common.mx_compat import mx
from network.checkpoint import with_layer
from network.fine_tune import split_head
from network.forward_pass import ForwardPass
from training.optimization import INITIALIZER

logger = logging.getLogger("train_multilabel")

BATCH_SIZE = 32
LEARNING_RATE = 0.001
ROWS_PER_MESSAGE = 4096


class WarmHead(NamedTuple):
    """How to train the head."""

    epochs: int  # passes over the stored features
    mirror: bool  # whether each training image's mirror image gives features too
    seed: int  # random seed of the sample order and of the first weights
    folder: str  # where features are stored that take more than max_bytes
    max_bytes: float


class FeatureIter(mx.io.DataIter):
    """Batches of stored features; the last one is filled up with rows of label -1.

    Parameters
    ----------
    features, labels : np.ndarray, (rows, values) and (rows, classes), float32
        Features may be a memory map: only the rows of a batch are read.
    batch_size : int
    seed : int, optional
        Random seed of the sample order, new in each epoch; None keeps the order.
    """

    def __init__(self, features, labels, batch_size, seed=None):
        super().__init__(batch_size)
        self.features, self.labels, self.seed = features, labels, seed
        self.provide_data = [mx.io.DataDesc("features", (batch_size, features.shape[1]))]
        self.provide_label = [mx.io.DataDesc("softmax_label", (batch_size, labels.shape[1]))]
        self.epoch = -1
        self.reset()

    def reset(self):
        """Begin the next epoch."""
        self.epoch += 1
        self.start = 0
        self.order = np.arange(len(self.features))
        if self.seed is not None:
            np.random.RandomState([self.seed, self.epoch]).shuffle(self.order)

    def next(self):
        """The next batch."""
        if self.start >= len(self.order):
            raise StopIteration
        rows = self.order[self.start:self.start + self.batch_size]
        self.start += self.batch_size
        pad = self.batch_size - len(rows)
        data = np.pad(self.features[rows], ((0, pad), (0, 0)))
        label = np.pad(self.labels[rows], ((0, pad), (0, 0)), constant_values=-1)
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)], pad=pad)


def extract(forward, iterator, mirror, folder, max_bytes, on_batch=lambda _: None):
    """Pass an epoch of an LstIter's images through a ForwardPass once; padding is left out.

    With `mirror` each image also passes mirrored, as a further row. Features that take more than
    `max_bytes` stay in a memory-mapped file of the folder. What `on_batch` raises after a batch
    ends the pass. Returns features and labels, (rows, values) and (rows, classes).
    """
    turns = (False, True) if mirror else (False,)
    features = allocate(iterator.num_rows * len(turns), forward.num_values, folder, max_bytes)
    labels, row = [np.empty((0, iterator.num_classes), np.float32)], 0
    with tqdm(total=iterator.num_rows, desc="Features", unit="image", leave=False,
              disable=None) as bar:
        for batch in iterator:
            count = iterator.batch_size - batch.pad
            label = batch.label[0].asnumpy()[:count]
            for outputs in [forward(batch.data[0], count, mirror=turn) for turn in turns]:
                features[row:row + count] = outputs.values()
                labels.append(label)
                row += count
            bar.update(count)
            on_batch(batch)
    return features[:row], np.concatenate(labels)


def collect(workers, features, labels, folder, max_bytes):
    """Features and labels from `extract` of all workers at rank 0; elsewhere this worker's."""
    if workers.count == 1:
        return features, labels
    counts = workers.sum(np.eye(workers.count)[workers.rank] * len(features)).astype(int)
    if workers.rank == 0:
        all_features = allocate(counts.sum(), features.shape[1], folder, max_bytes)
        all_labels = np.empty((counts.sum(), labels.shape[1]), np.float32)
        places = np.cumsum(counts) - counts
    # In parts, so that rank 0 never holds more than a part of each worker's beside its own.
    for start in range(0, counts.max(), ROWS_PER_MESSAGE):
        end = start + ROWS_PER_MESSAGE
        parts = workers.gather({"features": np.asarray(features[start:end]),
                                "labels": labels[start:end]})
        for place, part in zip(places, parts) if parts else ():
            rows = slice(place + start, place + start + len(part["labels"]))
            all_features[rows], all_labels[rows] = part["features"], part["labels"]
    return (features, labels) if workers.rank else (all_features, all_labels)


def allocate(rows, values, folder, max_bytes):
    """An array of float32, (rows, values), which above `max_bytes` lives in a file."""
    size = int(rows) * values * 4
    if size <= max_bytes or not size:
        return np.empty((rows, values), np.float32)
    # The file has no name, so that nothing of it remains however the process ends.
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as the map
    try:
        # Writing to a map for which the disk has no room would kill the process without a word.
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise InputError(f"{folder}: no room for {size / 1e6:.0f} MB of features: "
                         f"{error.strerror}; --warm-head-memory keeps them in memory") from None
    return np.memmap(file, np.float32, "w+", shape=(int(rows), int(values)))


def train_head(network, data, metrics, devices, options, on_batch=lambda _: None):
    """Train the classifier alone, on features that each image gives once.

    Of several workers each passes its own images through the backbone, and rank 0 trains the
    classifier on the features of all. What `on_batch` raises after a batch ends the training.

    Parameters
    ----------
    network : Network
        From get_fine_tune_model, with the pretrained backbone's parameters.
    data : tuple of LstIter
        Training and validation (or None), in order and without augmentation; each is read once.
    metrics : tuple of mx.metric.EvalMetric
        Of training and of validation.

    Returns
    -------
    head : dict of str to mx.nd.NDArray
        Weight and bias under their names in the network.
    scores : dict of str to float
        Last metrics of validation, empty without it.
    """
    workers = devices.workers
    features, _ = split_head(network.symbol)
    backbone = ForwardPass(features, network.arg_params, network.aux_params,
                           data[0].provide_data[0], devices.contexts)
    logger.info("Warm head: passing %d images once through the frozen backbone",
                sum(len(iterator.lst) for iterator in data if iterator))
    storage = options.folder, options.max_bytes
    stored = [
        iterator and collect(workers, *extract(backbone, iterator, mirror, *storage, on_batch),
                             *storage)
        for iterator, mirror in zip(data, (options.mirror, False))]
    del backbone  # frees its memory
    trained = workers.broadcast(None if workers.rank else _train(
        network, features.name, stored, metrics, devices, options, on_batch))
    return ({name: mx.nd.array(value) for name, value in trained.items() if np.ndim(value)},
            {name: float(value) for name, value in trained.items() if not np.ndim(value)})


def _train(network, features, stored, metrics, devices, options, on_batch):
    """Train the network's own head on stored features; its arrays, and the last scores."""
    head = with_layer(json.loads(network.symbol.tojson()), features, mx.sym.Variable("features"))
    scores = {}
    module = mx.mod.Module(head, ["features"], ["softmax_label"], context=devices.contexts[0],
                           logger=WarmHeadLog(logger, {}))
    mx.random.seed(options.seed)
    np.random.seed(options.seed)
    module.fit(
        FeatureIter(*stored[0], BATCH_SIZE, options.seed),
        eval_data=stored[1] and FeatureIter(*stored[1], BATCH_SIZE),
        eval_metric=metrics[0], validation_metric=metrics[1], batch_end_callback=on_batch,
        eval_end_callback=lambda p: scores.update(p.eval_metric.get_name_value()),
        initializer=INITIALIZER, optimizer="adam",
        optimizer_params={"learning_rate": LEARNING_RATE}, num_epoch=options.epochs)
    trained = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
    return {**trained, **scores}


class WarmHeadLog(logging.LoggerAdapter):
    """Logs "Warm head[" for "Epoch[", to tell its epochs from those of fine-tuning."""

    def process(self, msg, kwargs):
        """The message, renamed."""
        return msg.replace("Epoch[", "Warm head["), kwargs
