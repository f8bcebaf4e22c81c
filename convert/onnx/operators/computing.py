"""ONNX operators that compute: arithmetic, activations, reductions, and layers with weights or
windows.
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


@operator("Sum", *ARITHMETIC)
def arithmetic(layer, first, *others):
    name = {"Sum": "Add"}.get(layer.op, layer.op)
    for other in others:
        shape = np.broadcast_shapes(first.shape, other.shape)
        first = Tensor(combined(layer, name, first, other), shape)
    return first.symbol if others else first


ACTIVATIONS = {
    "Relu": lambda x: mx.sym.Activation(x, act_type="relu"),
    "Sigmoid": lambda x: mx.sym.Activation(x, act_type="sigmoid"),
    "Tanh": lambda x: mx.sym.Activation(x, act_type="tanh"),
    "Softplus": lambda x: mx.sym.Activation(x, act_type="softrelu"),
    "Softsign": lambda x: mx.sym.Activation(x, act_type="softsign"),
    "Mish": lambda x: x * mx.sym.tanh(mx.sym.Activation(x, act_type="softrelu")),
    "HardSwish": lambda x: x * mx.sym.hard_sigmoid(x, alpha=1 / 6, beta=0.5),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: mx.sym.hard_sigmoid(x, alpha=alpha, beta=beta),
    "Swish": lambda x, alpha=1.0: x * mx.sym.Activation(x * alpha, act_type="sigmoid"),
    "LeakyRelu": lambda x, alpha=0.01: mx.sym.LeakyReLU(x, act_type="leaky", slope=alpha),
    "Elu": lambda x, alpha=1.0: mx.sym.LeakyReLU(x, act_type="elu", slope=alpha),
    "Abs": mx.sym.abs, "Erf": mx.sym.erf, "Exp": mx.sym.exp, "Log": mx.sym.log,
    "Neg": mx.sym.negative, "Reciprocal": mx.sym.reciprocal, "Sqrt": mx.sym.sqrt}


@operator(*ACTIVATIONS, options=("alpha", "beta"))
def activation(layer, x, **options):
    return ACTIVATIONS[layer.op](x.symbol, **options)


@operator("PRelu")
def prelu(layer, x, slope):
    if not isinstance(slope, Constant) or slope.value.size not in (1, x.shape[1]) \
            or slope.value.size not in slope.value.shape[:1] + (1,):
        raise layer.error("its slope is not one number per channel")
    gamma = layer.parameter(slope, "gamma", slope.value.reshape(-1))
    return mx.sym.LeakyReLU(x.symbol, gamma, act_type="prelu")


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
        return Tensor(function(x.reshaped(flat), axis=-1), flat).reshaped(x.shape)
    return function(x.symbol, axis=axis)


WINDOW_OPTIONS = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


class Window:
    """Kernel, strides, dilations and padding of a convolution or pooling over two axes."""

    def __init__(self, layer, x, kernel, options):
        if len(x.shape) != 4 or len(kernel) != 2:
            raise layer.error(f"its input has {len(x.shape)} dimensions; only images are read")
        self.kernel = tuple(kernel)
        self.stride = tuple(options.get("strides") or (1, 1))
        self.dilate = tuple(options.get("dilations") or (1, 1))
        pads = list(options.get("pads") or (0, 0, 0, 0))
        sizes = list(zip(x.shape[2:], self.kernel, self.stride, self.dilate))
        auto = options.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [max((-(-size // stride) - 1) * stride + (kernel - 1) * dilate + 1 - size, 0)
                     for size, kernel, stride, dilate in sizes]
            less, more = [n // 2 for n in total], [n - n // 2 for n in total]
            pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
        elif auto not in ("NOTSET", "VALID"):
            raise layer.error(f"its option auto_pad is {auto!r:.50}")
        self.covers_input = not any(pads) and self.kernel == tuple(x.shape[2:])
        self.begin, self.end = pads[:2], pads[2:]
        self.rounded_up = [0, 0]  # padding that only rounding up needs, and is no pixels
        if options.get("ceil_mode"):
            for axis, (size, kernel, stride, dilate) in enumerate(sizes):
                padded = size + pads[axis] + pads[axis + 2]
                steps = -(-(padded - (kernel - 1) * dilate - 1) // stride)
                if steps * stride >= size + pads[axis]:  # it would begin in the padding
                    steps -= 1
                last = steps * stride + (kernel - 1) * dilate + 1
                self.rounded_up[axis] = max(last - padded, 0)

    @property
    def even(self):
        """Whether MXNet's own padding, the same on both sides, will do."""
        return self.begin == self.end and not any(self.rounded_up) and all(
            pad < kernel for pad, kernel in zip(self.begin, self.kernel))

    def padded(self, symbol, value=0.0, rounding=True):
        """The symbol with the padding as a layer of its own."""
        end = [pad + more * rounding for pad, more in zip(self.end, self.rounded_up)]
        width = (0, 0, 0, 0, self.begin[0], end[0], self.begin[1], end[1])
        if not any(width):
            return symbol
        return mx.sym.Pad(symbol, mode="constant", constant_value=value, pad_width=width)


