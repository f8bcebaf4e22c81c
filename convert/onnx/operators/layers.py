"""ONNX operators with weights or windows: convolution, pooling, products, normalisation."""
import numpy as np

from common.mx_compat import mx
from convert.onnx.operators.elementwise import LARGEST, global_pooled
from convert.onnx.operators.values import Constant, Tensor, operator

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
        layer.array(bias, "bias")
        inputs.append(layer.parameter(bias, "bias"))
    pad = tuple(window.begin) if window.begin == window.end else (0, 0)
    symbol = x.symbol if window.begin == window.end else window.padded(x.symbol)
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
    """A fully connected layer over the last axis; weight and bias are Constants and their arrays.
    """
    inputs = [layer.parameter(weight[0], "weight", weight[1])]
    if bias[0] is not None:
        inputs.append(layer.parameter(bias[0], "bias", bias[1]))
    return mx.sym.FullyConnected(x.symbol, *inputs, num_hidden=len(weight[1]),
                                 no_bias=bias[0] is None, flatten=len(x.shape) == 2)


@operator("MatMul")
def product(layer, a, b, bias=None, transB=0):
    """A product of matrices. `bias` and `transB` come from convert/onnx/node_patterns.py."""
    if isinstance(b, Constant) and b.value.ndim == 2 and len(a.shape) > 1:
        return fully_connected(layer, a, (b, b.value.T), (bias, bias and bias.value))
    if min(len(a.shape), len(b.shape)) < 2:
        raise layer.error("a product with a vector")
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    like = a if isinstance(a, Tensor) else b
    factors = [layer.broadcast(v, (*outer, *v.shape[-2:]), like, "weight") for v in (a, b)]
    return (mx.sym.batch_dot if outer else mx.sym.dot)(*factors, transpose_b=bool(transB))


@operator("BatchNormalization", spatial=1, training_mode=0)
def batch_norm(layer, x, *statistics, epsilon=1e-5, momentum=0.9):
    if len(statistics) != 4:
        raise layer.error(f"{len(statistics)} parameters; 4 are wanted")
    for value in statistics:
        layer.array(value, "parameters")
    return mx.sym.BatchNorm(
        x.symbol, *(layer.parameter(value, role)
                    for value, role in zip(statistics, ("gamma", "beta"))),
        layer.statistic(statistics[2], "moving_mean"), layer.statistic(statistics[3], "moving_var"),
        eps=epsilon, momentum=momentum, fix_gamma=False)


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
    if layer.opset < 21:  # one gamma per group, as in MXNet
        gamma, beta = scale_and_shift(layer, scale, bias, num_groups)
        return mx.sym.GroupNorm(x.symbol, gamma, beta, **options)
    fixed = [layer.parameter(Constant(np.full(num_groups, value)), role, frozen=True)
             for value, role in ((1, "unit_gamma"), (0, "zero_beta"))]
    shape = (1, -1, *[1] * (len(x.shape) - 2))
    gamma, beta = (mx.sym.reshape(variable, shape=shape) for variable in scale_and_shift(
        layer, scale, bias, x.shape[1]))
    result = mx.sym.broadcast_mul(mx.sym.GroupNorm(x.symbol, *fixed, **options), gamma)
    return mx.sym.broadcast_add(result, beta)


@operator("LRN")
def local_response_norm(layer, x, size, alpha=1e-4, beta=0.75, bias=1.0):
    if size % 2 == 0:
        raise layer.error("its option size is even; MXNet has odd ones")
    return mx.sym.LRN(x.symbol, nsize=size, alpha=alpha, beta=beta, knorm=bias)
