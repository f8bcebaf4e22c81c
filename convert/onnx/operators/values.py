"""The values of an ONNX graph, the layers of one node, and the table of operators.

    @operator("Tile")
    def tile(layer, x, repeats):
        return mx.sym.tile(x.symbol, reps=tuple(ints(repeats)))

A function has ONNX's inputs and attributes as its parameters, by ONNX's names where they are
attributes. Those that newer operator sets made inputs of, such as `axes`, are then read from
either. An attribute that is no parameter is an error, so that none is ever ignored.
"""
import functools
import inspect
import math
import re
from typing import NamedTuple

import numpy as np
import onnx

from common.cli import InputError
from common.mx_compat import mx

# Stands for the batch size in shapes: a prime that no other size is a multiple of.
BATCH = 1009
RESERVED = ("data", "rgb_mean", "rgb_std", "softmax_label")
# An attention mask has 0 where a position is seen, and a number like -100 where it is not.
MASKED = -50
OPERATORS = {}


class Tensor(NamedTuple):
    """A value that depends on the images."""

    symbol: mx.sym.Symbol
    shape: tuple  # with BATCH, or a multiple of it, where the batch is
    trained: bool = True  # whether a layer with parameters has come before
    inner: bool = False  # whether a multiple of BATCH counts images faster than the other number

    def reshaped(self, shape):
        """Its symbol in another shape."""
        if tuple(shape) == tuple(self.shape):
            return self.symbol
        return mx.sym.reshape(self.symbol, shape=reshape_codes(self.shape, shape))


class Constant(NamedTuple):
    """A value that does not depend on the images."""

    value: np.ndarray
    origin: str = ""  # name of the weight in the file that it was made of

    @property
    def shape(self):
        return self.value.shape

    @property
    def is_fixed(self):
        """Whether it is not meant to be trained: computed, of integers, or a mask."""
        array = self.value
        return not self.origin or array.dtype.kind != "f" or (
            array.size > 1 and array.min() < MASKED and set(np.unique(array)) == {0, array.min()})


def operator(*names, options=(), **only):
    """Put a function into the table of operators.

    `options` are attributes that it takes as keywords without naming them; `only`, attributes that
    must have one value. In the table it takes the layer, a list of the node's inputs and a dict of
    its attributes.
    """
    def register(function):
        known = {*inspect.signature(function).parameters, *options}

        def checked(layer, inputs, attributes):
            for name, value in only.items():
                if attributes.pop(name, value) != value:
                    raise layer.error(f"its option {name} has another value than {value!r}")
            for name in sorted({*attributes} - known):
                raise layer.error(f"its option {name!r:.100} is not known")
            return function(layer, *inputs, **attributes)

        OPERATORS.update(dict.fromkeys(names, checked))
        return function
    return register


def attributes_of(node):
    """The attributes of a node by name, with text as str."""
    values = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for name, value in values.items()}


def numbers(value):
    """The numbers in a constant, a list or an attribute, as a flat list."""
    return np.reshape(value.value if isinstance(value, Constant) else value, -1).tolist()


def ints(value):
    """The same as integers; None stays None."""
    return None if value is None else [int(number) for number in numbers(value)]


class Layer:
    """The MXNet layers that one ONNX node becomes.

    `opset` is the file's operator set, `batch` the batch size that the exporter wrote into it, 1
    where it left it free. `names` has the names taken so far, and is added to.
    """

    def __init__(self, node, opset, batch, names):
        self.op, self.opset, self.batch = node.op_type, opset, batch
        self.label = node.name or next(iter(node.output), "")
        self.outputs = len(node.output)
        self.parameters, self.statistics, self.variables = {}, {}, {}
        self._names = names

    @functools.cached_property
    def name(self):
        """Beginning of the names of its layers."""
        parts = self.label.strip("/").split("/")
        # PyTorch writes /layer1/layer1.0/conv1/Conv.
        parts = [part for part, after in zip(parts, [*parts[1:], ""])
                 if not after.startswith(f"{part}.")]
        name = re.sub(rf"_{re.escape(self.op)}(_\d+)?$", "", _clean("_".join(parts)))
        return self._free_name(name, ("layer", self.label))

    def error(self, text):
        """An InputError that names the node and its operator."""
        return InputError(f"node {self.label!r:.100} ({self.op:.50}): {text}")

    def axes(self, axes, rank):
        """Axes of a value with `rank` dimensions, as numbers from 0."""
        result = [axis + rank if axis < 0 else axis for axis in axes]
        if any(not 0 <= axis < rank for axis in result):
            raise self.error(f"axes {list(axes)!r:.80} of a value with {rank} dimensions")
        return result

    def array(self, value, what):
        """The array of an input that has to be a constant."""
        if not isinstance(value, Constant):
            raise self.error(f"its {what} is computed from the image, or is missing")
        return value.value

    def symbol(self, value, rank, role="value"):
        """A Tensor, or a Constant, which becomes a parameter, as a symbol of `rank` dimensions."""
        shape = (1,) * (rank - len(value.shape)) + tuple(value.shape)
        if isinstance(value, Tensor):
            return value.reshaped(shape)
        fixed = value.is_fixed
        return self.parameter(value, "constant" if fixed else role, value.value.reshape(shape),
                              fixed)

    def broadcast(self, value, target, like, role="value"):
        """The symbol of a Tensor or Constant, repeated along axes where it has 1 and `target` more.

        `like` is a Tensor that has the batch, along which it is repeated as often as that is long.
        """
        symbol = self.symbol(value, len(target), role)
        shape = (1,) * (len(target) - len(value.shape)) + tuple(value.shape)
        for axis, (old, new) in enumerate(zip(shape, target)):
            if old == new:
                continue
            if new % BATCH:
                symbol = mx.sym.broadcast_axis(symbol, axis=axis, size=new)
            else:
                symbol = mx.sym.broadcast_like(symbol, like.symbol, lhs_axes=(axis,),
                                               rhs_axes=(like.shape.index(new),))
        return symbol

    def of_one_image(self, value, shape):
        """The value, once if it is a constant that the exporter repeated for each image."""
        if isinstance(value, Constant):
            for axis, (side, wanted) in enumerate(zip(value.shape[::-1], shape[::-1]), 1):
                first = value.value.take([0], -axis)
                if side == self.batch > 1 and wanted == BATCH and (value.value == first).all():
                    return value._replace(value=first)
        return value

    def parameter(self, constant, role, value=None, frozen=False):
        """Variable of a parameter, or a running statistic, that is made of a constant.

        `role` is the end of its name: MXNet's optimizers have weight decay for weights and
        gammas only. `value` is what to store in place of the constant's own value. A frozen
        parameter is not trained.
        """
        value = self.array(constant, role) if value is None else value
        value = np.ascontiguousarray(value, np.float32)
        name = self._parameter_name(constant, role, value.shape)
        (self.statistics if role.startswith("moving_") else self.parameters)[name] = value
        options = {"lr_mult": 0, "wd_mult": 0} if frozen else {}
        self.variables[name] = mx.sym.Variable(name, shape=value.shape, **options)
        return mx.sym.BlockGrad(self.variables[name]) if frozen else self.variables[name]

    def _parameter_name(self, constant, role, shape):
        base = self.name
        if constant.origin and "::" not in constant.origin and not constant.origin.isdigit():
            base = re.sub(r"([._](weight|bias|gamma|beta|kernel|running_mean|running_var))+$", "",
                          _clean(constant.origin))
        return self._free_name(f"{base}_{role}", (id(constant.value), role, shape))

    def _free_name(self, name, key):
        """`name`, with a number if it is taken for another key."""
        free, number = name, 1
        while free in RESERVED or self._names.setdefault(free, key) != key:
            number += 1
            free = f"{name}_{number}"
        return free


