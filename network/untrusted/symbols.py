"""What a symbol file may contain: its graph, its shapes, and what a checkpoint says of itself.

MXNet trusts the file. So the graph that it gets is written anew from what has been checked. What
the checkpoint says of itself are attributes of `data`, each stored as JSON text under
`__rgb_NAME__`. One set of rules serves writing and reading.
"""
from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
from typing import Any, Mapping, Sequence

import numpy as np

from common.cli import InputError
from common.files import open_regular_file
from common.json_text import parse_json
from common.mx_compat import mx, mxnet_errors
from crossentropy_op import loss_options
from network.graph import Graph, Node, integers

MOST_BYTES = 1 << 25
MOST_NODES = 10000  # MXNet frees a chain of nodes recursively. ResNet-152 has about 1,400.
NEWEST_MXNET = 19999

# Operators of image classifiers by their smallest and largest number of inputs. Not here:
# operators that take pointers or run foreign code (_Native, _NDArray, _CustomFunction), subgraphs,
# control flow, and operators that take indices or sizes from their data.
OPERATORS = {
    (1, 1): """
        Activation BlockGrad Cast Dropout Flatten L2Normalization LRN MakeLoss Pad Pooling
        Pooling_v1 Reshape SliceChannel SoftmaxActivation SwapAxis
        _contrib_AdaptiveAvgPooling2D _contrib_BilinearResize2D _contrib_div_sqrt_dim _copy
        _image_normalize amp_cast broadcast_axis broadcast_to clip depth_to_space expand_dims
        log_softmax make_loss max mean min norm ones_like prod repeat reverse slice slice_axis
        smooth_l1 softmax softmin space_to_depth squeeze sum tile transpose zeros_like
        abs arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil cos cosh degrees erf erfinv exp
        expm1 fix floor gamma gammaln hard_sigmoid log log10 log1p log2 logical_not negative
        radians rcbrt reciprocal relu rint round rsqrt sigmoid sign sin sinh softsign sqrt square
        tan tanh trunc
        _DivScalar _MaximumScalar _MinimumScalar _MinusScalar _MulScalar _PlusScalar _PowerScalar
        _RDivScalar _RMinusScalar _div_scalar _equal_scalar _greater_equal_scalar _greater_scalar
        _lesser_equal_scalar _lesser_scalar _maximum_scalar _minimum_scalar _minus_scalar
        _mul_scalar _not_equal_scalar _plus_scalar _power_scalar _rdiv_scalar _rminus_scalar
        _rpower_scalar""",
    (1, 2): "Crop LeakyReLU",
    (2, 2): """
        Custom LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput SVMOutput
        Softmax SoftmaxOutput batch_dot broadcast_add broadcast_div broadcast_equal
        broadcast_greater broadcast_greater_equal broadcast_lesser broadcast_lesser_equal
        broadcast_like broadcast_maximum broadcast_minimum broadcast_mul broadcast_not_equal
        broadcast_power broadcast_sub dot elemwise_add elemwise_div elemwise_mul elemwise_sub
        reshape_like slice_like _Div _Maximum _Minimum _Minus _Mul _Plus _Power _maximum _minimum
        _power""",
    (2, 3): "Convolution Convolution_v1 Deconvolution FullyConnected",
    (3, 3): "GroupNorm InstanceNorm LayerNorm where",
    (3, 5): "BatchNorm BatchNorm_v1 _contrib_SyncBatchNorm",  # 3 in files of MXNet before 0.9
    (1, 1000): "Concat ElementWiseSum UpSampling add_n concat stack",
}
NUM_INPUTS = {name: number for number, names in OPERATORS.items() for name in names.split()}

