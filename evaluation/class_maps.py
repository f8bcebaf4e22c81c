"""Where in an image a class was seen: the maps of an attention head, drawn over the image.

    maps = ClassMaps(classifier, batches.provide_data[0], [mx.cpu()])
    for batch, prob in write_maps(classifier.predict(batches, devices), "maps", maps, names):
        print(prob.shape)
"""
import os
import re
from pathlib import Path

import cv2
import numpy as np

from common.cli import InputError
from common.files import write_atomically
from network.fine_tune import ATTENTION, split_head
from network.forward_pass import ForwardPass
from network.shape_check import mxnet_errors
from network.stages import until


class ClassMaps:
    """Computes the class maps of a Classifier whose head is class-specific residual attention.

    An InputError says that its head is another.
    """

    def __init__(self, classifier, data, devices):
        source = f"{classifier.prefix}-symbol.json"
        if f"{ATTENTION}_output" not in classifier.symbol.get_internals().list_outputs():
            raise InputError(f"{source}: has no class maps: only networks trained with "
                             "--head attention have")
        with mxnet_errors(f"{source}: the class maps cannot be computed"):
            maps = until(classifier.symbol, split_head(classifier.symbol)[1])
            self._forward = ForwardPass(maps, classifier.arg_params, classifier.aux_params, data,
                                        devices)
        self.class_names, self.thresholds = classifier.class_names, classifier.thresholds
        self._batch = self._maps = None

    def draw(self, batch, slot, classes):
        """Yield the image of a slot of a batch for each class, with its map in colours over it.

        uint8, (height, width, 3), blue, green, red. Red is where the class's logit is highest,
        blue where it is lowest.
        """
        if batch is not self._batch:
            self._batch, self._maps = batch, self._forward(batch.data[0]).values()
        image = batch.data[0][slot].asnumpy().transpose(1, 2, 0)[:, :, ::-1]
        for one in classes:
            values = self._maps[slot, one]
            values = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
            values = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
            colours = cv2.applyColorMap(np.uint8(255 * values.clip(0, 1)), cv2.COLORMAP_JET)
            yield cv2.addWeighted(np.ascontiguousarray(image), 0.55, colours, 0.45, 0)


def write_maps(predictions, folder, maps, image_names):
    """Yield the (batch, prob) of `predictions`; write a JPEG per predicted class of each image.

    Its name is the number of the image, from 0, its file's name and the class's, with "_" for
    what does not suit a file name. `image_names` gives the name of a row.
    """
    for batch, prob in predictions:
        for slot, (row, values) in enumerate(zip(batch.index, prob)):
            classes = np.flatnonzero(values > maps.thresholds)
            if slot in batch.bad:
                continue
            for one, picture in zip(classes, maps.draw(batch, slot, classes)):
                parts = os.path.basename(image_names(row)), maps.class_names[one]
                name = "-".join([f"{row:06d}", *(re.sub(r"[^\w.]+", "_", part)[:80]
                                                for part in parts)])
                write_atomically(os.path.join(folder, f"{name}.jpg"),
                                 lambda path, picture=picture: Path(path).write_bytes(
                                     cv2.imencode(".jpg", picture)[1]))
        yield batch, prob
