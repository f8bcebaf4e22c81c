"""The layers of a convolutional network in plain numpy: an independent truth for the tests."""
import numpy as np


def convolve(x, weight, stride, padding):
    """Convolution; a weight of shape (channels, 1, k, k) on as many channels is depthwise.

    `padding` is (before, after), of both sides alike.
    """
    kernel = weight.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), padding, padding))
    side = (x.shape[-1] - kernel) // stride + 1
    depthwise = weight.shape[1] == 1 and weight.shape[0] == x.shape[1]
    out = np.zeros((len(x), len(weight), side, side))
    for row in range(kernel):
        for column in range(kernel):
            seen = x[:, :, row:row + stride * side:stride, column:column + stride * side:stride]
            seen = seen[:, :, :side, :side]
            if depthwise:
                out += seen * weight[None, :, 0, row, column, None, None]
            else:
                out += np.moveaxis(np.tensordot(weight[:, :, row, column], seen, (1, 1)), 0, 1)
    return out


def same_padding(side, kernel, stride):
    """TensorFlow's: as many outputs as ceil(side / stride), the odd pixel at the end."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def normalise(x, state, name, epsilon):
    """Batch normalisation by stored statistics, with PyTorch's tensor names."""
    gamma, beta, mean, variance = (
        state[f"{name}.{part}"].astype(np.float64)[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var"))
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def max_pool(x):
    """3x3, stride 2, one pixel of padding."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    side = (x.shape[-1] - 3) // 2 + 1
    return np.max([x[:, :, row:row + 2 * side:2, column:column + 2 * side:2]
                   for row in range(3) for column in range(3)], axis=0)


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)
