"""ONNX operators that move, cut, repeat and join values."""
import math

import numpy as np

from common.mx_compat import mx
from convert.onnx.operators.batch_shapes import batch_axis, resolve
from convert.onnx.operators.elementwise import as_symbol, axes_of, combined, of_one_image, reshaped
from convert.onnx.operators.layers import broadcast
from convert.onnx.operators.table import BATCH, Constant, Tensor, ints, one_float, operator

MOST_PIECES = 64  # of a Gather


def _in_shape(layer, x, target, allowzero=0):
    found = resolve(x, target, layer.batch, allowzero)
    if found is None:
        raise layer.error(f"shape {_shown(x.shape)} does not fit into {_shown(target)}")
    shape, inner = found
    return x if shape == tuple(x.shape) else Tensor(reshaped(x, shape), shape, inner=inner)


def _shown(shape):
    return [side if side < BATCH or side % BATCH else "batch" if side == BATCH
            else f"{side // BATCH} batch" for side in shape]


@operator("Reshape")
def reshape(layer, x, shape, allowzero=0):
    return _in_shape(layer, x, ints(shape), allowzero)


@operator("Flatten")
def flatten(layer, x, axis=1):
    rank = len(x.shape)
    axis += rank if axis < 0 else 0
    if not 0 <= axis <= rank:
        raise layer.error(f"axis {axis} of a value with {rank} dimensions")
    if axis == 1:
        return x if rank == 2 else mx.sym.Flatten(x.symbol)
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Squeeze")
def squeeze(layer, x, axes=None):
    if axes is None:
        axes = [axis for axis, side in enumerate(x.shape) if side == 1]
    axes = axes_of(layer, ints(axes), len(x.shape))
    return reshaped(x, [side for axis, side in enumerate(x.shape) if axis not in axes])


@operator("Unsqueeze")
def unsqueeze(layer, x, axes):
    rank = len(x.shape) + len(ints(axes))
    axes, sides = axes_of(layer, ints(axes), rank), iter(x.shape)
    return reshaped(x, [1 if axis in axes else next(sides) for axis in range(rank)])


@operator("Transpose")
def transpose(layer, x, perm=None):
    perm = perm or range(len(x.shape))[::-1]
    return x if list(perm) == sorted(perm) else mx.sym.transpose(x.symbol, axes=tuple(perm))


@operator("Concat")
def concat(layer, *values, axis):
    tensor = next(v for v in values if isinstance(v, Tensor))
    axis, = axes_of(layer, [axis], len(tensor.shape))
    symbols = []
    for value in values:
        # A constant, such as the class token, is the same for each image.
        wanted = (*tensor.shape[:axis], value.shape[axis], *tensor.shape[axis + 1:])
        value = of_one_image(layer, value, wanted)
        symbols.append(broadcast(as_symbol(layer, value), value.shape, wanted, tensor))
    return mx.sym.Concat(*symbols, dim=axis)


