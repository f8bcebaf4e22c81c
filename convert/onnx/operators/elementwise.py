"""ONNX operators that compute value by value, or over whole axes: arithmetic, activations,
reductions, softmax.
"""
import numpy as np

from common.mx_compat import mx
from convert.onnx.operators.values import Constant, Tensor, ints, numbers, operator

LARGEST = float(np.finfo(np.float32).max)
FLOATS = (1, 10, 11, 16)  # ONNX's numbers of float32, float16, float64 and bfloat16


def global_pooled(x, kind):
    """The average ("avg") or maximum ("max") over height and width, which become 1."""
    return mx.sym.Pooling(x.symbol, global_pool=True, kernel=(1, 1), pool_type=kind)


# Layers for a number and a tensor on either side, for other shapes, and for the same shape.
ARITHMETIC = {
    "Add": (lambda a, b: a + b, mx.sym.broadcast_add, mx.sym.elemwise_add),
    "Sub": (lambda a, b: a - b, mx.sym.broadcast_sub, mx.sym.elemwise_sub),
    "Mul": (lambda a, b: a * b, mx.sym.broadcast_mul, mx.sym.elemwise_mul),
    "Div": (lambda a, b: a / b, mx.sym.broadcast_div, mx.sym.elemwise_div),
    "Pow": (mx.sym.pow, mx.sym.broadcast_power, mx.sym.broadcast_power),
    "Min": (mx.sym.minimum, mx.sym.broadcast_minimum, mx.sym.broadcast_minimum),
    "Max": (mx.sym.maximum, mx.sym.broadcast_maximum, mx.sym.broadcast_maximum)}


def combined(layer, name, a, b):
    """Symbol of an operation on two values, each a Tensor or a Constant."""
    with_number, broadcasting, same = ARITHMETIC[name]
    a, b = layer.of_one_image(a, b.shape), layer.of_one_image(b, a.shape)
    shapes = [v.shape for v in (a, b)]
    for one, other in ((a, shapes[1]), (b, shapes[0])):
        if isinstance(one, Constant) and one.value.size == 1 and one.value.ndim <= len(other):
            number, = numbers(one)
            if one is a:
                return with_number(number, b.symbol)
            if name == "Pow" and number in (0.5, 2):
                return (mx.sym.square if number == 2 else mx.sym.sqrt)(a.symbol)
            return with_number(a.symbol, number)
    if not any(isinstance(v, Tensor) and v.trained for v in (a, b)):
        # What is computed with the pixels before the first layer is not trained.
        a, b = (v._replace(origin="") if isinstance(v, Constant) else v for v in (a, b))
    if name == "Mul":
        faster = _scaled_channels(layer, a, b)
        faster = _scaled_channels(layer, b, a) if faster is None else faster
        if faster is not None:
            return faster
    rank = max(map(len, shapes))
    function = same if shapes[0] == shapes[1] else broadcasting
    return function(layer.symbol(a, rank), layer.symbol(b, rank))


def _scaled_channels(layer, x, scale):
    """x with each channel times a number, by layers whose backward pass is faster; or None.

    That of broadcast_mul took 2 times as long as broadcasting first, for squeeze and excitation,
    and 9 times as long as a convolution, for a layer scale.
    """
    if not isinstance(x, Tensor) or len(x.shape) != 4 or x.shape[2] * x.shape[3] == 1:
        return None
    if isinstance(scale, Tensor):
        if tuple(scale.shape) != (*x.shape[:2], 1, 1):
            return None
        return x.symbol * mx.sym.broadcast_like(scale.symbol, x.symbol, lhs_axes=(2, 3),
                                                rhs_axes=(2, 3))
    if scale.shape not in ((x.shape[1], 1, 1), (1, x.shape[1], 1, 1)) or scale.is_fixed:
        return None
    weight = layer.parameter(scale, "value", scale.value.reshape(-1, 1, 1, 1))
    return mx.sym.Convolution(x.symbol, weight, kernel=(1, 1), num_filter=x.shape[1],
                              num_group=x.shape[1], no_bias=True)


@operator("Add", "Sub", "Mul", "Div", "Pow")
def arithmetic(layer, a, b):
    return combined(layer, layer.op, a, b)


@operator("Min", "Max", "Sum")
def several(layer, first, *others):
    name = {"Sum": "Add"}.get(layer.op, layer.op)
    for other in others:
        both = (v.shape for v in (first, other))
        first = Tensor(combined(layer, name, first, other), np.broadcast_shapes(*both))
    return first.symbol if others else first


