"""What the frozen part of a network gives for each image, computed once and stored.

That never changes, unless the images are cropped or recoloured at random. In the order of a run:

- `choose_stages`: which stages --freeze-stages freezes.
- `pass_images`: each image once through what is frozen. What it stores is trained on by FeatureIter
  and, with frozen stages, the network that `after_frozen_stages` gives: an epoch of fine-tuning
  then costs only the last stages.
- `train_warm_head`: the new classifier alone, on the stored features. Starting from such a head
  distorts the pretrained features less: Kumar et al., "Fine-Tuning can Distort Pretrained Features
  and Underperform Out-of-Distribution", ICLR 2022 (https://arxiv.org/abs/2202.10054).
"""
import itertools
import logging
import math
import os
import tempfile
import time

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from common.progress import Progress
from network.fine_tune import split_head
from network.forward_pass import ForwardPass, choose_forward_pass, multiplies_exactly
from network.graph import Graph, layer_shapes, layers_up_to, params_of, replaced
from reading.batch_sampler import BatchSampler, SampledIter
from training.compute import Alone
from training.data import Split, make_metrics, open_iterator
from training.module import FineTuningModule
from training.run_files import with_prefix

logger = logging.getLogger("train_multilabel")

# Of choose_stages.
LARGE_IMAGE = 100_000  # pixels
WIDER = 4  # times as many channels as the narrowest layer of a stage: of ResNets the last layers
# Of pass_images.
FEATURES = "features"  # the input of a network that trains on what is stored
ROWS_PER_MESSAGE = 4096
NOT_SAVED = (" in the warm head or the pass through frozen layers before it, of which nothing is "
             "saved: the same command begins them anew")
# Of the warm head.
BATCH_SIZE = 32
LEARNING_RATE = 0.003
WARM_UP = 0.2  # share of the updates in which the learning rate rises
# The penalty of a weight w on standardised features is w**2 / (2 * this * rows).
INVERSE_PENALTY = 0.0003
LEAST_RATE = 1e-3  # of a class's present labels that its first bias is set for
STANDARDISATION = ("mean", "scale")
ROWS_PER_SUM = 256


def choose_stages(symbol, image_shape, number):
    """How many stages --freeze-stages freezes, and the name of their last layer; 0 and None.

    "auto" is 3, and 4 for images of over 100,000 pixels, but never the last stage; transformers
    have none. On photos of 480x320 pixels 4 were as good as 3, in half of the time and memory; on
    drawings of 128x128 pixels 3 were better. An InputError says how many stages there are.
    """
    stages = find_stages(symbol, image_shape)
    if number == "auto":
        number = 4 if math.prod(image_shape[1:]) > LARGE_IMAGE else 3
        number = max(min(number, len(stages) - 1), 0)
    elif number >= len(stages):
        shapes = ", ".join("x".join(map(str, shape)) for _, shape in stages) or "none"
        raise InputError(f"the network has {len(stages)} stages ({shapes}), of which the last is "
                         "left to train", flag=f"--freeze-stages {number}")
    return number, stages[number - 1][0] if number else None


def find_stages(symbol, image_shape):
    """The last layer of each stage but the head's, and its shape (channels, height, width).

    A stage is a run of layers of one resolution. Its last layer is the last one on every path; a
    next stage that begins by adding channels before it reduces the resolution (as inverted
    residuals do) does not count.
    """
    backbone = split_head(symbol)[0]
    shapes = layer_shapes(backbone, image_shape)
    nodes = Graph(backbone).nodes
    last_use = {source: number for number, node in enumerate(nodes)
                for source, *_ in node.inputs}
    layers, open_until = [], 0  # the layers that are the last one on every path, with shapes
    for number, node in enumerate(nodes):
        if node.is_variable and node.name != "data":
            continue  # a parameter
        # Nothing before this layer is used after it.
        alone, open_until = open_until <= number, max(open_until, last_use.get(node, number))
        shape = shapes.get(node.name + "_output", ())[1:]
        if (alone and len(shape) == 3 and shape[1:] != (1, 1)
                and not node.name.startswith(("rgb_", "data"))):
            layers.append((node.name, shape))
    stages = []
    for _, stage in itertools.groupby(layers, lambda layer: layer[1][1:]):
        stage = list(stage)
        widest = WIDER * min(shape[0] for _, shape in stage)
        stages.append([layer for layer in stage if layer[1][0] <= widest][-1])
    return stages


