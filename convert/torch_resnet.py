"""ResNet-18, 34, 50, 101 and 152 from the state dict of a torchvision-style model.

The network (He et al., CVPR 2016, with the stride in the 3x3 convolution of a bottleneck, as
torchvision has it) is recognised from the tensors' names. Layers keep torchvision's names, with
underscores for dots: `layer1.0.conv1.weight` becomes `layer1_0_conv1_weight`.
"""
import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from network.checkpoint import NORMALISATION, normalised_data

EPSILON = 1e-5
WIDTHS = (64, 128, 256, 512)
# (blocks of each of the four layers, whether they are bottlenecks): what it is called.
KNOWN = {
    ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50", ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


def convert(state, mean, std):
    """A network that computes what the PyTorch model does, from raw pixels.

    Returns the symbol, whose last layers are `flatten0`, `fc1` and `softmax`, arg_params and
    aux_params. Raises an InputError when it is no ResNet of these sizes, or a tensor is missing,
    unknown, or of another shape.

    Parameters
    ----------
    state : dict of str to numpy.ndarray
        As `model.state_dict()` names them, also with `module.` in front (DataParallel).
    mean, std : sequence of 3 floats
        What the model's images were normalised with, on the scale of 0 to 255.
    """
    state = {name[len("module."):] if name.startswith("module.") else name: tensor
             for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}
    depths, bottleneck = _recognise(state)
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else 1000
    x, constants = normalised_data(mean, std)
    sym = _network(x, depths, bottleneck, classes)
    arg_params, aux_params = _parameters(sym, state)
    return sym, {**constants, **arg_params}, aux_params


def _recognise(state):
    """How many blocks each layer has, and whether they are bottlenecks."""
    depths = []
    for layer in range(1, 5):
        depth = 0
        while f"layer{layer}.{depth}.conv1.weight" in state:
            depth += 1
        depths.append(depth)
    found = tuple(depths), "layer1.0.conv3.weight" in state
    if found not in KNOWN:
        raise InputError(f"not a ResNet-18, 34, 50, 101 or 152: its layers have {depths} blocks"
                         if any(depths) else "not a ResNet: no layer1.0.conv1.weight in it")
    return found


def _network(x, depths, bottleneck, classes):
    x = _convolution(x, "conv1", 64, 7, stride=2)
    x = _relu(_norm(x, "bn1"), "relu")
    x = mx.sym.Pooling(x, name="maxpool", kernel=(3, 3), stride=(2, 2), pad=(1, 1),
                       pool_type="max")
    channels = 64
    for layer, (depth, width) in enumerate(zip(depths, WIDTHS), 1):
        out = width * 4 if bottleneck else width
        for index in range(depth):
            stride = 2 if layer > 1 and index == 0 else 1
            x = _block(x, f"layer{layer}_{index}", width, out, stride, bottleneck,
                       downsample=stride > 1 or channels != out)
            channels = out
    x = mx.sym.Pooling(x, name="pool", global_pool=True, pool_type="avg", kernel=(1, 1))
    x = mx.sym.Flatten(x, name="flatten0")
    x = mx.sym.FullyConnected(x, name="fc1", num_hidden=classes)
    return mx.sym.SoftmaxOutput(x, name="softmax")


def _block(x, name, width, out, stride, bottleneck, downsample):
    """Two or three convolutions, and what came in added to what comes out of them."""
    shortcut = x
    if downsample:
        shortcut = _norm(_convolution(x, f"{name}_downsample_0", out, 1, stride),
                         f"{name}_downsample_1")
    # Filters, kernel and stride of each convolution.
    plan = ([(width, 1, 1), (width, 3, stride), (out, 1, 1)] if bottleneck
            else [(width, 3, stride), (out, 3, 1)])
    for number, (filters, kernel, step) in enumerate(plan, 1):
        x = _norm(_convolution(x, f"{name}_conv{number}", filters, kernel, step),
                  f"{name}_bn{number}")
        if number < len(plan):
            x = _relu(x, f"{name}_relu{number}")
    return _relu(mx.sym.elemwise_add(x, shortcut, name=f"{name}_add"), f"{name}_relu")


def _convolution(x, name, filters, kernel, stride=1):
    return mx.sym.Convolution(x, name=name, num_filter=filters, kernel=(kernel, kernel),
                              stride=(stride, stride), pad=(kernel // 2, kernel // 2),
                              no_bias=True)


def _norm(x, name):
    return mx.sym.BatchNorm(x, name=name, eps=EPSILON, fix_gamma=False)


def _relu(x, name):
    return mx.sym.Activation(x, name=name, act_type="relu")


def _parameters(sym, state):
    """The state dict under MXNet's names, every tensor used once and of the right shape."""
    arg_shapes, _, aux_shapes = sym.infer_shape(data=(1, 3, 224, 224))
    arg_names, aux_names = sym.list_arguments(), sym.list_auxiliary_states()
    left, params = dict(state), {}
    for ours, shape in zip(arg_names + aux_names, arg_shapes + aux_shapes):
        if ours in ("data", "softmax_label", *NORMALISATION):
            continue
        theirs = _torch_name(ours)
        if theirs not in left:
            raise InputError(f"not a whole ResNet: {theirs} is missing")
        tensor = left.pop(theirs)
        if tensor.shape != shape:
            raise InputError(f"not a ResNet as torchvision has it: {theirs} has shape "
                             f"{tensor.shape} instead of {shape}")
        params[ours] = mx.nd.array(tensor.astype(np.float32))
    if left:
        raise InputError(f"not a ResNet as torchvision has it: no place for {min(left)}")
    aux_params = {name: params.pop(name) for name in aux_names}
    return params, aux_params


def _torch_name(ours):
    """`layer1_0_bn1_moving_var` -> `layer1.0.bn1.running_var`."""
    dotted = ours.replace("fc1_", "fc_").replace("_", ".")
    for mine, torchs in ((".moving.", ".running_"), (".gamma", ".weight"), (".beta", ".bias")):
        dotted = dotted.replace(mine, torchs)
    return dotted