ACTIVATIONS = {
    "Relu": lambda x: mx.sym.Activation(x, act_type="relu"),
    "Sigmoid": lambda x: mx.sym.Activation(x, act_type="sigmoid"),
    "Tanh": lambda x: mx.sym.Activation(x, act_type="tanh"),
    "Softplus": lambda x: mx.sym.Activation(x, act_type="softrelu"),
    "Softsign": lambda x: mx.sym.Activation(x, act_type="softsign"),
    "Mish": lambda x: x * mx.sym.tanh(mx.sym.Activation(x, act_type="softrelu")),
    "HardSwish": lambda x: x * mx.sym.hard_sigmoid(x, alpha=1 / 6, beta=0.5),
    "Abs": mx.sym.abs, "Erf": mx.sym.erf, "Exp": mx.sym.exp, "Log": mx.sym.log,
    "Neg": mx.sym.negative, "Reciprocal": mx.sym.reciprocal, "Sqrt": mx.sym.sqrt}


@operator(*ACTIVATIONS)
def activation(layer, x):
    return ACTIVATIONS[layer.op](x.symbol)


@operator("LeakyRelu")
def leaky_relu(layer, x, alpha=0.01):
    return mx.sym.LeakyReLU(x.symbol, act_type="leaky", slope=alpha)


@operator("Elu")
def elu(layer, x, alpha=1.0):
    return mx.sym.LeakyReLU(x.symbol, act_type="elu", slope=alpha)


@operator("PRelu")
def prelu(layer, x, slope):
    if not isinstance(slope, Constant) or slope.value.size not in (1, x.shape[1]) \
            or slope.value.size not in slope.value.shape[:1] + (1,):
        raise layer.error("its slope is not one number per channel")
    gamma = layer.parameter(slope, "gamma", slope.value.reshape(-1))
    return mx.sym.LeakyReLU(x.symbol, gamma, act_type="prelu")


@operator("HardSigmoid")
def hard_sigmoid(layer, x, alpha=0.2, beta=0.5):
    return mx.sym.hard_sigmoid(x.symbol, alpha=alpha, beta=beta)


@operator("Swish")
def swish(layer, x, alpha=1.0):
    return x.symbol * mx.sym.Activation(x.symbol * alpha, act_type="sigmoid")


@operator("Gelu")
def gelu(layer, x, approximate="none"):
    if approximate == "none":
        return mx.sym.LeakyReLU(x.symbol, act_type="gelu")
    inner = (x.symbol + 0.044715 * x.symbol**3) * (2 / np.pi)**0.5
    return 0.5 * x.symbol * (1 + mx.sym.tanh(inner))


@operator("Clip")
def clip(layer, x, min=None, max=None):
    low = -LARGEST if min is None else numbers(min)[0]
    high = LARGEST if max is None else numbers(max)[0]
    if low == 0 and high >= LARGEST:
        return mx.sym.Activation(x.symbol, act_type="relu")
    return mx.sym.clip(x.symbol, a_min=low, a_max=high)


@operator("Identity")
def identity(layer, x):
    return x


@operator("Cast", saturate=1)
def cast(layer, x, to):
    if to not in FLOATS:
        raise layer.error(f"a value that depends on the image is cast to type {to}, which is no "
                          "floating-point type")
    return x


@operator("Dropout", seed=0)
def dropout(layer, x, ratio=0.5, training_mode=None):
    probability, = numbers(ratio)
    return mx.sym.Dropout(x.symbol, p=probability) if probability else x


REDUCTIONS = {"ReduceMean": mx.sym.mean, "ReduceSum": mx.sym.sum, "ReduceMax": mx.sym.max,
              "ReduceMin": mx.sym.min}


@operator("ReduceL2", *REDUCTIONS)
def reduce(layer, x, axes=None, keepdims=1, noop_with_empty_axes=0):
    axes = sorted(layer.axes(ints(axes) or [], len(x.shape)))
    if not axes:
        if noop_with_empty_axes:
            return x
        axes = list(range(len(x.shape)))
    if axes == [2, 3] and len(x.shape) == 4 and layer.op in ("ReduceMean", "ReduceMax"):
        pooled = global_pooled(x, "avg" if layer.op == "ReduceMean" else "max")
        return pooled if keepdims else mx.sym.Flatten(pooled)
    options = {"axis": tuple(axes), "keepdims": bool(keepdims)}
    if layer.op == "ReduceL2":
        return mx.sym.sqrt(mx.sym.sum(mx.sym.square(x.symbol), **options))
    return REDUCTIONS[layer.op](x.symbol, **options)


@operator("Softmax", "LogSoftmax")
def softmax(layer, x, axis=None):
    function = mx.sym.softmax if layer.op == "Softmax" else mx.sym.log_softmax
    rank = len(x.shape)
    axis, = layer.axes([(-1 if layer.opset >= 13 else 1) if axis is None else axis], rank)
    # Before operator set 13 it went over all axes from `axis` on.
    if layer.opset < 13 and any(side != 1 for side in x.shape[axis + 1:]):
        flat = (*x.shape[:axis], int(np.prod(x.shape[axis:])))
        result = Tensor(function(x.reshaped(flat), axis=-1), flat)
        return result.reshaped(x.shape)
    return function(x.symbol, axis=axis)