def pass_images(settings, network, compute, this_run):
    """Pass each image, and its mirror image where one is needed, once through the frozen layers.

    Training images may pass in int8, validation images pass in float32. Of several workers each
    passes its own images, and rank 0 gets what all of them give. A signal ends the pass. Returns,
    each by the lists, for the warm head and for the stages that are trained, (values, labels); None
    where they are not needed, or there is no list.
    """
    flags, lists, workers = settings.flags, this_run.lists, compute.workers
    outputs, mirrors = {}, {}  # what passes; of what is stored, whether with mirror images
    if flags.warm_head_epochs:
        # Also where they are not stored: in int8 one output may depend on whether there are others,
        # and a resumed run must get what the first one got.
        outputs["features"] = split_head(network.symbol)[0]
        if not this_run.snapshot:
            mirrors["features"] = bool(flags.warm_head_mirror)
    if settings.stores_activations:
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

    stored, storage = {}, (flags.save_result, flags.feature_memory * 1e6)
    for lst, iterator, forward in zip(lists, iterators, passes):
        found = lst and extract(
            forward, iterator, {number: mirrors[name] and lst is lists.train
                                for number, name in enumerate(outputs) if name in mirrors},
            *storage, lambda: this_run.stops.stop_unsaved(NOT_SAVED))
        for number, name in enumerate(outputs):
            if name in mirrors:
                stored.setdefault(name, []).append(
                    found and collect(workers, *found[number], *storage))
    return stored.get("features"), stored.get("stages")


def _open_forward_pass(settings, network, lst, num_passes, compute, this_run):
    """The ForwardPass of the frozen layers, in the run's precision, and the reason for that."""
    flags, precision, why = settings.flags, settings.flags.frozen_precision, "--frozen-precision"
    begun = (this_run.record.frozen_precision or "float32") if this_run.snapshot else None
    if compute.workers.count > 1:
        # Processors of several kinds could give different features.
        precision, why = "float32", "as there are several workers"
    elif begun and precision == "auto":
        precision, why = begun, "as the run began"
        if begun == "int8" and not multiplies_exactly():
            raise InputError("the run began in int8, which this processor does not compute "
                             "exactly; --frozen-precision int8 goes on all the same",
                             flag="--resume")
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


def extract(forward, iterator, mirrors, folder, max_bytes, check_stop=lambda: None):
    """Pass an epoch of an LstIter's images through a ForwardPass once; padding is left out.

    `mirrors` has the numbers of the network's outputs that are stored, and says of each whether
    that of an image's mirror image is, too, as the row after its own. Once those stored take
    `max_bytes`, further ones stay in a memory-mapped file of the folder. What `check_stop` raises
    after a batch ends the pass.

    Returns a dict by the same numbers of values and labels: (rows, values) float32, or of feature
    maps (rows, channels, height, width) float16, and (rows, classes).
    """
    num_rows, stored = iterator.num_rows, {}
    for number, mirror in mirrors.items():
        shape = forward.output_shapes[number]
        stored[number] = allocate(num_rows * (1 + mirror), shape, folder, max_bytes).reshape(
            num_rows, 1 + mirror, *shape)
        max_bytes -= stored[number].nbytes
    labels, row = np.empty((num_rows, iterator.num_classes), np.float32), 0
    iterator.reset()
    with Progress("Features", num_rows, "images") as progress:
        for batch in iterator:
            count = iterator.batch_size - batch.pad
            labels[row:row + count] = batch.label[0].asnumpy()[:count]
            turns = [forward(batch.data[0], count, mirror=bool(turn))
                     for turn in range(1 + any(mirrors.values()))]
            for number, array in stored.items():
                for turn, outputs in enumerate(turns[:array.shape[1]]):
                    values = outputs.values(number)
                    if values.size and not np.abs(values).max() <= np.finfo(array.dtype).max:
                        raise InputError("the backbone's features are not finite, or too large to "
                                         "be stored: is --rgb-std right for this network?")
                    array[row:row + count, turn] = values
            row += count
            progress.update(count)
            check_stop()
    return {number: (array[:row].reshape(-1, *array.shape[2:]),
                     np.repeat(labels[:row], array.shape[1], axis=0))
            for number, array in stored.items()}


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


def after_frozen_stages(settings, network, stored):
    """The network after the frozen stages, and a Split of FeatureIters over what these gave."""
    train, val = stored
    data = Split(FeatureIter(*train, settings.batch_size, settings.flags.seed,
                             bool(settings.flags.random_mirror)),
                 val and FeatureIter(*val, settings.batch_size))
    rest = layers_after(network.symbol, settings.last_frozen_layer)
    arg_params, aux_params = params_of(rest, network.arg_params, network.aux_params)
    return network._replace(symbol=rest, arg_params=arg_params, aux_params=aux_params), data


def layers_after(symbol, name):
    """The network after layer `name`, in whose place is the input `features`, of any float type."""
    return replaced(symbol, name, mx.sym.Cast(mx.sym.Variable(FEATURES), dtype="float32"))


def train_warm_head(settings, network, features, compute, this_run):
    """The network with a head trained on `features` from pass_images: checkpoint 0 of the run."""
    files, workers = this_run.files, compute.workers
    # Rank 0 trains on the features of all workers.
    metrics = make_metrics(settings.loss, this_run.lists.train.num_classes, Alone())
    head, scores = map(workers.broadcast, (None, None) if workers.rank else train_head(
        network, features, metrics, compute.contexts[0], settings.flags,
        lambda: this_run.stops.stop_unsaved(NOT_SAVED)))
    scores = {name: float(value) for name, value in scores.items()}
    arg_params = {**network.arg_params,
                  **{name: mx.nd.array(value) for name, value in head.items()}}
    aux_params = network.aux_params
    files.check_finite(arg_params)
    files.save_checkpoint(0, arg_params, aux_params)
    files.close_epoch(0, {"seconds": time.monotonic() - this_run.began},
                      dict(metrics.train.get_global_name_value()), scores, metrics.val.samples(),
                      (arg_params, aux_params))
    files.save_snapshot({}, with_prefix("arg", arg_params), [with_prefix("aux", aux_params)])
    return network._replace(arg_params=arg_params)


