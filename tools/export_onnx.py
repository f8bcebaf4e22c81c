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

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli
from common.cli import InputError
from common.files import atomic_file, make_parent_folder
from common.mx_compat import mxnet_errors
from convert.onnx import require_onnx
from network import checkpoint
from network.forward_pass import in_float32, without_loss
from network.graph import Graph, output_of, params_of
from network.untrusted import NO_THRESHOLDS, check_shapes
from reading.image_file import read_image
from reading.read_options import ReadOptions

TOLERANCE = 1e-4
BATCH = 8  # images, in the comparison


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
    return parser


def check_args(args):
    """Refuse what cannot be done, and make the results' folders."""
    if not (args.out or args.deploy):
        raise InputError("nothing to write: give {flag} FILE, --deploy PREFIX2, or both",
                         flag="--out")
    if args.out:
        require_onnx("--out")
    if args.deploy and os.path.realpath(args.deploy) == os.path.realpath(args.model):
        raise InputError(f"{{flag}} {args.deploy} would overwrite the checkpoint itself, which can "
                         "be trained further; give another prefix", flag="--deploy")
    if args.out and os.path.isdir(args.out):
        raise InputError(f"{{flag}} {args.out} is a folder; a file's name is wanted", flag="--out")
    for result in filter(None, (args.out, args.deploy)):
        make_parent_folder(result)


def load_network(prefix, epoch):
    """Read a checkpoint of train_multilabel.py as `checkpoint.load`, in float32.

    An InputError is raised when it cannot be read, gives no independent probabilities, does not
    normalise its pixels, or does not say the size of its images.
    """
    sym, arg_params, aux_params = checkpoint.load(prefix, epoch)
    file = f"{prefix}-symbol.json"
    last = Graph(without_loss(sym)).output
    if "sigmoid" not in (last.op, last.attrs.get("act_type")):
        raise InputError(f"ends in {last.name} ({last.op}), not in a sigmoid; wanted is a "
                         "checkpoint of train_multilabel.py", file=file)
    shape = checkpoint.get_attributes(sym).get("image_shape")
    if not shape or not checkpoint.has_normalisation(sym):
        raise InputError("does not normalise its pixels, or does not say its image size; wanted "
                         "is a checkpoint of train_multilabel.py", file=file)
    check_shapes(sym, arg_params, aux_params, shape, file)
    if any(value.dtype == np.float16 for value in arg_params.values()):
        print(f"{prefix}: computes in float16; is compared and exported in float32")
    return in_float32(sym, arg_params, aux_params)


def with_thresholds_of(net, epoch):
    """The network with its thresholds if they were chosen for this epoch, else without them.

    Its `thresholds_epoch` is then 0, the number of the plain pair that is written.
    """
    chosen_for = checkpoint.get_attributes(net).get("thresholds_epoch")
    if chosen_for is None:
        return net
    if chosen_for == epoch:
        return checkpoint.set_attributes(net, thresholds_epoch=0)
    print(f"the thresholds were chosen for epoch {chosen_for} and are left out; "
          "predict_multilabel.py --fit-thresholds chooses them for this one")
    return checkpoint.set_attributes(net, **NO_THRESHOLDS)


def sample_images(attributes, files=()):
    """Pixels to compare predictors on, by a name for them: uint8 (images, 3, height, width).

    "random pixels", and "images", which are the files, read as the network's were in validation.
    Without files, "patches of colour": large and soft, so that they excite the last layers, as
    photographs do and noise does not.
    """
    shape = attributes["image_shape"]
    random = np.random.RandomState(0)
    noise = random.randint(0, 256, (5, *shape)).astype(np.uint8)
    if not files:
        patches = np.stack([cv2.resize(random.randint(0, 256, (n, n, 3)).astype(np.uint8),
                                       (shape[2], shape[1])) for n in (1, 2, 3, 5, 8)])
        return {"random pixels": noise, "patches of colour": patches.transpose(0, 3, 1, 2)}
    images = np.empty((len(files), *shape), np.uint8)
    read_options = ReadOptions.of_checkpoint(attributes)
    for file, image in zip(files, images):
        read_image(file, image, read_options)
    return {"random pixels": noise, "images": images}


def compare(name, candidate, reference, samples):
    """Print the largest difference between two predictors, for one image and for batches.

    `name` is the candidate's, for messages, and `samples` come from `sample_images`. Raises an
    InputError when a probability differs by more than TOLERANCE, or is not a number.
    """
    for kind, pixels in samples.items():
        batches = [pixels[:1]] + [pixels[i:i + BATCH] for i in range(1, len(pixels), BATCH)]
        with mxnet_errors("MXNet cannot compute this network"):
            # np.max, because max would pass over NaN.
            difference = np.max([np.abs(candidate(b) - reference(b)).max() for b in batches])
        print(f"{name}: {len(pixels)} {kind}: largest difference to the checkpoint "
              f"{difference:.2g}")
        if not difference <= TOLERANCE:
            raise InputError(f"not written: its probabilities differ by {difference:.2g} from the "
                             f"checkpoint's; at most {TOLERANCE:g} would do", file=name)


def main(argv=None):
    args = build_parser().parse_args(argv)
    check_args(args)
    sym, arg_params, aux_params = load_network(args.model, args.epoch)
    net = with_thresholds_of(without_loss(sym), args.epoch)
    arg_params, aux_params = params_of(net, arg_params, aux_params)
    samples = sample_images(checkpoint.get_attributes(net), args.image)
    reference = functools.partial(output_of, sym, arg_params, aux_params)
    if args.out:
        from convert.onnx import exporter

        model = exporter.to_onnx(net, arg_params, aux_params)
        content = model.SerializeToString()
        compare(args.out, exporter.onnx_predictor(content), reference, samples)
        with atomic_file(args.out) as name:
            Path(name).write_bytes(content)
        print(f"{args.out}: written, {len(content) / 1e6:.1f} MB, operator set {exporter.OPSET}; "
              "says " + ", ".join(sorted(entry.key for entry in model.metadata_props)))
    if args.deploy:
        predictor = functools.partial(output_of, net, arg_params, aux_params)
        compare(args.deploy, predictor, reference, samples)
        checkpoint.save(args.deploy, 0, net, arg_params, aux_params)
        print(f"{args.deploy}-symbol.json and {args.deploy}-0000.params: written")


if __name__ == "__main__":
    cli.run(main)
