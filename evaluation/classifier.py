"""A fine-tuned checkpoint for prediction; all that it needs is in its two files."""
import logging
import re

import numpy as np

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from common.text import printable
from evaluation.thresholds import DEFAULT, with_thresholds
from lst_iter import LstIter
from network import checkpoint
from network.forward_pass import ForwardPass, multiplies_exactly, without_loss
from network.graph import Graph, layers_up_to
from network.untrusted import check_shapes
from reading.image_file import layout
from reading.read_options import ReadOptions

logger = logging.getLogger("predict_multilabel")

# From the probabilities of an attention head back to its class maps.
ATTENTION_PATH = ["sigmoid", "elemwise_add", "Flatten", "Pooling", "Convolution"]


class Classifier:
    """A checkpoint and what its symbol file says about reading images and naming classes.

    An InputError says why it cannot be read, or is no fine-tuned network that takes raw pixels.

    Attributes
    ----------
    data_shape : tuple of int
        (3, height, width).
    has_maps : bool
        Whether it has class maps (--head attention), see `predict`.
    class_names : list of str
        Their numbers where the checkpoint names none.
    thresholds : np.ndarray, (classes,)
        A class is predicted where its probability is above its threshold.
    thresholds_epoch, thresholds_list, thresholds_objective
        What they were chosen for and on: number of the .params file (None: they are 0.5), name and
        checksum of the .lst, objective (see evaluation.thresholds).
    training_list, training, version
        How it was trained, as far as the checkpoint says: name and checksum of the .lst, a dict of
        words, this project's version. Of several workers' lists it is the first one's name, and
        their checksums with spaces between them.
    """

    def __init__(self, prefix, epoch, precision="float32"):
        self.prefix, self.epoch, self._precision = prefix, epoch, precision
        self.symbol, self.arg_params, self.aux_params = checkpoint.load(prefix, epoch)
        source = f"{prefix}-symbol.json"
        if not checkpoint.has_normalisation(self.symbol):
            raise InputError("does not normalise its pixels, so that its input range is unknown; "
                             "train_multilabel.py makes networks that normalise", file=source)
        self._network = without_loss(self.symbol)
        inputs = set(self._network.list_arguments()) - set(self.arg_params) - {"data"}
        if inputs:
            raise InputError("not fine-tuned: it ends in a loss that wants "
                             f"{printable(min(inputs))}; train_multilabel.py {{flag}} {prefix} "
                             "makes a multi-label network of it", file=source, flag="--model")
        attributes = checkpoint.get_attributes(self.symbol, source)
        self.version, self.training = attributes.get("version"), attributes.get("training", {})
        self.data_shape = tuple(attributes.get("image_shape", (3, 224, 224)))
        self._attributes = attributes
        shape = check_shapes(self._network, self.arg_params, self.aux_params, self.data_shape,
                             source)
        if len(shape) != 1:
            raise InputError(f"the network's output is {shape} per image, not one probability "
                             "per class", file=source)
        classes, = shape
        self._maps = class_maps(self.symbol)
        self.has_maps = self._maps is not None
        self.class_names = attributes.get("class_names") or [str(c) for c in range(classes)]
        self.training_list = attributes.get("training_list")
        self._read_thresholds(attributes)
        for name, values in (("class_names", self.class_names), ("thresholds", self.thresholds)):
            if len(values) != classes:
                raise InputError(f"{len(values)} {name}, but the network has {classes} classes",
                                 file=source)

    def _read_thresholds(self, attributes):
        self.thresholds_epoch = attributes.get("thresholds_epoch")
        self.thresholds_list = attributes.get("thresholds_list")
        self.thresholds_objective = attributes.get("thresholds_objective", "f1")
        self.thresholds = np.array(
            attributes.get("thresholds", [DEFAULT] * len(self.class_names)), np.float64)

    def open(self, images, path_root="", batch_size=64, num_threads=None, **read_options):
        """An LstIter over an LstFile or ImageList, which reads as validation in training did.

        It goes on after an image that cannot be used; see `bad` of its batches. These may be
        smaller than `batch_size`, which saves padding: 65 images are read as 33 and 32, not as 64
        and 1. `read_options` are further ones of ReadOptions, such as max_pixels.
        """
        batches = -(-len(images) // batch_size)
        return LstIter(-(-len(images) // batches), self.data_shape, images, path_root,
                       num_threads=num_threads, bad_images="report",
                       read_options=ReadOptions.of_checkpoint(self._attributes, **read_options))

    def area(self, full):
        """Where the network's input lies in an image of (width, height); see `sample_area`."""
        return sample_area(full, self.data_shape[:0:-1],
                           ReadOptions.of_checkpoint(self._attributes))

    def predict(self, batches, devices, mirror=False, with_maps=False):
        """Probabilities of the classes in every image of an LstIter, on a list of mx.Context.

        `mirror`: the mean with those of the mirror image, which has no part in the maps. Maps make
        it no slower.

        Yields
        ------
        batch : mx.io.DataBatch
        prob : np.ndarray, (batch_size - pad, classes), float32
            Finite; an InputError where training has diverged.
        maps : np.ndarray, (batch_size - pad, classes, rows, columns), float32; None without
            The probability that the network would give if the whole image looked like this
            position. A class is above its threshold only where a position is: the class's logit is
            a weighted mean of the positions' logits.
        """
        network = self._network
        if with_maps:
            maps, attention = self._maps
            # The head adds the mean of the class map's logits, and their maximum times `attention`.
            network = mx.sym.Group([network, mx.sym.sigmoid(maps * (1 + attention))])
        network = network, self.arg_params, self.aux_params
        with mxnet_errors("the network cannot be computed", f"{self.prefix}-symbol.json"):
            forward = ForwardPass(*network, batches.provide_data[0], devices)
            if self._precision == "int8":
                forward = _in_int8(forward, network, batches, devices)
        waiting = None
        for batch in batches:
            # MXNet computes in the background; meanwhile the caller gets the batch before.
            outputs = [forward(batch.data[0], batches.batch_size - batch.pad, mirror=turn)
                       for turn in ((False, True) if mirror else (False,))]
            if waiting:
                yield self._averaged(*waiting, with_maps)
            waiting = batch, outputs
        if waiting:
            yield self._averaged(*waiting, with_maps)

    def _averaged(self, batch, outputs, with_maps):
        with mxnet_errors("the network cannot be computed", f"{self.prefix}-symbol.json"):
            prob = np.mean([output.values() for output in outputs], axis=0)
        if not np.isfinite(prob).all():
            raise InputError("the network's output is NaN or infinity: training has diverged, take "
                             "an earlier {flag}", flag="--epoch",
                             file=f"{self.prefix}-{self.epoch:04d}.params")
        return batch, prob, outputs[0].values(1) if with_maps else None

    def save_thresholds(self, thresholds, lst, objective):
        """Write thresholds chosen on an LstFile into the symbol file, in place of any there."""
        self.symbol = with_thresholds(self.symbol, thresholds, self.epoch, lst.path, lst.checksum,
                                      objective)
        checkpoint.save_symbol(self.prefix, self.symbol)
        self._read_thresholds(checkpoint.get_attributes(self.symbol))

    def use_threshold(self, threshold):
        """Let one threshold decide for every class, in place of those of the checkpoint."""
        self._read_thresholds({"thresholds": [threshold] * len(self.class_names)})

    def fitted_on(self, lst):
        """Whether the thresholds were chosen on an LstFile of this content, or on more of them."""
        return bool(self.thresholds_list) and lst.checksum in self.thresholds_list[1].split()


def _in_int8(plain, network, batches, devices):
    """The ForwardPass `plain` in int8; logs how far apart their first outputs are."""
    sample = batches.next().data[0]
    batches.seek(0, 0)
    forward = ForwardPass(*network, batches.provide_data[0], devices, sample)
    difference = np.abs(forward(sample).values() - plain(sample).values())
    logger.info("int8: on the first %d images the probabilities differ from float32's by %.3f at "
                "most, by %.4f in the mean%s", len(sample), difference.max(), difference.mean(),
                "" if multiplies_exactly() else "; this processor's int8 arithmetic saturates")
    return forward


def class_maps(net):
    """The class maps of a network with an attention head, and the weight of their maximum.

    The maps are a symbol, (batch, classes, height, width), that lies as the image does, also where
    the network turns its images first. None where the head is another.
    """
    net = without_loss(net)
    graph = Graph(net)
    path = [graph.output]
    while path[-1].inputs and len(path) < len(ATTENTION_PATH):
        path.append(path[-1].input())
    if [node.op for node in path] != ATTENTION_PATH:
        return None
    pooling, maximum = path[3], path[1].input(1)
    if maximum.op != "_mul_scalar" or not pooling.flag("global_pool"):
        return None
    maps = layers_up_to(net, path[-1].name)
    turn = np.ones(2, int)
    for node in graph.nodes:
        steps = re.findall(r"None|-?\d+", node.attrs.get("step", ""))
        if node.op == "slice" and len(steps) == 4:
            turn *= [-1 if step.startswith("-") else 1 for step in steps[2:]]
    if turn.min() < 0:
        maps = mx.sym.slice(maps, begin=(None,) * 4, end=(None,) * 4, step=(1, 1, *turn.tolist()))
    return maps, float(maximum.attrs["scalar"])


def sample_area(full, size, options):
    """Where a sample without random augmentation lies in its image: left, top, width, height.

    In shares of the image's sides; what is outside of 0 to 1 is padding. `full` is the upright
    image's (width, height) in pixels, `size` the sample's.
    """
    box, inner = layout(full, size, options, None)
    shares = []
    for axis in (0, 1):
        pixel = box[axis + 2] / inner[axis] / full[axis]  # of the sample
        padding = (size[axis] - inner[axis]) // 2
        shares.append((box[axis] / full[axis] - padding * pixel, size[axis] * pixel))
    (left, width), (top, height) = shares
    return left, top, width, height