def train_head(network, stored, metrics, context, flags, check_stop=lambda: None):
    """Train the classifier of a Network alone, for flags.warm_head_epochs over stored features.

    `stored` and `metrics` are pairs, of training and of validation: features and labels as
    `extract` gives them (or None), and an EvalMetric. What `check_stop` raises after a batch ends
    the training.

    Returns a dict of weight and bias, np.ndarray, by their names in the network, and one of the
    last metrics of validation, empty without it.
    """
    rows = len(stored[0][0])
    num_updates = flags.warm_head_epochs * -(-rows // BATCH_SIZE)
    schedule = mx.lr_scheduler.CosineScheduler(num_updates, LEARNING_RATE,
                                               warmup_steps=int(WARM_UP * num_updates))
    head, params = _on_standardised_features(network, *stored[0])
    scores = {}
    progress = Progress("Warm head", num_updates, "batches")
    module = FineTuningModule(head, data_names=[FEATURES], context=context,
                              fixed_param_names=STANDARDISATION, logger=WarmHeadLog(logger, {}))
    module.fit(
        FeatureIter(*stored[0], BATCH_SIZE, flags.seed),
        eval_data=stored[1] and FeatureIter(*stored[1], BATCH_SIZE),
        eval_metric=metrics[0], validation_metric=metrics[1],
        batch_end_callback=[lambda _: progress.update(1), lambda _: check_stop()],
        eval_end_callback=lambda p: scores.update(p.eval_metric.get_global_name_value()),
        arg_params=params, optimizer="adam",
        optimizer_params={"learning_rate": LEARNING_RATE, "lr_scheduler": schedule,
                          "wd": 1 / (INVERSE_PENALTY * rows)},
        num_epoch=flags.warm_head_epochs)
    progress.close()
    params = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
    weight = params["standardised_weight"] * params["scale"]
    shift = (weight * params["mean"]).reshape(len(weight), -1).sum(axis=1)
    classifier = split_head(network.symbol)[1]
    return {f"{classifier}_weight": weight,
            f"{classifier}_bias": params["standardised_bias"] - shift}, scores


def _on_standardised_features(network, values, labels):
    """The network's head on the input `features`, whose weights see standardised features.

    Also its first parameters: no weights, and biases that give each class its rate. The `values`
    have a `mean` and a standard deviation, 1 / `scale`, per channel; shifting and scaling the
    weights in their place costs nothing per image.
    """
    mean, deviation = channel_statistics(values)
    shape = (labels.shape[1], len(mean)) + (1,) * (values.ndim - 2)
    known = labels >= 0
    rate = np.sum(labels, axis=0, where=known) / np.maximum(known.sum(axis=0), 1)
    rate = np.clip(rate, LEAST_RATE, 1 - LEAST_RATE)
    # Large weights of channels that hardly vary let fine-tuning's first steps ruin the backbone.
    scale = 1 / np.maximum(deviation, max(np.median(deviation), 1e-12))
    params = {"standardised_weight": np.zeros(shape),
              "standardised_bias": np.log(rate / (1 - rate)),
              "mean": mean.reshape(1, *shape[1:]), "scale": scale.reshape(1, *shape[1:])}
    variables = {name: mx.sym.Variable(name, shape=value.shape) for name, value in params.items()}
    weight = mx.sym.broadcast_mul(variables["standardised_weight"], variables["scale"])
    shift = mx.sym.sum(mx.sym.broadcast_mul(weight, variables["mean"]), axis=0, exclude=True)
    features, classifier = split_head(network.symbol)
    head = layers_after(network.symbol, features.name)
    head = head(**{f"{classifier}_weight": weight,
                   f"{classifier}_bias": variables["standardised_bias"] - shift})
    return head, {name: mx.nd.array(value) for name, value in params.items()}


def channel_statistics(features):
    """Mean and deviation over the rows of each channel's mean over its positions: (channels,)."""
    total, squares = np.zeros((2, features.shape[1]))
    for start in range(0, len(features), ROWS_PER_SUM):
        rows = features[start:start + ROWS_PER_SUM]
        rows = rows.reshape(*rows.shape[:2], -1).mean(axis=2, dtype=np.float64)
        total += rows.sum(axis=0)
        squares += (rows ** 2).sum(axis=0)
    mean = total / len(features)
    return mean, np.sqrt(np.maximum(squares / len(features) - mean ** 2, 0))


class WarmHeadLog(logging.LoggerAdapter):
    """Logs "Warm head[" for "Epoch[", to tell its epochs from those of fine-tuning."""

    def process(self, msg, kwargs):
        return msg.replace("Epoch[", "Warm head["), kwargs