@operator("Conv", options=WINDOW_OPTIONS)
def convolution(layer, x, weight, bias=None, group=1, **window):
    filters = layer.array(weight, "weight")
    window = Window(layer, x, filters.shape[2:], window)
    inputs = [layer.parameter(weight, "weight")]
    if bias is not None:
        inputs.append(layer.parameter(bias, "bias"))
    symbol, pad = x.symbol, tuple(window.begin)
    if window.begin != window.end:
        symbol, pad = window.padded(symbol), (0, 0)
    return mx.sym.Convolution(
        symbol, *inputs, kernel=window.kernel, stride=window.stride, dilate=window.dilate,
        pad=pad, num_filter=filters.shape[0], num_group=group, no_bias=bias is None)


@operator("MaxPool", "AveragePool", options=(*WINDOW_OPTIONS, "ceil_mode"), storage_order=0)
def pool(layer, x, count_include_pad=0, **options):
    kind = "max" if layer.op == "MaxPool" else "avg"
    window = Window(layer, x, options.get("kernel_shape") or (), options)
    if window.dilate != (1, 1):
        raise layer.error("its option dilations has another value than 1")
    if window.covers_input:
        return global_pooled(x, kind)
    shape = {"kernel": window.kernel, "stride": window.stride, "pool_type": kind}
    if window.even:
        return mx.sym.Pooling(x.symbol, pad=tuple(window.begin),
                              count_include_pad=bool(count_include_pad), **shape)
    if kind == "max":
        return mx.sym.Pooling(window.padded(x.symbol, -LARGEST), **shape)
    # The average over what counts in a window: pixels, and padding if count_include_pad.
    ones = mx.sym.ones_like(x.symbol)
    if count_include_pad:
        ones = window.padded(ones, 1.0, rounding=False)
        more = (0, 0, 0, 0, 0, window.rounded_up[0], 0, window.rounded_up[1])
        ones = mx.sym.Pad(ones, mode="constant", constant_value=0, pad_width=more)
    else:
        ones = window.padded(ones)
    return mx.sym.Pooling(window.padded(x.symbol), **shape) / mx.sym.Pooling(ones, **shape)


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(layer, x):
    return global_pooled(x, "avg" if layer.op == "GlobalAveragePool" else "max")


@operator("Gemm", transA=0)
def gemm(layer, a, b, c=None, alpha=1.0, beta=1.0, transB=0):
    weight = layer.array(b, "second factor")
    weight = alpha * (weight if transB else weight.T)
    bias = None if c is None else beta * np.broadcast_to(
        layer.array(c, "bias"), (1, len(weight)))[0]
    return fully_connected(layer, a, (b, weight), (c, bias))