# Ranges of the numbers in attributes, by the attributes' names: MXNet divides and allocates by
# them, and counts axes with them.
RANGES = {name: limits for limits, names in {
    (1, 1 << 10): "kernel stride dilate block_size nsize reps repeats scale",
    (1, 1 << 17): "num_group num_groups num_filter ndev",
    (1, 1_000_000): "num_hidden",  # as many classes as a .lst may have
    (1, 1000): "num_args num_outputs",
    (1, 1 << 13): "height width output_size",
    (0, 1 << 10): "pad adj pad_width",
    (0, 1 << 13): "target_shape offset h_w workspace",
    (-8, 8): "axis axes dim dim1 dim2 lhs_axes rhs_axes",
    (-1 << 31, 1 << 31): "begin end step",
    (-4, 1 << 24): "shape",
    (-1, 1 << 28): "__shape__",
    (-1, 7): "__dtype__",  # MXNet's numbers of types, from float32 to bool
    (-1, 0): "__storage_type__",  # nothing sparse
}.items() for name in names.split()}
NUMBER = r"\s*(?:-?\d{1,12}L?|None)\s*"
NUMBERS = re.compile(rf"\s*[(\[]?\s*({NUMBER}(?:,{NUMBER})*,?)?\s*[)\]]?\s*")
ASCII = re.compile(r"[ -~]{1,500}")
# Values that one layer may give for one image, and as how many such layers all may count. At
# 1024x1024 pixels VGG-16 gives 67 million in its largest layer, ResNet-152 1.6 billion in all.
LARGEST_LAYER = 1 << 26
LARGEST_LAYERS = 32
IMAGES = 2  # in the batch that shapes are inferred for
SOFTMAXES = ("softmax", "log_softmax", "softmin")
MOST_CLASSES = 1_000_000
LARGEST_SIDE = 1 << 15


def checked_symbol(path: str) -> str:
    """The graph of a symbol file as JSON for mx.sym.load_json, after checks that MXNet lacks.

    An InputError says why it is not a symbol file, or has a graph that MXNet must not load.
    """
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise InputError(f"it has more than {MOST_BYTES} bytes")
        with open_regular_file(path) as file:
            return json.dumps(checked_graph(parse_json(file.read())))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except InputError as error:
        raise InputError(f"refused: {error}; take a symbol file as MXNet writes it, of an image "
                         "classifier", file=path) from None


def checked_graph(graph: Any) -> dict[str, Any]:
    """A parsed graph with what is known to be harmless only; an InputError says what is not."""
    nodes, heads = (_list(graph, key) for key in ("nodes", "heads"))
    if not heads or not 0 < len(nodes) <= MOST_NODES:
        raise InputError(f"{len(nodes)} nodes and {len(heads)} outputs; at most {MOST_NODES} nodes "
                         "and at least one output are loaded")
    checked, num_outputs = [], []
    for node in nodes:
        checked.append(_checked_node(node, num_outputs))
        split = checked[-1]["op"] == "SliceChannel"
        num_outputs.append(_count(checked[-1], "num_outputs", 1) if split else 1)
    variables = [node["name"] for node in checked if node["op"] == "null"]
    if len(set(variables)) < len(variables):
        raise InputError("two inputs or parameters have the same name")
    result: dict[str, Any] = {
        "nodes": checked, "heads": [_entry(head, num_outputs) for head in heads],
        "arg_nodes": [i for i, node in enumerate(checked) if node["op"] == "null"]}
    attrs = graph.get("attrs", {})
    if isinstance(attrs, dict) and "mxnet_version" in attrs:
        version = attrs["mxnet_version"]
        if not (isinstance(version, list) and len(version) == 2 and version[0] == "int"
                and type(version[1]) is int and 0 <= version[1] <= NEWEST_MXNET):
            raise InputError(f"its mxnet_version is {version!r:.80}, and not that of an MXNet 1.x")
        result["attrs"] = {"mxnet_version": version}
    return result


