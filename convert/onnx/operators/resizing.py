"""ONNX operators that change the height and width: Resize, and depth to space and back."""
import math

import numpy as np

from common.mx_compat import mx
from convert.onnx.operators.elementwise import axes_of
from convert.onnx.operators.table import Constant, ints, operator


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


@operator("Upsample")
def upsample(layer, x, scales, mode="nearest"):
    return _resized(layer, x, (scales, None), None, mode=mode,
                    coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@operator("Resize", cubic_coeff_a=-0.75, exclude_outside=0, extrapolation_value=0.0, antialias=0,
          keep_aspect_ratio_policy="stretch")
def resize(layer, x, *how, axes=None, **options):
    if layer.opset < 11:  # the scales only
        return upsample(layer, x, *how, **options)
    return _resized(layer, x, (*how, None, None)[1:3], axes, **options)  # how[0]: of crops only


def _resized(layer, x, scales_and_sizes, axes, mode="nearest", **rounding):
    scales, sizes = scales_and_sizes
    rank = len(x.shape)
    factors, goal = dict.fromkeys(range(rank), 1.0), list(x.shape)
    axes = axes_of(layer, axes or range(rank), rank)
    for number, axis in enumerate(axes):
        if sizes is not None:
            goal[axis] = ints(sizes)[number]
            goal[axis] = x.shape[axis] if axis == 0 else goal[axis]
            factors[axis] = goal[axis] / x.shape[axis]
        else:
            factors[axis] = float(np.ravel(scales.value if isinstance(scales, Constant)
                                           else scales)[number])
            goal[axis] = math.floor(x.shape[axis] * factors[axis])
    if rank != 4 or goal[:2] != list(x.shape[:2]):
        raise layer.error("it resizes other axes than the height and width")
    transformation = rounding.pop("coordinate_transformation_mode", "half_pixel")
    nearest_mode = rounding.pop("nearest_mode", "round_prefer_floor")
    if rounding:
        raise layer.error(f"its option {min(rounding)!r:.100} is not known")
    if mode == "nearest":
        return _nearest(layer, x, goal, factors, (transformation, nearest_mode))
    half = ("half_pixel", "pytorch_half_pixel")
    if mode != "linear" or transformation not in (*half, "align_corners") \
            or (transformation == "pytorch_half_pixel" and 1 in goal[2:]):
        raise layer.error(f"mode {mode!r:.50} with {transformation!r:.50} is not known")
    if any(abs(factors[axis] * x.shape[axis] - goal[axis]) > 1e-3 for axis in (2, 3)):
        raise layer.error("its scales do not give whole sizes")
    return mx.sym.contrib.BilinearResize2D(x.symbol, height=goal[2], width=goal[3],
                                           align_corners=transformation == "align_corners")


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
            cut = {"begin": [None] * 4, "end": [None] * 4, "step": [None] * 4}
            cut["begin"][axis], cut["step"][axis] = int(taken[0]), step
            cut["end"][axis] = min(int(taken[-1]) + 1, x.shape[axis])
            symbol = mx.sym.slice(symbol, **{key: tuple(value) for key, value in cut.items()})
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
