"""What the frozen part of a network gives for each image, computed once and stored.

While layers are frozen, what they give for an image never changes, unless the images are cropped
or recoloured at random. So every image passes through them once: the warm head trains on the
features, and an epoch of fine-tuning costs only the last stages, which take the outputs of the
frozen ones before them.
"""
import logging
import math
import os
import tempfile

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from common.progress import Progress
from network.fine_tune import split_head
from network.forward_pass import ForwardPass, choose_forward_pass, multiplies_exactly
from network.graph import layers_up_to, params_of
from network.stages import FEATURES, layers_after
from reading.batch_sampler import BatchSampler, SampledIter
from training.data import Split, open_iterator
from training.settings import Network

logger = logging.getLogger("train_multilabel")

WARM_HEAD_STOPPED = " in the warm head, of which nothing is saved: the same command starts it anew"
ROWS_PER_MESSAGE = 4096


def pass_images(settings, network, compute, this_run):
    """Pass each image, and its mirror image where one is needed, once through the frozen layers.

    Training images may pass in int8, validation images pass in float32. Of several workers each
    passes its own images, and rank 0 gets what all of them give. A signal ends the pass. Returns,
    each by the lists, for the warm head and for the stages that are trained, (values, labels); None
    where they are not needed, or there is no list.
    """
    flags, lists, workers = settings.flags, this_run.lists, compute.workers
    outputs = {"features": split_head(network.symbol)[0]}
    mirrors = {"features": bool(flags.warm_head_mirror)}
    if not flags.warm_head_epochs or this_run.snapshot:
        del mirrors["features"]
    if settings.stores_activations:
        # Together with the features, also where these are not stored: in int8 one output may
        # depend on whether there are others, and a resumed run must get what the first one got.
        outputs["stages"] = layers_up_to(network.symbol, settings.last_frozen_layer)
        if flags.num_epoch:
            mirrors["stages"] = bool(flags.random_mirror)
    if not mirrors:
        return None, None
    network = network._replace(symbol=mx.sym.Group([*outputs.values()]))
    iterators = [lst and open_iterator(settings, lst) for lst in lists]
    num_passes = (1 + any(mirrors.values())) * lists.train.num_rows
    forward, reason = _open_forward_pass(settings, network, lists.train, num_passes, compute,
                                         this_run)
    logger.info("Passing %d images once through the frozen layers, in %s: %s",
                sum(lst.num_rows for lst in lists if lst), forward.precision, reason)
    passes = [forward, forward]
    if lists.val and forward.precision != "float32":
        # The best epoch and the thresholds are the checkpoint's, which predicts in float32.
        passes[1] = ForwardPass(*network, iterators[1].provide_data[0], compute.contexts)

    def stop_if_asked():
        this_run.stops.stop_unsaved(
            WARM_HEAD_STOPPED if "features" in mirrors else
            " in the frozen stages: --resume goes on from the snapshot" if this_run.snapshot else
            " in the frozen stages, before anything was saved: the same command starts anew")

    stored = {name: [] for name in ("features", "stages")}
    for lst, iterator, forward in zip(lists, iterators, passes):
        wanted = [None if name not in mirrors else mirrors[name] and lst is lists.train
                  for name in outputs]
        storage = flags.save_result, flags.feature_memory * 1e6
        found = extract(forward, iterator, wanted, *storage, stop_if_asked) if lst else [None] * 2
        for name, values in zip(outputs, found):
            stored[name].append(values and collect(workers, *values, *storage))
    return tuple(stored[name] if name in mirrors else None for name in stored)


def _open_forward_pass(settings, network, lst, num_passes, compute, this_run):
    """The ForwardPass of the frozen layers, in the run's precision, and the reason for that."""
    flags, begun, precision = settings.flags, None, settings.flags.frozen_precision
    why = "--frozen-precision"
    if this_run.snapshot:
        begun = this_run.record.frozen_precision or "float32"
        if precision == "auto":
            precision, why = begun, "as the run began"
            if begun == "int8" and not multiplies_exactly():
                raise InputError("the run began in int8, which this processor does not compute "
                                 "exactly; --frozen-precision int8 goes on all the same",
                                 flag="--resume")
    if compute.workers.count > 1:
        # Processors of several kinds could give different features.
        precision, why = "float32", "as there are several workers"
    # Not as augmented: the ranges of int8 are those of what passes.
    sample = open_iterator(settings, lst, shuffle=True, prefetch=1)
    with sample:
        forward, reason = choose_forward_pass(
            network, sample.provide_data[0], compute.contexts, precision, num_passes,
            lambda: sample.next().data[0])
    reason = reason or why
    if begun not in (None, forward.precision) and not flags.resume_anyway:
        raise InputError(f"the run began in {begun}, and now the frozen layers would be computed "
                         f"in {forward.precision} ({reason}); --resume-anyway goes on all the same",
                         flag="--resume")
    this_run.files.set_frozen_precision(forward.precision)
    return forward, reason


def after_frozen_stages(settings, network, stored):
    """The network after the frozen stages, and a Split that iterates over what these gave.

    `stored` is from `pass_images`.
    """
    train, val = stored
    data = Split(FeatureIter(*train, settings.batch_size, settings.flags.seed,
                             bool(settings.flags.random_mirror)),
                 val and FeatureIter(*val, settings.batch_size))
    rest = layers_after(network.symbol, settings.last_frozen_layer)
    return Network(rest, *params_of(rest, network.arg_params, network.aux_params)), data


