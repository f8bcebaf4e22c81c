"""ONNX operators that move, cut, repeat, join and resize values."""
import math

import numpy as np

from common.mx_compat import mx
from convert.onnx.operators.computing import combined
from convert.onnx.operators.values import BATCH, Constant, Tensor, ints, numbers, operator, resolve

MOST_PIECES = 64  # of a Gather


def _in_shape(layer, x, target, allowzero=0):
    found = resolve(x, target, layer.batch, allowzero)
    if found is None:
        raise layer.error(f"shape {_shape_text(x.shape)} does not fit into {_shape_text(target)}")
    shape, inner = found
    return x if shape == tuple(x.shape) else Tensor(x.reshaped(shape), shape, inner=inner)


def _shape_text(shape):
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
    runs = np.split(taken, np.flatnonzero(np.diff(taken) != 1) + 1)  # that follow each other
    if not taken or len(runs) > MOST_PIECES or size % BATCH == 0:
        raise layer.error("it takes nothing, too many pieces, or part of the batch")
    parts = [mx.sym.slice_axis(x.symbol, axis=axis, begin=run[0], end=run[-1] + 1) for run in runs]
    symbol = mx.sym.Concat(*parts, dim=axis) if len(parts) > 1 else parts[0]
    result = Tensor(symbol, (*x.shape[:axis], len(taken), *x.shape[axis + 1:]))
    return result.reshaped((*x.shape[:axis], *indices.value.shape, *x.shape[axis + 1:]))


@operator("Expand")
def expand(layer, x, shape):
    target = ints(shape)
    rank = max(len(target), len(x.shape))
    olds, news = ([1] * (rank - len(sides)) + [*sides] for sides in (x.shape, target))
    target = [old if new == 1 or old % BATCH == 0 else new for old, new in zip(olds, news)]
    return layer.broadcast(x, target, x)


@operator("Tile")
def tile(layer, x, repeats):
    return mx.sym.tile(x.symbol, reps=tuple(ints(repeats)))


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
    kept = [axis for axis in range(4) if axis not in padded]
    order = [*kept[:4 - len(padded)], *padded]
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


@operator("DepthToSpace")
def depth_to_space(layer, x, blocksize, mode="DCR"):
    if mode == "DCR":
        return mx.sym.depth_to_space(x.symbol, block_size=blocksize)
    symbol = mx.sym.reshape(x.symbol, shape=(0, -4, -1, blocksize**2, 0, 0))
    symbol = mx.sym.reshape(symbol, shape=(0, 0, -4, blocksize, blocksize, 0, 0))
    symbol = mx.sym.transpose(symbol, axes=(0, 1, 4, 2, 5, 3))
    return mx.sym.reshape(symbol, shape=(0, 0, -3, -3))


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
    factors, goal = [1.0] * rank, list(x.shape)
    for number, axis in enumerate(layer.axes(axes or range(rank), rank)):
        if sizes is None:
            factors[axis] = numbers(scales)[number]
            goal[axis] = math.floor(x.shape[axis] * factors[axis])
        elif axis > 0:
            goal[axis] = ints(sizes)[number]
            factors[axis] = goal[axis] / x.shape[axis]
    if rank != 4 or goal[:2] != list(x.shape[:2]) or min(goal) < 1:
        raise layer.error("it resizes other axes than the height and width, or to nothing")
    if mode == "nearest":
        return _nearest(layer, x, goal, factors, (coordinate_transformation_mode, nearest_mode))
    if mode != "linear" or coordinate_transformation_mode not in (
            "half_pixel", "pytorch_half_pixel", "align_corners") \
            or (coordinate_transformation_mode == "pytorch_half_pixel" and 1 in goal[2:]):
        raise layer.error(
            f"mode {mode!r:.50} with {coordinate_transformation_mode!r:.50} is not known")
    if any(abs(factors[axis] * x.shape[axis] - goal[axis]) > 1e-3 for axis in (2, 3)):
        raise layer.error("its scales do not give whole sizes")
    return mx.sym.contrib.BilinearResize2D(
        x.symbol, height=goal[2], width=goal[3],
        align_corners=coordinate_transformation_mode == "align_corners")


def _nearest(layer, x, goal, factors, rules):
    """Each value repeated, or some left out, as the rule of coordinates says."""
    symbol = x.symbol
    for axis in (2, 3):
        if goal[axis] == x.shape[axis]:
            continue
        taken = nearest_indices(layer, x.shape[axis], goal[axis], factors[axis], rules)
        factor = goal[axis] // x.shape[axis]
        step = x.shape[axis] // goal[axis]
        if np.array_equal(taken, np.repeat(np.arange(x.shape[axis]), factor)):
            symbol = mx.sym.repeat(symbol, repeats=factor, axis=axis)
        elif step and len(taken) and np.array_equal(
                taken, taken[0] + step * np.arange(goal[axis])):
            before = (None,) * axis
            symbol = mx.sym.slice(symbol, begin=(*before, int(taken[0])), step=(*before, step),
                                  end=(*before, int(taken[-1]) + 1))
        else:
            raise layer.error(f"nearest pixels from {x.shape[axis]} to {goal[axis]} do not repeat "
                              "evenly")
    return symbol


def nearest_indices(layer, size, goal, factor, rules):
    """Numbers of the pixels that ONNX takes along one axis."""
    transformation, nearest_mode = rules
    place = np.arange(goal)
    if transformation == "asymmetric":
        place = place / factor
    elif transformation in ("half_pixel", "pytorch_half_pixel"):
        place = (place + 0.5) / factor - 0.5
    elif transformation == "align_corners" and goal > 1:
        place = place * (size - 1) / (goal - 1)
    else:
        raise layer.error(f"mode 'nearest' with {transformation!r:.50} is not known")
    rounded = {"floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda p: np.ceil(p - 0.5),
               "round_prefer_ceil": lambda p: np.floor(p + 0.5)}.get(nearest_mode)
    if rounded is None:
        raise layer.error(f"its option nearest_mode is {nearest_mode!r:.50}")
    return np.clip(rounded(place), 0, size - 1).astype(int)
