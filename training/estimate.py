"""How long a run will take on this machine, measured on a few images before it begins."""
import logging
import time

import numpy as np

from common.mx_compat import mx
from network.fine_tune import split_head, training_symbol
from network.forward_pass import ForwardPass
from network.stages import FEATURES, tail, until
from training.data import open_iterator
from training.faster_graph import faster_training
from training.frozen_stages import can_be_stored

logger = logging.getLogger("train_multilabel")

PIXELS = 8 * 224 * 224  # of the images that are measured together
VALIDATION = 1 / 3  # of a training step's time: the forward pass


def log_estimate(args, network, recipe, data, devices):
    """Log how long the warm head and each epoch will take."""
    rows = data.train.num_rows
    val_rows = data.val.num_rows if data.val else 0
    measure = Measurement(args, network, data, devices)
    parts, seconds = [], 0
    if args.warm_head_epochs:
        features, _ = split_head(network.symbol)
        turns = 1 + args.warm_head_mirror
        a_row = measure.step(tail(network.symbol, features.name), measure.shape(features))
        seconds = (measure.passes(features, rows, turns, val_rows)
                   + args.warm_head_epochs * (rows * turns + val_rows * VALIDATION) * a_row)
        parts.append(f"{seconds:.0f} s for the new classifier")
    if args.num_epoch:
        symbol, shape = network.symbol, None
        if can_be_stored(args, devices.workers):
            frozen = until(symbol, recipe.frontier)
            frozen_seconds = measure.passes(frozen, rows, 1 + bool(args.random_mirror), val_rows)
            parts.append(f"{frozen_seconds:.0f} s for the frozen stages")
            seconds += frozen_seconds
            symbol, shape = tail(symbol, recipe.frontier), measure.shape(frozen)
        reading = 0 if shape else measure.reading
        a_row = measure.step(training_symbol(symbol, recipe.frozen, 1), shape)
        epoch = rows * (a_row + reading) + val_rows * (a_row * VALIDATION + reading)
        count = f"{args.num_epoch} epochs" if args.num_epoch > 1 else "1 epoch"
        parts.append(f"{count} of {epoch:.0f} s")
        seconds += args.num_epoch * epoch
    logger.info("This run takes about %s here: %s", in_words(seconds), ", ".join(parts))


class Measurement:
    """Seconds per image of the parts of a run; of several workers each takes its own images."""

    def __init__(self, args, network, data, devices):
        self._network, self._data, self._devices = network, data.train.provide_data[0], devices
        self._label = data.train.provide_label[0]
        batch_size, _, height, width = self._data.shape
        self._images = min(max(PIXELS // (height * width), 2), batch_size)
        began = time.perf_counter()
        images = open_iterator(args, data.train_lst)
        next(images)
        self.reading = (time.perf_counter() - began) / images.batch_size
        images.close()

    def shape(self, symbol):
        """Shape of one image's output."""
        _, (shape,), _ = symbol.infer_shape(data=(1, *self._data.shape[1:]))
        return shape[1:]

    def passes(self, symbol, rows, turns, val_rows):
        """Seconds of passing training images, `turns` times each, and validation's through it."""
        description = mx.io.DataDesc("data", (self._images, *self._data.shape[1:]), np.uint8)
        forward = ForwardPass(symbol, *self._network[1:], description, self._devices.contexts)
        pixels = mx.nd.zeros(description.shape, dtype=np.uint8)
        seconds = seconds_of(lambda: forward(pixels).values()) / self._images
        return rows * (turns * seconds + self.reading) + val_rows * (seconds + self.reading)

    def step(self, symbol, stored_shape):
        """Seconds per image of a step in training, on images or on stored outputs of a shape."""
        data = mx.io.DataDesc("data", (self._images, *self._data.shape[1:]), self._data.dtype)
        if stored_shape:
            data = mx.io.DataDesc(FEATURES, (self._images, *stored_shape), np.float16)
        label = mx.io.DataDesc(self._label.name, (self._images, *self._label.shape[1:]))
        symbol = faster_training(symbol, data, label, self._devices)
        executor = symbol.simple_bind(self._devices.contexts[0], type_dict={data.name: data.dtype},
                                      **{each.name: each.shape for each in (data, label)})
        for array in (*executor.arg_arrays, *executor.aux_arrays):
            array[:] = 1

        def run():
            executor.forward(is_train=True)
            executor.backward()
            mx.nd.waitall()
        return seconds_of(run) / self._images / len(self._devices.contexts)


def seconds_of(run):
    """The faster of two times, without the first one of all, which allocates memory."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def in_words(seconds):
    """`50 s`, `5 min` or `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 100 else f"{minutes} min"
