"""How long a run will take on this machine, measured on a few images before it begins."""
import logging
import time
from argparse import Namespace

import numpy as np

from common.mx_compat import mx
from network.checkpoint import CONSTANTS
from network.fine_tune import split_head, training_symbol
from network.forward_pass import ForwardPass
from network.stages import FEATURES, tail, until
from training.data import open_iterator
from training.faster_graph import faster_training, training_step
from training.frozen_stages import can_be_stored

logger = logging.getLogger("train_multilabel")

PIXELS = 8 * 224 * 224  # of the images that are measured together
FORWARD = 1 / 3  # a forward pass's part of a training step's time


def log_estimate(args, network, recipe, data, devices, stops):
    """Log how long the warm head and each epoch of one worker's run will take."""
    rows = data.train.num_rows
    val_rows = data.val.num_rows if data.val else 0
    measure = Measurement(args, network, data, devices, stops)
    parts, seconds = [], 0
    if args.warm_head_epochs:
        features, _ = split_head(network.symbol)
        passes = 1 + args.warm_head_mirror
        head = tail(network.symbol, features.name)
        step = measure.step(head, recipe.frozen, measure.shape(features))
        seconds = (measure.forward(features, rows, passes, val_rows)
                   + args.warm_head_epochs * (rows * passes + val_rows * FORWARD) * step)
        parts.append(f"{duration(seconds)} for the new classifier")
    if args.num_epoch:
        symbol, shape, reading = network.symbol, None, measure.reading
        if can_be_stored(args, devices.workers):
            frozen = until(symbol, recipe.frontier)
            frozen_seconds = measure.forward(frozen, rows, 1 + bool(args.random_mirror), val_rows)
            parts.append(f"{duration(frozen_seconds)} for the frozen stages")
            seconds += frozen_seconds
            symbol, shape, reading = tail(symbol, recipe.frontier), measure.shape(frozen), 0
        step = measure.step(training_symbol(symbol, recipe.frozen, 1), recipe.frozen, shape)
        epoch = (rows * measure.together(step, reading)
                 + val_rows * measure.together(step * FORWARD, reading))
        count = f"{args.num_epoch} epochs" if args.num_epoch > 1 else "1 epoch"
        parts.append(f"{count} of {duration(epoch)}")
        seconds += args.num_epoch * epoch
    about = "about " if seconds >= 1 else ""
    logger.info("This run takes %s%s here: %s", about, duration(seconds), ", ".join(parts))


class Measurement:
    """Seconds per image of the parts of a run. A signal ends it between two of them."""

    def __init__(self, args, network, data, devices, stops):
        self._network, self._devices, self._stops = network, devices, stops
        self._data, self._label = data.train.provide_data[0], data.train.provide_label[0]
        batch_size, _, height, width = self._data.shape
        self._images = min(max(PIXELS // (height * width), 2), batch_size)
        # The run itself tells of bad images.
        images = open_iterator(Namespace(**{**vars(args), "bad_images": "report"}), data.train_lst)
        began = time.perf_counter()
        next(images)
        self.reading = (time.perf_counter() - began) / images.batch_size
        images.close()

    def together(self, computing, reading):
        """Seconds of both: on CPUs they share the cores, beside a GPU they overlap."""
        on_cpu = self._devices.contexts[0].device_type == "cpu"
        return computing + reading if on_cpu else max(computing, reading)

    def shape(self, symbol):
        """Shape of one image's output."""
        _, (shape,), _ = symbol.infer_shape(data=(1, *self._data.shape[1:]))
        return shape[1:]

    def forward(self, symbol, rows, passes, val_rows):
        """Seconds for training images, each in some passes, and validation's in one."""
        description = mx.io.DataDesc("data", (self._images, *self._data.shape[1:]), np.uint8)
        forward = ForwardPass(symbol, *self._network[1:], description, self._devices.contexts)
        pixels = mx.nd.zeros(description.shape, dtype=np.uint8)
        image = self._seconds_of(lambda: forward(pixels).values())
        return (rows * self.together(passes * image, self.reading)
                + val_rows * self.together(image, self.reading))

    def step(self, symbol, frozen, stored_shape):
        """Seconds per image of a step in training, on images or on stored outputs of a shape."""
        data = self._data
        if stored_shape:
            data = mx.io.DataDesc(FEATURES, (1, *stored_shape), np.float16)
        symbol = faster_training(symbol, data, self._label, self._devices)
        step = training_step(symbol, data, self._label, self._images, self._devices.contexts[0],
                             {*frozen, *CONSTANTS})
        return self._seconds_of(step) / len(self._devices.contexts)

    def _seconds_of(self, run):
        """The faster of two times, per image; the first one of all, which takes memory, is none."""
        times = []
        for _ in range(3):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
            self._stops.stop_unsaved_run(" before training")
        return min(times[1:]) / self._images


def duration(seconds):
    """`under 1 s`, `50 s`, `5 min` or `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 100 else f"{minutes} min"
