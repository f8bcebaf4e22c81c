"""Layers of the networks that are built for PyTorch's state dicts, and their parameters.

    x = relu(batch_norm(convolution(x, "conv1", 64, 7, stride=2), "bn1"), "relu")
    sym = classifier(x, 1000)
    arg_params, aux_params = parameters(sym, state, {"conv1": "stem.0", ...}.__getitem__, "a Net")
"""
import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from network.checkpoint import NORMALISATION

# What PyTorch calls the parameters of a layer.
PARTS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
         "moving_mean": "running_mean", "moving_var": "running_var"}


def convolution(x, name, filters, kernel, stride=1, groups=1):
    return mx.sym.Convolution(
        x, name=name, num_filter=filters, kernel=(kernel, kernel), stride=(stride, stride),
        pad=(kernel // 2, kernel // 2), num_group=groups, no_bias=True)


def batch_norm(x, name, epsilon=1e-5):
    return mx.sym.BatchNorm(x, name=name, eps=epsilon, fix_gamma=False)


def relu(x, name):
    return mx.sym.Activation(x, name=name, act_type="relu")


def classifier(x, classes):
    """Average over all positions, `flatten0`, `fc1` and `softmax`."""
    x = mx.sym.Pooling(x, name="pool", global_pool=True, pool_type="avg", kernel=(1, 1))
    x = mx.sym.Flatten(x, name="flatten0")
    x = mx.sym.FullyConnected(x, name="fc1", num_hidden=classes)
    return mx.sym.SoftmaxOutput(x, name="softmax")


def plain_names(state):
    """A state dict without the `module.` of DataParallel and what only training needs."""
    return {name[len("module."):] if name.startswith("module.") else name: tensor
            for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}


def count_classes(state, layer):
    """Number of classes of a state dict's classifier; 1 where `parameters` will find it wrong."""
    shape = np.shape(state.get(f"{layer}.weight", ()))
    return max((1, *shape[:1]))


def parameters(sym, state, torch_layer, what):
    """The tensors of a state dict as arg_params and aux_params, each used once.

    Parameters
    ----------
    sym : mx.sym.Symbol
        The network, whose variables end in the keys of PARTS.
    state : dict of str to numpy.ndarray
        As `plain_names` gives it.
    torch_layer : callable
        Gives PyTorch's name of the layer that has a name in `sym`.
    what : str
        What the file should be, for an InputError: when a tensor is missing, left over, or of
        another shape.
    """
    arg_shapes, _, aux_shapes = sym.infer_shape(data=(1, 3, 224, 224))
    arg_names, aux_names = sym.list_arguments(), sym.list_auxiliary_states()
    left, params = dict(state), {}
    for ours, shape in zip(arg_names + aux_names, arg_shapes + aux_shapes):
        if ours in ("data", "softmax_label", *NORMALISATION):
            continue
        part = next(part for part in PARTS if ours.endswith(f"_{part}"))
        theirs = f"{torch_layer(ours[:-len(part) - 1])}.{PARTS[part]}"
        if theirs not in left:
            raise InputError(f"not {what}: {theirs} is missing")
        tensor = left.pop(theirs)
        if tensor.shape != shape:
            raise InputError(f"not {what}: {theirs} has shape {tensor.shape} instead of {shape}")
        params[ours] = mx.nd.array(tensor.astype(np.float32))
    if left:
        raise InputError(f"not {what}: no place for {min(left):.200}")
    aux_params = {name: params.pop(name) for name in aux_names}
    return params, aux_params
