"""Load a pretrained network, cut it, and build the multi-label network from it."""
from __future__ import annotations

import collections
import math
import re
from typing import Any, Collection, Sequence

import numpy as np

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from network import checkpoint, untrusted
from network.graph import Graph, Node, layer_shapes, layers_up_to, output_of

CLASSIFIERS = ("FullyConnected", "Convolution")
# What may stand between the classifier and the network's output.
AFTER_CLASSIFIER = (
    "SoftmaxOutput", "softmax", "log_softmax", "SoftmaxActivation", "LogisticRegressionOutput",
    "sigmoid", "Custom", "Activation", "relu", "Flatten", "flatten", "Reshape", "reshape",
    "squeeze", "Pooling", "Dropout", "Cast", "_copy", "BlockGrad")
# What may stand between a feature map and the values that a classifier takes.
AFTER_FEATURE_MAP = ("Pooling", "mean", "Flatten", "flatten", "Reshape", "reshape", "squeeze",
                     "Dropout", "Cast", "_copy")
ATTENTION = "fc_attention"  # layer that adds the attention head's parts; ONNX appends to the name
# What may stand between the pixels and the end of a network's own normalisation.
ARITHMETIC = re.compile("broadcast_(sub|add|mul|div)|_(minus|plus|mul|div)_?scalar|(amp_)?cast|"
                        "_copy|BlockGrad", re.IGNORECASE)
RAW, UNIT, SIGNED = (0, 1), (0, 255), (127.5, 127.5)  # pixels of 0 to 255, 0 to 1, and -1 to 1


def find_features(sym: mx.sym.Symbol) -> str:
    """Find the name of the layer whose output the network's classifier takes.

    The classifier is the last FullyConnected or Convolution that nothing but pooling,
    activations, reshaping and an output layer follow. In a network without one it is the last
    layer; a network with several outputs is an InputError.
    """
    graph = Graph(sym)
    if len(graph.outputs) != 1:
        raise InputError("the network has several outputs; name the layer to build on with {flag}: "
                         + likely_layers(sym), flag="--layer-before-fullc")
    node = graph.output
    while node.op in AFTER_CLASSIFIER or node.name.startswith(ATTENTION):
        node = node.input()
    return (node.input() if node.op in CLASSIFIERS else graph.output).name


def likely_layers(sym: mx.sym.Symbol) -> str:
    """The last layers that a new classifier could take its input from, as text."""
    layers = [node.name for node in Graph(sym).nodes
              if node.op in ("Flatten", "Pooling", "Dropout", "Activation", "FullyConnected",
                             "Concat", "BatchNorm", "clip", "flatten")]
    return ", ".join(reversed(layers[-8:]))


def find_feature_map(sym: mx.sym.Symbol, layer_name: str | None,
                     image_shape: Sequence[int]) -> str | None:
    """Name of the layer whose feature map, (batch, channels, height, width), a layer pools.

    That is the layer itself (None: the one that find_features finds) where it has positions.
    Returns None where neither has.
    """
    name = layer_name or find_features(sym)
    shapes = collections.defaultdict(tuple, layer_shapes(sym, image_shape))
    node = next((node for node in Graph(sym).nodes if name in (node.name, f"{node.name}_output")),
                Node("null", name))
    while math.prod(shapes[f"{node.name}_output"][2:]) <= 1 and node.op in AFTER_FEATURE_MAP:
        node = node.input()
    return node.name if len(shapes[f"{node.name}_output"]) == 4 else None