def _clean(name):
    """A name of the characters that MXNet's names have."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")[-100:] or "layer"


def resolve(x, target, batch, allowzero=0):
    """What ONNX's Reshape gives: the shape, and `inner` (see Tensor); None if it does not fit.

    `target` is the new shape with ONNX's codes 0 and -1. It may have been computed from a shape,
    and then has BATCH, or the exporter may have written its own batch size, `batch`, into it.
    """
    axis = batch_axis(x.shape)
    if axis is None or any(side and side % BATCH == 0 for side in target):
        result = _fill(x.shape, target, allowzero)
        return result and (result, False)
    plain = list(x.shape)
    plain[axis] = x.shape[axis] // BATCH * batch
    result = _fill(plain, target, allowzero) or ()
    # The batch belongs to the side where elements of two images are as far apart as before: as the
    # outer part of the side, or as the inner one.
    stride = math.prod(plain[axis + 1:] if x.inner else plain[axis:]) // (1 if x.inner else batch)
    for number, side in enumerate(result):
        after = math.prod(result[number + 1:])
        outer = side * after == stride * batch
        # The last axis has features, and the batch is not joined with them.
        if outer and number and number == len(result) - 1 and side > batch:
            continue
        if side % batch == 0 and (outer or (after == stride and not _fits_later(
                result[number + 1:], stride * batch))):
            shape = (*result[:number], side // batch * BATCH, *result[number + 1:])
            return shape, not outer
    return None


def _fits_later(sides, product):
    """Whether the batch can be the outer part of one of these sides, but not of the last one."""
    return any(math.prod(sides[number:]) == product for number in range(len(sides) - 1))


def _fill(shape, target, allowzero):
    result = [shape[i] if side == 0 and not allowzero and i < len(shape) else side
              for i, side in enumerate(target)]
    if result.count(-1) == 1:
        rest = -math.prod(result)
        if rest and math.prod(shape) % rest == 0:
            result[result.index(-1)] = math.prod(shape) // rest
    fits = min(result, default=1) > 0 and math.prod(result) == math.prod(shape)
    return tuple(result) if fits else None


def batch_axis(shape):
    """The axis that holds the batch, or None."""
    return next((axis for axis, side in enumerate(shape) if side and side % BATCH == 0), None)


def reshape_codes(old, new):
    """`new` as MXNet's reshape takes it, with no number for the batch.

    Where the shapes allow it, there is none for the height and width either: 0 keeps a side,
    -3 joins two, -4 divides one. Otherwise -1 stands for the batch, or for the last side.
    """
    codes, done = [], 0
    for before, after in _groups(old, new):
        if len(before) == len(after) == 1:
            codes.append(0)
        elif (len(before), len(after)) == (2, 1):
            codes.append(-3)
        elif (len(before), len(after)) == (1, 2):
            divided = (after[0], -1) if after[1] % BATCH == 0 else (-1, after[1])
            codes.extend((-4, *divided))
        else:
            break
        done += len(after)
    rest = list(new[done:])
    if rest:
        axis = batch_axis(rest)
        rest[-1 if axis is None else axis] = -1
    return (*codes, *rest)


def _groups(old, new):
    """Sides before and after that have the same product, from the left, as small as possible."""
    groups, olds, news = [], [*old], [*new]
    while olds and news:
        before, after = [olds.pop(0)], [news.pop(0)]
        while math.prod(before) != math.prod(after):
            if math.prod(before) < math.prod(after):
                before.append(olds.pop(0))
            else:
                after.append(news.pop(0))
        groups.append((before, after))
    if groups:
        groups[-1][0].extend(olds)
        groups[-1][1].extend(news)
    return groups