def _checked_node(node, num_outputs):
    """A node of the graph, with what is known to be harmless only."""
    op, name = (_text(node, key) for key in ("op", "name"))
    attrs = {}
    for key in ("param", "attr", "attrs"):  # MXNet has written each of the three
        more = node.get(key, {})
        if not isinstance(more, dict):
            raise InputError(f"{key} of node {name} is not an object")
        attrs.update(more)
    for key, value in attrs.items():
        _check_attribute(f"{key} of node {name}", key, value)
    sides = len(integers(attrs.get("kernel", "")))
    for key in ("stride", "dilate", "pad", "adj"):
        if sides and len(integers(attrs.get(key, ""))) not in (0, sides):
            raise InputError(f"{key} of node {name} has another length than its kernel")
    inputs = [_entry(entry, num_outputs) for entry in _list(node, "inputs")]
    if op != "null" and op not in NUM_INPUTS:
        raise InputError(f"node {name} is the operator {op}, which is not among those of image "
                         "classifiers")
    least, most = NUM_INPUTS.get(op, (0, 0))
    checked = {"op": op, "name": name, "attrs": attrs, "inputs": inputs}
    if not least <= len(inputs) <= most or (
            op != "null" and _count(checked, "num_args", len(inputs)) != len(inputs)):
        raise InputError(f"node {name} ({op}) has {len(inputs)} inputs")
    if op == "UpSampling" and attrs.get("sample_type") == "bilinear" and "num_filter" not in attrs:
        raise InputError(f"node {name} has no num_filter")  # MXNet would divide by its default of 0
    if op == "Custom":
        options = {key: value for key, value in attrs.items() if not key.startswith("__")}
        if options.pop("op_type", None) != "CrossEntropyLoss" or not set(options) <= set(
                loss_options()):
            raise InputError(f"node {name} is a custom operator; only CrossEntropyLoss and its "
                             "options are known")
        try:
            loss_options(**options)
        except ValueError as error:
            raise InputError(f"node {name}: {error}") from None
    return checked


def _count(node, key, default):
    text = node["attrs"].get(key, str(default))
    if not text.isdecimal():
        raise InputError(f"{key} of node {node['name']} is {text!r:.80}, and not a number")
    return int(text)


def _check_attribute(where, key, value):
    if not ASCII.fullmatch(key) or not isinstance(value, str):
        raise InputError(f"{where!r:.200} is not text")
    if not re.fullmatch(r"[ -~\s]*", value, re.ASCII):
        raise InputError(f"{where} is not ASCII")
    if key in RANGES:
        least, most = RANGES[key]
        if not NUMBERS.fullmatch(value) or not all(
                least <= number <= most for number in integers(value)):
            raise InputError(f"{where} is {value!r:.80}; from {least} to {most} is allowed")


def _entry(entry, num_outputs):
    """A reference to an output of an earlier node: [node, output] or [node, output, version]."""
    if not (isinstance(entry, list) and len(entry) in (2, 3)
            and all(type(number) is int for number in entry)
            and 0 <= entry[0] < len(num_outputs) and 0 <= entry[1] < num_outputs[entry[0]]
            and 0 <= sum(entry[2:]) <= MOST_NODES):
        raise InputError(f"it refers to an output that is not there: {entry!r:.80}")
    return entry


def _list(value, key):
    value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise InputError(f"{key} is missing, or not a list")
    return value


def _text(node, key):
    value = node.get(key) if isinstance(node, dict) else None
    if not isinstance(value, str) or not ASCII.fullmatch(value):
        raise InputError(f"the {key} of a node is {value!r:.80}; 1 to 500 ASCII characters are "
                         "allowed")
    return value