def get_fine_tune_model(sym: mx.sym.Symbol, arg_params: checkpoint.Params, num_classes: int,
                        layer_name: str | None = None, dtype: str = "float32",
                        attention: float | None = None,
                        **loss: Any) -> tuple[mx.sym.Symbol, checkpoint.Params]:
    """Cut the classifier off a pretrained network and put a multi-label head in its place.

    `sym` has an input called `data`, (batch, 3, height, width). The head takes the output of layer
    `layer_name` (None: see `find_features`), of type `dtype`, casts it to float32, and ends in
    sigmoid `sig` and CrossEntropyLoss `softmax` (so that the label is `softmax_label`), whose
    options are `loss`; see crossentropy_op.loss_options. Its classifier is a FullyConnected `fc` on
    the features, of which a feature map is first averaged over its positions. With `attention`, at
    least 0, it is class-specific residual attention: a 1x1 Convolution `fc` gives each class a map
    over the positions, and the logit is the map's mean plus `attention` times its maximum. Source:
    Zhu and Wu, "Residual Attention: A Simple but Effective Method for Multi-Label Recognition",
    ICCV 2021 (https://arxiv.org/abs/2108.02456).

    Returns the new network, whose output is the probabilities, (batch, num_classes), and those of
    `arg_params`, a dict of str to mx.nd.NDArray, that it keeps. An InputError names likely layers
    where there is no such layer, or one without positions cannot have `attention`.
    """
    layers = sym.get_internals()
    name = layer_name or find_features(sym)
    outputs = set(layers.list_outputs()) - set(sym.list_inputs())  # parameters and labels
    found = next((output for output in (name + "_output", name) if output in outputs), None)
    if not found or any(n.endswith("label") for n in layers[found].list_arguments()):
        raise InputError(f"the network has no layer {name!r} before its loss; likely ones: "
                         + likely_layers(sym), flag="--layer-before-fullc")
    image_shape = checkpoint.get_attributes(sym).get("image_shape", [3, 224, 224])
    if attention is not None:
        feature_map = find_feature_map(sym, name, image_shape)
        if not feature_map:
            raise InputError(f"{{flag}} wants features with positions, which {name} and what it "
                             "pools have not; --layer-before-fullc names a layer that has: "
                             + likely_layers(sym), flag="--head attention")
        found = feature_map + "_output"
    net = layers[found]
    kept = net.list_arguments()
    shape = layer_shapes(net, image_shape)[found]
    if dtype != "float32":
        net = mx.sym.Cast(net, dtype="float32", name="features_float32")
    # A backbone that has a layer called fc of its own keeps it.
    fc = "fc_multilabel" if "fc_weight" in kept else "fc"
    if attention is None:
        if len(shape) == 4:
            net = _pooled(net, "avg", "fc")
        net = mx.sym.FullyConnected(net, num_hidden=num_classes, name=fc)
    else:
        maps = mx.sym.Convolution(net, num_filter=num_classes, kernel=(1, 1), name=fc)
        maximum = _pooled(maps, "max", "fc_max") * attention
        net = mx.sym.elemwise_add(_pooled(maps, "avg", "fc_mean"), maximum, name=ATTENTION)
    net = mx.sym.sigmoid(net, name="sig")
    net = mx.sym.Custom(net, name="softmax", op_type="CrossEntropyLoss",
                        **{option: str(value) for option, value in loss.items()})
    return net, {key: arg_params[key] for key in kept if key in arg_params}


def _pooled(net, pool_type, name):
    net = mx.sym.Pooling(net, global_pool=True, pool_type=pool_type, kernel=(1, 1),
                         name=f"{name}_pool")
    return mx.sym.Flatten(net, name=f"{name}_flatten")


def load_pretrained(prefix: str, epoch: int, mean: Sequence[float] | None = None,
                    std: Sequence[float] | None = None, dtype: str = "float32"
                    ) -> tuple[mx.sym.Symbol, checkpoint.Params, checkpoint.Params, str]:
    """Load a pretrained network, and let it take raw pixels.

    `mean` and `std` of red, green and blue (0 to 255) are for a network that does not say how its
    pixels are normalised; for one that does they are an InputError. Where they are None, what the
    network begins with tells whether it takes raw pixels; else they are ImageNet's.

    Returns symbol, arg_params, aux_params, and a text that says which normalisation this is.
    """
    sym, arg_params, aux_params = checkpoint.load(prefix, epoch)
    values: Sequence[Any] = mean or checkpoint.IMAGENET_MEAN, std or checkpoint.IMAGENET_STD
    if checkpoint.has_normalisation(sym):
        if mean or std:
            raise InputError("normalises by itself: leave out {flag}", flag=(
                "--rgb-mean" if mean else "--rgb-std"), file=f"{prefix}-symbol.json")
        values = [arg_params[name].asnumpy().ravel() for name in checkpoint.NORMALISATION]
        origin = "the checkpoint's"
    elif mean or std:
        origin = "--rgb-mean and --rgb-std"
    elif own := find_own_normalisation(sym, arg_params, aux_params, f"{prefix}-symbol.json"):
        *values, layer = own
        origin = f"what the network itself begins with ({layer}) wants"
    else:
        origin = "ImageNet's, as the checkpoint does not say: --rgb-mean and --rgb-std"
    sym, constants = checkpoint.with_normalisation(sym, values[0], values[1], dtype)
    shown = ("/".join(f"{value:.4g}" for value in numbers) for numbers in values)
    text = "mean {}, deviation {} ({})".format(*shown, origin)
    return sym, {**arg_params, **constants}, aux_params, text


