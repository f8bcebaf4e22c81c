"""Export a fine-tuned checkpoint to ONNX, or to plain MXNet, for use without this package.

    python tools/export_onnx.py --model result/multilabel-best --out model.onnx
    python tools/export_onnx.py --model result/multilabel --epoch 4 --deploy deploy/multilabel

Both take raw RGB pixels as `data`, uint8 (batch, 3, height, width), any batch size, and give
probabilities, (batch, classes). What the checkpoint says of itself (class names, sizes,
thresholds) is in the ONNX file's metadata, as JSON. Each result is compared with the checkpoint
before it is written.
"""
import functools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli  # noqa: E402
from common.cli import InputError  # noqa: E402
from common.files import atomic_file, make_parent_folder  # noqa: E402
from convert import export  # noqa: E402
from convert.onnx import require_onnx  # noqa: E402
from network import checkpoint  # noqa: E402
from network.fine_tune import without_loss  # noqa: E402
from network.graph import output_of, params_of  # noqa: E402


def build_parser():
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", required=True, metavar="PREFIX", action=cli.CheckpointPrefix,
        help="the checkpoint, up to -symbol.json")
    add("--epoch", type=int, default=0, metavar="N",
        help="the number in the .params file's name (default: %(default)s)")
    add("--image", nargs="+", default=[], metavar="FILE",
        help="images to compare the result on (default: some are drawn)")
    add = parser.add_argument_group("results (one of them, or both)").add_argument
    add("--out", metavar="FILE", help="ONNX file to write")
    add("--deploy", metavar="PREFIX2",
        help="plain MXNet checkpoint to write: PREFIX2-symbol.json and PREFIX2-0000.params")
    add = parser.add_argument_group(
        "for checkpoints of other scripts, which say less").add_argument
    add("--image-shape", metavar="3,H,W", help="size of the images")
    add("--rgb-mean", metavar="R,G,B", help="mean that was subtracted from the pixels, 0 to 255")
    add("--rgb-std", metavar="R,G,B", help="standard deviation that they were divided by")
    return parser


def check_args(args):
    """Turn texts into numbers, refuse what cannot be done, and make the results' folders."""
    if not (args.out or args.deploy):
        raise InputError("nothing to write: give {flag} FILE, --deploy PREFIX2, or both",
                         flag="--out")
    if args.out:
        require_onnx("--out")
    if args.deploy and os.path.realpath(args.deploy) == os.path.realpath(args.model):
        raise InputError(f"{{flag}} {args.deploy} would overwrite the checkpoint itself, which can "
                         "be trained further; give another prefix", flag="--deploy")
    args.image_shape = cli.parse_image_shape(args.image_shape)
    args.rgb_mean = cli.parse_numbers("--rgb-mean", args.rgb_mean, float, 3)
    args.rgb_std = cli.parse_numbers("--rgb-std", args.rgb_std, float, 3)
    if args.out and os.path.isdir(args.out):
        raise InputError(f"{{flag}} {args.out} is a folder; a file's name is wanted", flag="--out")
    for result in filter(None, (args.out, args.deploy)):
        make_parent_folder(result)


def main(argv=None):
    args = build_parser().parse_args(argv)
    check_args(args)
    sym, arg_params, aux_params = export.load_network(
        args.model, args.epoch, args.image_shape, args.rgb_mean, args.rgb_std)
    net = export.with_thresholds_of(without_loss(sym), args.epoch)
    arg_params, aux_params = params_of(net, arg_params, aux_params)
    samples = export.sample_images(checkpoint.get_attributes(net), args.image)
    reference = functools.partial(output_of, sym, arg_params, aux_params)
    if args.out:
        from convert.onnx import exporter

        model = exporter.to_onnx(net, arg_params, aux_params)
        content = model.SerializeToString()
        export.compare(args.out, exporter.onnx_predictor(content), reference, samples)
        with atomic_file(args.out) as name:
            Path(name).write_bytes(content)
        print(f"{args.out}: written, {len(content) / 1e6:.1f} MB, operator set {exporter.OPSET}; "
              "says " + ", ".join(sorted(entry.key for entry in model.metadata_props)))
    if args.deploy:
        predictor = functools.partial(output_of, net, arg_params, aux_params)
        export.compare(args.deploy, predictor, reference, samples)
        checkpoint.save(args.deploy, 0, net, arg_params, aux_params)
        print(f"{args.deploy}-symbol.json and {args.deploy}-0000.params: written")


if __name__ == "__main__":
    cli.run(main)
