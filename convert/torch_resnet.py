"""ResNet-18, 34, 50, 101 and 152 from the state dict of a torchvision or timm model.

The network (He et al., CVPR 2016, with the stride in the 3x3 convolution of a bottleneck, as
torchvision has it) is recognised from the tensors' names. Layers keep torchvision's names, with
underscores for dots: `layer1.0.conv1.weight` becomes `layer1_0_conv1_weight`.
"""
from common.cli import InputError
from common.mx_compat import mx
from convert.torch_layers import (
    batch_norm,
    classifier,
    convolution,
    count_classes,
    parameters,
    plain_names,
    relu,
)
from network.checkpoint import normalised_data

WIDTHS = (64, 128, 256, 512)
# Blocks of each of the four layers, and whether they are bottlenecks: 18, 34, 50, 101 and 152.
KNOWN = (((2, 2, 2, 2), False), ((3, 4, 6, 3), False),
         ((3, 4, 6, 3), True), ((3, 4, 23, 3), True), ((3, 8, 36, 3), True))


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
    state = plain_names(state)
    depths, bottleneck = _recognise(state)
    x, constants = normalised_data(mean, std)
    sym = _network(x, depths, bottleneck, count_classes(state, "fc"))
    arg_params, aux_params = parameters(
        sym, state, lambda layer: layer.replace("fc1", "fc").replace("_", "."),
        "a ResNet as torchvision has it")
    return sym, {**constants, **arg_params}, aux_params


def _recognise(state):
    """How many blocks each layer has, and whether they are bottlenecks."""
    depths = [sum(name.startswith(f"layer{layer}.") and name.endswith(".conv1.weight")
                  for name in state) for layer in range(1, 5)]
    found = tuple(depths), "layer1.0.conv3.weight" in state
    if found not in KNOWN:
        raise InputError(f"not a ResNet-18, 34, 50, 101 or 152: its layers have {depths} blocks"
                         if any(depths) else "not a ResNet: no layer1.0.conv1.weight in it")
    return found


def _network(x, depths, bottleneck, classes):
    x = convolution(x, "conv1", 64, 7, stride=2)
    x = relu(batch_norm(x, "bn1"), "relu")
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
    return classifier(x, classes)


def _block(x, name, width, out, stride, bottleneck, downsample):
    """Two or three convolutions, and what came in added to what comes out of them."""
    shortcut = x
    if downsample:
        shortcut = batch_norm(convolution(x, f"{name}_downsample_0", out, 1, stride),
                              f"{name}_downsample_1")
    # Filters, kernel and stride of each convolution.
    plan = ([(width, 1, 1), (width, 3, stride), (out, 1, 1)] if bottleneck
            else [(width, 3, stride), (out, 3, 1)])
    for number, (filters, kernel, step) in enumerate(plan, 1):
        x = batch_norm(convolution(x, f"{name}_conv{number}", filters, kernel, step),
                       f"{name}_bn{number}")
        if number < len(plan):
            x = relu(x, f"{name}_relu{number}")
    return relu(mx.sym.elemwise_add(x, shortcut, name=f"{name}_add"), f"{name}_relu")