@operator("Split")
def split(layer, x, split=None, axis=0, num_outputs=None):
    axis, = axes_of(layer, [axis], len(x.shape))
    size, count = x.shape[axis], num_outputs or layer.outputs
    sizes = ints(split) or [min(-(-size // count), size - start)
                            for start in range(0, size, -(-size // count))]
    if len(set(sizes)) == 1 and sum(sizes) == size:
        if len(sizes) == 1:
            return x
        parts = mx.sym.SliceChannel(x.symbol, num_outputs=len(sizes), axis=axis)
        return [parts[number] for number in range(len(sizes))]
    ends = np.cumsum(sizes).tolist()
    return [mx.sym.slice_axis(x.symbol, axis=axis, begin=end - length, end=end)
            for length, end in zip(sizes, ends)]


@operator("Slice")
def slice_(layer, x, starts, ends, axes=None, steps=None):
    starts, ends = ints(starts), ints(ends)
    axes = axes_of(layer, ints(axes) or range(len(starts)), len(x.shape))
    begin, end, step = ([None] * len(x.shape) for _ in range(3))
    for axis, first, last, by in zip(axes, starts, ends, ints(steps) or [1] * len(starts)):
        size = x.shape[axis]
        indices = range(size)[slice(first, last, by)] if by else []
        if not indices:
            raise layer.error(f"nothing is left of axis {axis}")
        if len(indices) == size and by == 1:
            continue
        if size % BATCH == 0:
            raise layer.error("it cuts the batch")
        begin[axis], step[axis] = indices[0], by
        stop = indices[-1] + (1 if by > 0 else -1)
        # An open end stays open, for images of another size.
        end[axis] = None if stop < 0 or stop == size or last >= size else stop
    if begin == end == [None] * len(x.shape):
        return x
    symbol = x.symbol
    if {*step} <= {None, 1}:
        # MXNet divides by zero where it slices part of a block of oneDNN's layout: a plain copy.
        symbol = mx.sym.slice_axis(symbol, axis=0, begin=0, end=None)
    return mx.sym.slice(symbol, begin=tuple(begin), end=tuple(end), step=tuple(step))


@operator("Gather")
def gather(layer, x, indices, axis=0):
    if not isinstance(x, Tensor) or not isinstance(indices, Constant):
        raise layer.error("its indices are computed from the image")
    axis, = axes_of(layer, [axis], len(x.shape))
    size = x.shape[axis]
    if len(x.shape) == 1 and indices.value.size in (size, size // BATCH * layer.batch) \
            and np.array_equal(indices.value.ravel(), np.arange(indices.value.size)):
        # PyTorch's as_strided of a whole value.
        return _in_shape(layer, x, ints(indices.shape))
    numbers = axes_of(layer, [i if i >= 0 else i + size for i in ints(indices)], size)
    runs = []  # of indices that follow each other
    for number in numbers:
        if runs and number == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    if len(runs) > MOST_PIECES or size % BATCH == 0:
        raise layer.error("it takes too many pieces, or part of the batch")
    parts = [mx.sym.slice_axis(x.symbol, axis=axis, begin=begin, end=end) for begin, end in runs]
    symbol = mx.sym.Concat(*parts, dim=axis) if len(parts) > 1 else parts[0]
    taken = Tensor(symbol, (*x.shape[:axis], len(numbers), *x.shape[axis + 1:]))
    return reshaped(taken, (*x.shape[:axis], *indices.value.shape, *x.shape[axis + 1:]))


@operator("Expand")
def expand(layer, x, shape):
    target, axis = ints(shape), batch_axis(x.shape)
    rank = max(len(target), len(x.shape))
    shape = (1,) * (rank - len(x.shape)) + tuple(x.shape)
    target = [1] * (rank - len(target)) + target
    target = [old if new == 1 or (axis is not None and old % BATCH == 0) else new
              for old, new in zip(shape, target)]
    return broadcast(reshaped(x, shape), shape, target, x)


@operator("Tile")
def tile(layer, x, repeats):
    repeats = ints(repeats)
    return mx.sym.tile(x.symbol, reps=tuple(repeats)) if set(repeats) != {1} else x


@operator("Where")
def where(layer, condition, x, y):
    if not isinstance(condition, Constant):
        raise layer.error("its condition is computed from the image")
    # A sum, because MXNet's where does not broadcast.
    parts = []
    for value, mask in ((x, condition.value), (y, ~condition.value)):
        if isinstance(value, Constant):
            parts.append(Constant(np.where(mask, value.value, 0)))
        else:
            symbol = combined(layer, "Mul", value, Constant(mask.astype(np.float32)))
            parts.append(Tensor(symbol, np.broadcast_shapes(value.shape, mask.shape)))
    return combined(layer, "Add", *parts)


@operator("Pad")
def pad(layer, x, pads, constant_value=None, axes=None, mode="constant", value=0.0):
    rank = len(x.shape)
    axes = axes_of(layer, ints(axes) or range(rank), rank)
    pads = ints(pads)
    width = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)
             if pads[i] or pads[i + len(axes)]}
    if not width:
        return x
    if mode not in ("constant", "reflect", "edge") or min(map(min, width.values())) < 0 \
            or len(width) > 2 or rank > 4:
        raise layer.error(f"mode {mode!r:.50} with pads {pads}: known are constant, reflect and "
                          "edge over at most two axes, none below 0")
    # MXNet pads the last two axes of four.
    shape = (1,) * (4 - rank) + tuple(x.shape)
    padded = [axis + 4 - rank for axis in width]
    kept = [axis for axis in range(4) if axis not in padded]
    order = [*kept[:4 - len(padded)], *padded]
    symbol = reshaped(x, shape)
    if order != sorted(order):
        symbol = mx.sym.transpose(symbol, axes=tuple(order))
    number = value if constant_value is None else one_float(constant_value)
    ends = [0] * (8 - 2 * len(width)) + [n for both in width.values() for n in both]
    symbol = mx.sym.Pad(symbol, mode=mode, constant_value=number, pad_width=tuple(ends))
    if order != sorted(order):
        symbol = mx.sym.transpose(symbol, axes=tuple(int(i) for i in np.argsort(order)))
    result = [side + sum(width.get(axis, ())) for axis, side in enumerate(x.shape)]
    return reshaped(Tensor(symbol, (1,) * (4 - rank) + tuple(result)), result)