class FeatureIter(SampledIter):
    """Batches of stored features; rows that fill up the last one have the label -1.

    `features`, (rows, values) float32 or (rows, channels, height, width) float16, may be a memory
    map: only the rows of a batch are read. `labels` are (rows, classes), float32. The sample order
    is new in each epoch by the random `seed`; None keeps it. With `mirror` each two rows are an
    image and its mirror image, of which an epoch takes one at random. The attributes and methods
    are those of LstIter.
    """

    def __init__(self, features, labels, batch_size, seed=None, mirror=False):
        super().__init__(batch_size)
        self.features, self.labels, self.seed, self.mirror = features, labels, seed, mirror
        self.num_rows, self.num_classes = len(labels) // (1 + mirror), labels.shape[1]
        self._sampler = BatchSampler(self.num_rows, batch_size, seed is not None, seed or 0)
        self.provide_data = [
            mx.io.DataDesc(FEATURES, (batch_size, *features.shape[1:]), features.dtype)]
        self.provide_label = [mx.io.DataDesc("softmax_label", (batch_size, labels.shape[1]))]
        self.seek(0, 0)

    def seek(self, epoch, batch):
        """Continue at a batch of an epoch, both from 0."""
        self.epoch, self._begun = epoch, False
        self._batches = self._sampler.batches(epoch, batch)
        if self.mirror:
            draw = np.random.RandomState([self.seed, epoch, 1])
            self._turns = draw.randint(2, size=self.num_rows)

    def next(self):
        self._begun = True
        rows, _, pad = next(self._batches)
        if self.mirror:
            rows = 2 * rows + self._turns[rows]
        data, label = self.features[rows], self.labels[rows]
        label[self.batch_size - pad:] = -1
        return mx.io.DataBatch([mx.nd.array(data, dtype=data.dtype)], [mx.nd.array(label)],
                               pad=pad)


def extract(forward, iterator, mirrors, folder, max_bytes, check_stop=lambda: None):
    """Pass an epoch of an LstIter's images through a ForwardPass once; padding is left out.

    `mirrors` says of each output of the network whether that of an image's mirror image is stored,
    too, as the row after its own; None: the output is not stored. Once those stored take
    `max_bytes`, further ones stay in a memory-mapped file of the folder. What `check_stop` raises
    after a batch ends the pass.

    Returns of each output None or the stored values and the labels: (rows, values) float32, or of
    feature maps (rows, channels, height, width) float16, and (rows, classes).
    """
    count, stored = iterator.num_rows, {}
    for number, mirror in enumerate(mirrors):
        if mirror is not None:
            shape = forward.output_shapes[number]
            stored[number] = allocate(count * (1 + mirror), shape, folder, max_bytes).reshape(
                count, 1 + mirror, *shape)
            max_bytes -= stored[number].nbytes
    labels, row = np.empty((count, iterator.num_classes), np.float32), 0
    iterator.reset()
    with Progress("Features", count, "images") as progress:
        for batch in iterator:
            count = iterator.batch_size - batch.pad
            labels[row:row + count] = batch.label[0].asnumpy()[:count]
            turns = (False, True) if any(mirrors) else (False,)
            for turn, outputs in enumerate(
                    [forward(batch.data[0], count, mirror=turn) for turn in turns]):
                for number, array in stored.items():
                    if turn and not mirrors[number]:
                        continue
                    values = outputs.values(number)
                    if values.size and not np.abs(values).max() <= np.finfo(array.dtype).max:
                        raise InputError("the backbone's features are not finite, or too large to "
                                         "be stored: is --rgb-std right for this network?")
                    array[row:row + count, turn] = values
            row += count
            progress.update(count)
            check_stop()
    return [None if mirror is None else
            (stored[number][:row].reshape(-1, *forward.output_shapes[number]),
             np.repeat(labels[:row], 1 + mirror, axis=0)) for number, mirror in enumerate(mirrors)]


def collect(workers, features, labels, folder, max_bytes):
    """Features and labels from `extract` of all workers at rank 0; elsewhere this worker's."""
    if workers.count == 1:
        return features, labels
    counts = workers.sum(np.eye(workers.count)[workers.rank] * len(features)).astype(int)
    if workers.rank == 0:
        all_features = allocate(counts.sum(), features.shape[1:], folder, max_bytes)
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


def allocate(rows, shape, folder, max_bytes):
    """An array for the features of `rows` images, which above `max_bytes` lives in a file."""
    dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
    shape = (int(rows), *map(int, shape))
    size = math.prod(shape) * dtype.itemsize
    if size <= max_bytes or not size:
        return np.empty(shape, dtype)
    # The file has no name, so that nothing of it remains however the process ends.
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as the map
    try:
        # Writing to a map for which the disk has no room would kill the process without a word.
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise InputError(f"no room for {size / 1e6:.0f} MB of features: {error.strerror}; "
                         "--feature-memory keeps them in memory", file=folder) from None
    return np.memmap(file, dtype, "w+", shape=shape)