def check_shapes(symbol: mx.sym.Symbol, arg_params: Mapping[str, Any],
                 aux_params: Mapping[str, Any], image_shape: Sequence[int], file: str,
                 largest_layer: float = LARGEST_LAYER) -> tuple[int, ...]:
    """Check shapes and types of all layers and parameters, without computing anything.

    Returns the shape of the network's first output, without the batch. An InputError, about
    `file`, is raised when the network does not work on images of this shape (3, height, width), a
    parameter has another shape, or the image or a layer has more than `largest_layer` values
    (math.inf where the user chose the size). There may be fewer or more parameters than the network
    has.
    """
    what = f"the network does not work on images of {list(image_shape)}"
    # A ValueError gets these words, too. infer_shape prints the shapes given before it raises.
    with mxnet_errors(what, file), contextlib.redirect_stdout(io.StringIO()):
        layers = symbol.get_internals()
        shapes, outputs, aux_shapes = layers.infer_shape(data=(IMAGES, *image_shape))
        raw = "rgb_mean" in symbol.list_arguments()
        if shapes is None or layers.infer_type(data=np.uint8 if raw else np.float32)[0] is None:
            raise ValueError("shapes or types of its layers do not follow from its input's")
        known = [*zip(symbol.list_arguments(), shapes),
                 *zip(symbol.list_auxiliary_states(), aux_shapes)]
        for name, shape in known:
            value = arg_params.get(name, aux_params.get(name))
            # A label that was saved among the parameters is not used.
            if value is not None and not name.endswith("label") and value.shape != shape:
                raise ValueError(f"{name} is {value.shape}, but has to be {shape}; is it another "
                                 "network's?")
        _check_layers(Graph(layers), outputs, largest_layer)
        images, *shape = symbol.infer_shape(data=(1, *image_shape))[1][0] or [0]
        if images != 1:
            raise ValueError(f"it gives {images} rows for one image")
    return tuple(shape)


def _check_layers(graph, outputs, largest_layer):
    """Check what MXNet does not: sizes, and shapes of which its operators are too sure."""
    sizes = [0.0]
    shapes = {(node, number): shape for (node, number, *_), shape in zip(graph.outputs, outputs)}
    for (node, _), shape in shapes.items():
        if not node.is_variable or node.name == "data":
            sizes.append(math.prod(shape) / IMAGES if min(shape, default=1) > 0 else math.inf)
        if node.op in SOFTMAXES:  # MXNet checks their axis only when it computes
            axis = int(node.attrs.get("axis", -1))
            if not -len(shape) <= axis < len(shape):
                raise ValueError(f"{node.name} has {len(shape)} dimensions, and no axis {axis}")
        if node.op == "where":  # MXNet divides by the ratio of the sizes, and may read beyond them
            condition = shapes[node.inputs[0][:2]]
            if condition not in (shape, shape[:1]):
                raise ValueError(f"the condition of {node.name} is {condition}, but has to be "
                                 f"{shape} or {shape[:1]}")
    if max(sizes) > largest_layer or sum(sizes) > LARGEST_LAYERS * largest_layer:
        raise ValueError(f"the largest layer has {max(sizes):.3g} values per image, and all layers "
                         f"together {sum(sizes):.3g}; at most {largest_layer:.3g} and "
                         f"{LARGEST_LAYERS * largest_layer:.3g} are allowed")
    # Some operators, GroupNorm and InstanceNorm for instance, replace what MXNet has inferred of a
    # layer that is their second input or a later one by what they want as gamma, and then write
    # beyond the end of its memory. So its shape is inferred again from the layer's own inputs.
    for node, number in {(source, number) for user in graph.nodes
                         for source, number, *_ in user.inputs[1:] if not source.is_variable}:
        names = [f"input{place}" for place in range(len(node.inputs))]
        alone = Graph(mx.sym.Variable("unused"))
        alone.outputs = [(Node(node.op, node.name, [Node("null", name) for name in names],
                               **node.attrs), number, 0)]
        symbol = alone.symbol()
        given = {name: shapes[source, place] for name, (source, place, *_)
                 in zip(names, node.inputs) if name in symbol.list_arguments()}
        _, found, _ = symbol.infer_shape_partial(**given)
        if found != [shapes[node, number]]:
            raise ValueError(f"{node.name} gives {found[0]}, but what takes it wants "
                             f"{shapes[node, number]}")