def find_own_normalisation(symbol, arg_params, aux_params, file=None):
    """How pixels have to be normalised for a network that begins with a normalisation of its own.

    That is a BatchNorm, whose stored statistics tell which pixels it has seen, or arithmetic with
    numbers. Returns mean and standard deviation, 3 numbers of 0 to 255 each, and the name of that
    layer; None where the network begins otherwise, or its pixels were normalised before. An
    InputError, about `file`, says that it cannot be computed.
    """
    symbol, constants = checkpoint.with_normalisation(symbol, (0, 0, 0), (1, 1, 1))
    graph = Graph(symbol)
    users, node = graph.users(), graph["rgb_normalised"]
    while len(users[node]) == 1 and ARITHMETIC.fullmatch(users[node][0].op):
        node = users[node][0]
    # The arithmetic is scale * pixel + shift.
    pixels = np.array([0, 255], np.uint8).repeat(3).reshape(2, 3, 1, 1)
    start, arg_params = layers_up_to(symbol, node.name), {**arg_params, **constants}
    untrusted.check_shapes(start, arg_params, aux_params, pixels.shape[1:], file)
    with mxnet_errors("MXNet cannot compute what the network begins with", file):
        black, white = output_of(start, arg_params, aux_params, pixels)
    shift, scale = float(np.median(black)), float(np.median(white - black)) / 255
    if not scale:
        return None
    # The middle of the range that becomes -1 to 1, or of which the mean is subtracted.
    middle, deviation = -shift / scale, abs(1 / scale)
    if users[node] and users[node][0].op == "BatchNorm":
        node = users[node][0]
        mean, variance = (aux_params[node.input(place).name].asnumpy() for place in (3, 4))
        middle += np.median(mean) / scale
        deviation *= np.median(np.sqrt(variance))
    elif abs(scale - 1) < 1e-5:
        deviation = 0
    kind = _kind(middle, deviation)
    return kind and ([kind[0]] * 3, [kind[1]] * 3, node.name)


def _kind(middle, deviation):
    """RAW, UNIT, SIGNED or None: pixels of which the mean and deviation are about these."""
    if middle > 2 or deviation > 10:
        return RAW
    if 0.2 < middle < 0.8 and deviation < 0.8:
        return UNIT
    return SIGNED if abs(middle) < 0.2 and 0.2 < deviation < 0.8 else None


def variance_ratio(symbol, arg_params, aux_params, pixels):
    """The variance of images at the first BatchNorm, as a share of the variance that it has stored.

    `pixels` are uint8 (images, 3, height, width). Returns the layer's name, and the median over its
    channels: about 1 where the images are normalised as in the network's training. None without a
    BatchNorm, or where it has not been trained.
    """
    graph = Graph(symbol)
    norm = next((node for node in graph.nodes if node.op == "BatchNorm"), None)
    if norm is None:
        return None
    stored = aux_params[norm.input(4).name].asnumpy()
    if (stored == stored[0]).all():
        return None
    graph.outputs = norm.inputs[:1]
    values = output_of(graph.symbol(), arg_params, aux_params, pixels)
    variance = values.var(axis=(0, *range(2, values.ndim)))
    ratio = np.median(variance / np.maximum(stored, 1e-12))
    return (norm.name, float(ratio)) if math.isfinite(ratio) else None


def frozen_parameters(net: mx.sym.Symbol, freeze: str) -> list[str]:
    """Names of the parameters that --freeze keeps constant; always those of the normalisation.

    A regular expression that matches no parameter, or all, is an InputError.
    """
    parameters = [n for n in net.list_arguments() if n not in ("data", "softmax_label")]
    head = split_head(net)[1]
    if freeze == "backbone":
        chosen = [n for n in parameters if n not in (f"{head}_weight", f"{head}_bias")]
    else:
        chosen = [n for n in parameters if freeze != "none" and re.match(freeze, n)]
        if freeze != "none" and not chosen:
            raise InputError(f"no parameter's name matches {freeze!r}; names are like "
                             + ", ".join(parameters[2:5]), flag="--freeze")
        if set(parameters) <= {*chosen, *checkpoint.NORMALISATION}:
            raise InputError("leaves nothing to train", flag=f"--freeze {freeze}")
    return sorted({*chosen, *checkpoint.NORMALISATION})


def training_symbol(net: mx.sym.Symbol, frozen: Collection[str],
                    head_lr_mult: float) -> mx.sym.Symbol:
    """The network with the attributes that training needs.

    Frozen BatchNorms use their stored statistics, the head has its own learning rate, and the
    gammas of BatchNorms have no weight decay (MXNet exempts only betas and biases).
    """
    graph, head = Graph(net), split_head(net)[1]
    for node in graph.nodes:
        if node.op == "BatchNorm":
            gamma = node.input(1)
            gamma.attrs["__wd_mult__"] = "0"
            if gamma.name in frozen:
                node.attrs["use_global_stats"] = "True"
        if node.name in (f"{head}_weight", f"{head}_bias"):
            node.attrs["__lr_mult__"] = str(head_lr_mult)
    return graph.symbol()


def split_head(net: mx.sym.Symbol) -> tuple[mx.sym.Symbol, str]:
    """The input, (batch, values) or a feature map, and the name of get_fine_tune_model's `fc`."""
    classifier = net.get_children()[0].get_children()[0]  # the backbone may have a `sig`, too
    if classifier.name == ATTENTION:
        mean = classifier.get_children()[0]
        classifier = mean.get_children()[0].get_children()[0]
    return classifier.get_children()[0], classifier.name
