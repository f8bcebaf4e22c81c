"""The warm head: train the new classifier on stored features before fine-tuning everything.

While the backbone is frozen, its features of an image never change. So every image passes through
it once, and the classifier trains on the stored features in seconds. Starting fine-tuning from
such a head distorts the pretrained features less: Kumar et al., "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution", ICLR 2022
(https://arxiv.org/abs/2202.10054).
"""
import logging
import os
import tempfile

import numpy as np
from tqdm import tqdm

from common.cli import InputError
from common.mx_compat import mx
from network.fine_tune import split_head, with_head
from network.forward_pass import ForwardPass
from training.workers import Workers

logger = logging.getLogger("train_multilabel")

BATCH_SIZE = 32
LEARNING_RATE = 0.001
ROWS_A_MESSAGE = 4096


class FeatureIter(mx.io.DataIter):
    """Batches of stored features, shuffled anew each epoch.

    Parameters
    ----------
    features : np.ndarray, (rows, values), float32
        May be a memory map: only the rows of a batch are read.
    labels : np.ndarray, (rows, classes), float32
        1, 0, -1 unknown, or soft.
    batch_size : int
    seed : int or None
        Of the order; None keeps it. The last batch is filled up with rows of label -1.
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
        label = np.full((self.batch_size, self.labels.shape[1]), -1, np.float32)
        label[:len(rows)] = self.labels[rows]
        data = np.zeros((self.batch_size, self.features.shape[1]), np.float32)
        data[:len(rows)] = self.features[rows]
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)], pad=pad)


def extract(forward, iterator, mirror, folder, max_bytes, on_batch=lambda _: None):
    """Pass an epoch of images through a network once.

    Parameters
    ----------
    forward : ForwardPass
        Of the backbone.
    iterator : LstIter
        In order; `index` of its batches is not needed, padding is left out.
    mirror : bool
        Whether each image also passes mirrored, as a further row.
    folder : str
        Where a memory-mapped file goes, which needs no name.
    max_bytes : int
        Above this the features stay in such a file.
    on_batch : callable
        Called after each batch; what it raises ends the pass.

    Returns
    -------
    features : np.ndarray, (rows, values), float32
    labels : np.ndarray, (rows, classes), float32
    """
    rows = iterator.num_rows * (2 if mirror else 1)
    features = allocate(rows, forward.num_values, folder, max_bytes)
    labels, row = [np.empty((0, iterator.num_classes), np.float32)], 0
    bar = tqdm(total=iterator.num_rows, desc="Features", unit="image", leave=False, disable=None)
    with bar:
        for batch in iterator:
            count = iterator.batch_size - batch.pad
            label = batch.label[0].asnumpy()[:count]
            for outputs in [forward(batch.data[0], count, mirror=turn)
                            for turn in ((False, True) if mirror else (False,))]:
                features[row:row + count] = outputs.values()
                labels.append(label)
                row += count
            bar.update(count)
            on_batch(batch)
    return features[:row], np.concatenate(labels)


def collect(workers, features, labels, folder, max_bytes):
    """Bring every worker's features to rank 0.

    Parameters
    ----------
    workers : Workers
    features, labels
        From `extract`, of this worker's images.
    folder, max_bytes
        As `extract`, for all rows together.

    Returns
    -------
    features, labels
        All of them at rank 0; elsewhere this worker's.
    """
    if workers.count == 1:
        return features, labels
    counts = np.zeros(workers.count)
    counts[workers.rank] = len(features)
    counts = workers.sum(counts).astype(int)
    if workers.rank == 0:
        all_features = allocate(counts.sum(), features.shape[1], folder, max_bytes)
        all_labels = np.empty((counts.sum(), labels.shape[1]), np.float32)
        places = np.cumsum(counts) - counts
    # In parts, so that rank 0 never holds more than a part of each worker's beside its own.
    for start in range(0, counts.max(), ROWS_A_MESSAGE):
        end = start + ROWS_A_MESSAGE
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


def train_head(net, arg_params, aux_params, train, val, epochs, mirror, loss_options, metric,
               val_metric, devices, seed, folder, max_bytes, workers=None,
               on_batch=lambda _: None):
    """Train the classifier alone, on features that each image gives once.

    Of several workers each passes its own images through the backbone, and rank 0 trains the
    classifier on the features of all.

    Parameters
    ----------
    net : mx.sym.Symbol
        From get_fine_tune_model.
    arg_params, aux_params : dict of str to mx.nd.NDArray
        Of the pretrained backbone.
    train, val : LstIter
        In order and without augmentation; val may be None. Both are read once.
    epochs : int
        Passes over the stored features (Adam, 0.001, batch 32).
    mirror : bool
        Whether the mirror image of each training image counts too.
    loss_options : dict
        The operator's, as the network itself uses them.
    metric, val_metric : mx.metric.EvalMetric
        Of training and of validation.
    devices : list of mx.Context
    seed : int
        Of the order and of the first weights.
    folder, max_bytes
        As `extract`.
    workers : Workers, optional
    on_batch : callable
        Called after each batch; what it raises ends the training.

    Returns
    -------
    head : dict of str to mx.nd.NDArray
        Weight and bias under their names in `net`.
    measures : dict of str to float
        On validation, by the last epoch; empty without `val`.
    """
    workers = workers or Workers()
    features, name = split_head(net)
    backbone = ForwardPass(features, arg_params, aux_params, train.provide_data[0], devices)
    images = len(train.lst) + (len(val.lst) if val else 0)
    logger.info("Warm head: passing %d images once through the frozen backbone", images)
    stored, val_stored = (
        iterator and collect(workers, *extract(backbone, iterator, flips, folder, max_bytes,
                                               on_batch), folder, max_bytes)
        for iterator, flips in ((train, mirror), (val, False)))
    del backbone
    if workers.rank:
        return received(workers.broadcast(None))
    batches = FeatureIter(*stored, BATCH_SIZE, seed)
    val_batches = val_stored and FeatureIter(*val_stored, BATCH_SIZE)

    head = with_head(mx.sym.Variable("features"), stored[1].shape[1], name, loss_options)
    measures = {}
    module = mx.mod.Module(head, ["features"], ["softmax_label"], context=devices[0],
                           logger=WarmHeadLog(logger, {}))
    mx.random.seed(seed)
    np.random.seed(seed)
    module.fit(
        batches, eval_data=val_batches, eval_metric=metric, validation_metric=val_metric,
        batch_end_callback=on_batch,
        eval_end_callback=lambda p: measures.update(p.eval_metric.get_name_value()),
        initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
        optimizer="adam", optimizer_params={"learning_rate": LEARNING_RATE}, num_epoch=epochs)
    trained = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
    return received(workers.broadcast({
        **{f"head:{name}": value for name, value in trained.items()},
        **{f"measure:{name}": value for name, value in measures.items()}}))


def received(message):
    """Head and measures, from what rank 0 told."""
    kinds = {"head": {}, "measure": {}}
    for key, value in message.items():
        kind, _, name = key.partition(":")
        kinds[kind][name] = mx.nd.array(value) if kind == "head" else float(value)
    return kinds["head"], kinds["measure"]


class WarmHeadLog(logging.LoggerAdapter):
    """Calls its epochs by another name, so that nobody takes them for the fine-tuning's."""

    def process(self, msg, kwargs):
        """The message, renamed."""
        return msg.replace("Epoch[", "Warm head["), kwargs