def _is_number(value, least, most, kinds=(int,)):
    return type(value) in kinds and math.isfinite(value) and least <= value <= most


def _is_list(value, is_valid, least=1, most=MOST_CLASSES):
    return (isinstance(value, (list, tuple)) and least <= len(value) <= most
            and all(is_valid(item) for item in value))


def _is_text(value, most=1000):
    # Python's JSON accepts lone surrogates, which cannot be encoded.
    return (isinstance(value, str) and len(value) <= most and "\0" not in value
            and not any("\ud800" <= character <= "\udfff" for character in value))


LIST_RULE = (lambda v: _is_list(v, _is_text, 2, 2),
             "the name and the checksum of a list, texts of at most 1,000 characters")
# By name: whether a value is valid, and what is expected in words.
RULES = {
    "image_shape": (lambda v: _is_list(v, lambda side: _is_number(side, 1, LARGEST_SIDE), 3, 3)
                    and v[0] == 3, f"3, height and width, both 1 to {LARGEST_SIDE}"),
    "resize": (lambda v: _is_number(v, 0, LARGEST_SIDE), f"a whole number, 0 to {LARGEST_SIDE}"),
    "full_decode": (lambda v: type(v) is bool, "true or false"),
    "fit": (lambda v: v in ("crop", "pad", "squash"), "crop, pad or squash"),
    "background": (lambda v: _is_list(v, lambda part: _is_number(part, 0, 255), 3, 3),
                   "red, green and blue, each 0 to 255"),
    "class_names": (lambda v: _is_list(v, _is_text),
                    "a list of texts of at most 1,000 characters"),
    "thresholds": (lambda v: _is_list(v, lambda t: _is_number(t, -1, 1, (int, float))),
                   "a list of numbers from -1 to 1"),
    "thresholds_list": LIST_RULE,
    "thresholds_epoch": (lambda v: _is_number(v, 0, 1 << 31), "the number of an epoch"),
    "thresholds_objective": (
        lambda v: isinstance(v, str) and re.fullmatch(r"f1|of1|precision [01]\.\d{6}", v),
        "f1, of1, or precision and a number from 0 to 1"),
    "training_list": LIST_RULE,
    "training": (lambda v: isinstance(v, dict) and len(v) <= 20
                 and all(_is_text(text) for item in v.items() for text in item),
                 "at most 20 texts of at most 1,000 characters, by names"),
    "version": (lambda v: _is_text(v, 100), "text of at most 100 characters"),
}

# What a checkpoint says of chosen thresholds, for `checkpoint.set_attributes` to take away.
NO_THRESHOLDS = dict.fromkeys(
    ("thresholds", "thresholds_list", "thresholds_epoch", "thresholds_objective"))


def check_attribute(name: str, value: Any, file: str | None = None) -> None:
    """Raise an InputError, about `file`, where an attribute cannot have this value."""
    if name not in RULES:
        raise InputError(f"attribute {name!r:.80} is not known; known are {', '.join(RULES)}",
                         file=file)
    is_valid, expected = RULES[name]
    if not is_valid(value):
        raise InputError(f"attribute {name} is {value!r:.80}; expected is {expected}", file=file)


def read_attributes(texts: Mapping[str, str], file: str | None = None) -> dict[str, Any]:
    """Parse the attributes of `data`, `texts`, that are called `__rgb_NAME__`: values by NAME.

    An InputError, about `file`, is raised where an attribute is not known, is not JSON, or has a
    value that it cannot have.
    """
    values = {}
    for key, text in texts.items():
        if key.startswith("__rgb_") and key.endswith("__"):  # others are MXNet's own
            name = key[len("__rgb_"):-2]
            try:
                values[name] = parse_json(text)
            except InputError as error:
                raise InputError(f"attribute {name}: its JSON: {error}", file=file) from None
            check_attribute(name, values[name], file)
    return values