def fully_connected(layer, x, weight, bias):
    """A fully connected layer; weight and bias are each a Constant and its array."""
    inputs = [layer.parameter(weight[0], "weight", weight[1])]
    if bias[0] is not None:
        inputs.append(layer.parameter(bias[0], "bias", bias[1]))
    return mx.sym.FullyConnected(x.symbol, *inputs, num_hidden=len(weight[1]),
                                 no_bias=bias[0] is None, flatten=len(x.shape) == 2)


@operator("MatMul")
def product(layer, a, b, bias=None):
    """A product of matrices. `bias` comes from graph_to_symbol.py."""
    if isinstance(b, Constant) and b.value.ndim == 2 and len(a.shape) > 1:
        return fully_connected(layer, a, (b, b.value.T), (bias, bias and bias.value))
    if min(len(a.shape), len(b.shape)) < 2:
        raise layer.error("a product with a vector")
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    like = a if isinstance(a, Tensor) else b
    factors = [layer.broadcast(v, (*outer, *v.shape[-2:]), like, "weight") for v in (a, b)]
    return (mx.sym.batch_dot if outer else mx.sym.dot)(*factors)


@operator("BatchNormalization", spatial=1, training_mode=0)
def batch_norm(layer, x, scale, bias, mean, var, epsilon=1e-5, momentum=0.9):
    variables = [layer.parameter(value, role) for value, role in (
        (scale, "gamma"), (bias, "beta"), (mean, "moving_mean"), (var, "moving_var"))]
    return mx.sym.BatchNorm(x.symbol, *variables, eps=epsilon, momentum=momentum, fix_gamma=False)


def scale_and_shift(layer, scale, bias, size):
    """Variables of gamma and beta, of `size` values each."""
    gamma = layer.array(scale, "scale").reshape(-1)
    beta = np.zeros(1) if bias is None else layer.array(bias, "bias").reshape(-1)
    gamma, beta = (np.repeat(values, size // len(values)) for values in (gamma, beta))
    return (layer.parameter(scale, "gamma", gamma),
            layer.parameter(bias or Constant(beta), "beta", beta))


@operator("LayerNormalization", stash_type=1)
def layer_norm(layer, x, scale, bias=None, axis=-1, epsilon=1e-5):
    axis, = layer.axes([axis], len(x.shape))
    size = int(np.prod(x.shape[axis:]))
    flat = (*x.shape[:axis], size)
    result = mx.sym.LayerNorm(x.reshaped(flat), *scale_and_shift(layer, scale, bias, size),
                              axis=-1, eps=epsilon)
    return Tensor(result, flat).reshaped(x.shape)


@operator("InstanceNormalization")
def instance_norm(layer, x, scale, bias, epsilon=1e-5):
    return mx.sym.InstanceNorm(x.symbol, *scale_and_shift(layer, scale, bias, x.shape[1]),
                               eps=epsilon)


@operator("GroupNormalization", stash_type=1)
def group_norm(layer, x, scale, bias, num_groups, epsilon=1e-5):
    options = {"num_groups": num_groups, "eps": epsilon}
    fixed = [layer.parameter(Constant(np.full(num_groups, value)), role, frozen=True)
             for value, role in ((1, "unit_gamma"), (0, "zero_beta"))]
    shape = (1, -1, *[1] * (len(x.shape) - 2))
    gamma, beta = (mx.sym.reshape(variable, shape=shape) for variable in scale_and_shift(
        layer, scale, bias, x.shape[1]))
    result = mx.sym.broadcast_mul(mx.sym.GroupNorm(x.symbol, *fixed, **options), gamma)
    return mx.sym.broadcast_add(result, beta)


@operator("LRN")
def local_response_norm(layer, x, size, alpha=1e-4, beta=0.75, bias=1.0):
    return mx.sym.LRN(x.symbol, nsize=size, alpha=alpha, beta=beta, knorm=bias)
