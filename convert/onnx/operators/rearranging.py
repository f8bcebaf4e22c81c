"""ONNX operators that move, cut, repeat, join and resize values."""
import math

import numpy as np

from common.mx_compat import mx
from convert.onnx.operators.computing import combined
from convert.onnx.operators.values import BATCH, Constant, Tensor, ints, numbers, operator, resolve

# Coordinates and rounding by which "nearest" repeats each pixel, for a whole factor.
REPEATING = [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"),
             ("half_pixel", "round_prefer_ceil")]


def _in_shape(layer, x, target, allowzero=0):
    found = resolve(x, target, layer.batch, allowzero)
    if found is None:
        shape = ["batch" if side == BATCH else side for side in x.shape]
        raise layer.error(f"shape {shape} does not fit into {target}")
    shape, inner = found
    return x if shape == tuple(x.shape) else Tensor(x.reshaped(shape), shape, inner=inner)


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
    return x.reshaped((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Squeeze")
def squeeze(layer, x, axes=None):
    if axes is None:
        axes = [axis for axis, side in enumerate(x.shape) if side == 1]
    axes = layer.axes(ints(axes), len(x.shape))
    return x.reshaped([side for axis, side in enumerate(x.shape) if axis not in axes])


@operator("Unsqueeze")
def unsqueeze(layer, x, axes):
    rank = len(x.shape) + len(ints(axes))
    axes, sides = layer.axes(ints(axes), rank), iter(x.shape)
    return x.reshaped([1 if axis in axes else next(sides) for axis in range(rank)])


@operator("Transpose")
def transpose(layer, x, perm=None):
    perm = perm or range(len(x.shape))[::-1]
    return x if list(perm) == sorted(perm) else mx.sym.transpose(x.symbol, axes=tuple(perm))


@operator("Concat")
def concat(layer, *values, axis):
    tensor = next(v for v in values if isinstance(v, Tensor))
    axis, = layer.axes([axis], len(tensor.shape))
    symbols = []
    for value in values:
        # A constant, such as the class token, is the same for each image.
        wanted = (*tensor.shape[:axis], value.shape[axis], *tensor.shape[axis + 1:])
        symbols.append(layer.broadcast(layer.of_one_image(value, wanted), wanted, tensor))
    return mx.sym.Concat(*symbols, dim=axis)


@operator("Split")
def split(layer, x, split=None, axis=0, num_outputs=None):
    axis, = layer.axes([axis], len(x.shape))
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
    axes = layer.axes(ints(axes) or range(len(starts)), len(x.shape))
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
    axis, = layer.axes([axis], len(x.shape))
    size = x.shape[axis]
    if len(x.shape) == 1 and indices.value.size in (size, size // BATCH * layer.batch) \
            and np.array_equal(indices.value.ravel(), np.arange(indices.value.size)):
        # PyTorch's as_strided of a whole value.
        return _in_shape(layer, x, ints(indices.shape))
    taken = layer.axes(ints(indices), size)
    if not taken or taken != list(range(taken[0], taken[-1] + 1)) or size % BATCH == 0:
        raise layer.error("its indices do not follow each other, or take part of the batch")
    symbol = mx.sym.slice_axis(x.symbol, axis=axis, begin=taken[0], end=taken[-1] + 1)
    result = Tensor(symbol, (*x.shape[:axis], len(taken), *x.shape[axis + 1:]))
    return result.reshaped((*x.shape[:axis], *indices.value.shape, *x.shape[axis + 1:]))


@operator("Expand")
def expand(layer, x, shape):
    target = ints(shape)
    rank = max(len(target), len(x.shape))
    olds, news = ([1] * (rank - len(sides)) + [*sides] for sides in (x.shape, target))
    target = [old if new == 1 or old % BATCH == 0 else new for old, new in zip(olds, news)]
    return layer.broadcast(x, target, x)


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
    axes = layer.axes(ints(axes) or range(rank), rank)
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
    order = [axis for axis in range(4) if axis not in padded] + padded
    symbol = x.reshaped(shape)
    if order != sorted(order):
        symbol = mx.sym.transpose(symbol, axes=tuple(order))
    number = value if constant_value is None else numbers(constant_value)[0]
    ends = [0] * (8 - 2 * len(width)) + [n for both in width.values() for n in both]
    symbol = mx.sym.Pad(symbol, mode=mode, constant_value=number, pad_width=tuple(ends))
    if order != sorted(order):
        symbol = mx.sym.transpose(symbol, axes=tuple(int(i) for i in np.argsort(order)))
    result = [side + sum(width.get(axis, ())) for axis, side in enumerate(x.shape)]
    return Tensor(symbol, (1,) * (4 - rank) + tuple(result)).reshaped(result)


@operator("DepthToSpace", mode="DCR")
def depth_to_space(layer, x, blocksize):
    return mx.sym.depth_to_space(x.symbol, block_size=blocksize)


@operator("SpaceToDepth")
def space_to_depth(layer, x, blocksize):
    return mx.sym.space_to_depth(x.symbol, block_size=blocksize)


@operator("Resize", "Upsample", cubic_coeff_a=-0.75, exclude_outside=0, extrapolation_value=0.0,
          antialias=0, keep_aspect_ratio_policy="stretch")
def resize(layer, x, roi=None, scales=None, sizes=None, *, axes=None, mode="nearest",
           coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_floor"):
    """`roi` counts in modes that crop only, which are not known."""
    if layer.opset < 11:  # Upsample, or Resize with the same inputs and meaning
        scales = roi if scales is None else scales
        coordinate_transformation_mode, nearest_mode = "asymmetric", "floor"
    rank = len(x.shape)
    goal = list(x.shape)
    for number, axis in enumerate(layer.axes(axes or range(rank), rank)):
        if sizes is None:
            goal[axis] = math.floor(x.shape[axis] * numbers(scales)[number])
        elif axis > 0:
            goal[axis] = ints(sizes)[number]
    if rank != 4 or goal[:2] != list(x.shape[:2]) or min(goal) < 1:
        raise layer.error("it resizes other axes than the height and width, or to nothing")
    transformation = coordinate_transformation_mode
    if mode == "linear" and transformation in (
            "half_pixel", "pytorch_half_pixel", "align_corners"):
        return mx.sym.contrib.BilinearResize2D(
            x.symbol, height=goal[2], width=goal[3],
            align_corners=transformation == "align_corners")
    if mode != "nearest" or (transformation, nearest_mode) not in REPEATING or any(
            new % old for new, old in zip(goal[2:], x.shape[2:])):
        raise layer.error(f"mode {mode!r:.50} with {transformation!r:.50} and {nearest_mode!r:.50} "
                          f"from {x.shape[2:]} to {goal[2:]}: known are linear, and nearest where "
                          "it repeats each pixel")
    rows = mx.sym.repeat(x.symbol, repeats=goal[2] // x.shape[2], axis=2)
    return mx.sym.repeat(rows, repeats=goal[3] // x.shape[3], axis=3)
