"""Shapes with a free batch: where the batch goes in a Reshape, and MXNet's codes for it.

    shape, inner = resolve(x, [1, 197, 3, 3, 64], batch=1)
    mx.sym.reshape(x.symbol, shape=reshape_codes(x.shape, shape))
"""
import math

from convert.onnx.operators.table import BATCH


def resolve(x, target, batch, allowzero=0):
    """What ONNX's Reshape gives: the shape, and `inner` (see Tensor); None if it does not fit.

    Parameters
    ----------
    x : Tensor
    target : list of int
        The new shape with ONNX's codes 0 and -1. It may have been computed from a shape, and then
        has BATCH, or the exporter may have written its own batch size into it.
    batch : int
        The exporter's batch size.
    """
    axis = batch_axis(x.shape)
    if axis is None or any(side and side % BATCH == 0 for side in target):
        result = _fill(x.shape, target, allowzero)
        return result and (result, False)
    plain = list(x.shape)
    plain[axis] = x.shape[axis] // BATCH * batch
    result = _fill(plain, target, allowzero)
    if result is None:
        return None
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
    groups, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        before, after = [old[i]], [new[j]]
        i, j = i + 1, j + 1
        while math.prod(before) != math.prod(after):
            if math.prod(before) < math.prod(after):
                before.append(old[i])
                i += 1
            else:
                after.append(new[j])
                j += 1
        groups.append((before, after))
    if groups:
        groups[-1][0].extend(old[i:])
        groups[-1][1].extend(new[j:])
    return groups
