"""Export a fine-tuned checkpoint to ONNX, or to plain MXNet, for use without this package.

    python tools/export_onnx.py --model result/multilabel-best --out model.onnx
    python tools/export_onnx.py --model result/multilabel --epoch 4 --deploy deploy/multilabel

Both take raw RGB pixels as `data`, uint8 (batch, 3, height, width), any batch size, and give
probabilities, (batch, classes). What the checkpoint says of itself (class names, sizes,
thresholds) is in the ONNX file's metadata, as JSON. Each result is compared with the checkpoint
before it is written.
"""
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from common.cli import ArgumentParser, InputError, parse_numbers, run  # noqa: E402
from common.files import make_parent_folder, write_atomically  # noqa: E402
from common.mx_compat import mx  # noqa: E402
from convert.onnx_writer import OPSET, import_onnx, onnx_predictor, to_onnx  # noqa: E402
from network import checkpoint  # noqa: E402
from network.fine_tune import in_float32, without_loss  # noqa: E402
from network.shape_check import check_shapes  # noqa: E402
from reading.image_reader import Augment, read_image  # noqa: E402

TOLERANCE = 1e-4
BATCH = 8  # images, in the comparison


def load_network(prefix, epoch, image_shape=None, mean=None, std=None):
    """Read a checkpoint, ready for the export.

    Parameters
    ----------
    prefix : str
    epoch : int
    image_shape : sequence of 3 ints, optional
        3, height, width; for a checkpoint that does not say it.
    mean, std : sequence of 3 floats, optional
        On the scale of 0 to 255; for a checkpoint that does not normalise by itself.

    Returns
    -------
    sym : mx.sym.Symbol
        With its loss; computes in float32, and says its `image_shape`.
    arg_params, aux_params : dict of str to mx.nd.NDArray
        float32.

    Raises
    ------
    InputError
        When the checkpoint cannot be read or is of another kind, and when something that it
        needs was not given, or something given that it says itself.
    """
    sym, arg_params, aux_params = checkpoint.load(prefix, epoch)
    file = f"{prefix}-symbol.json"
    check_ends_in_sigmoid(without_loss(sym), file)
    if checkpoint.has_normalisation(sym):
        if mean or std:
            raise InputError(f"{file} normalises by itself: leave out --rgb-mean and --rgb-std")
    elif not (mean and std):
        raise InputError(f"{file} does not normalise its pixels: give what it was trained with as "
                         "--rgb-mean R,G,B and --rgb-std R,G,B")
    else:
        sym, constants = checkpoint.with_normalisation(sym, mean, std)
        arg_params.update(constants)
    if "image_shape" not in checkpoint.get_attributes(sym):
        if not image_shape:
            raise InputError(f"{file} does not say its image size: give --image-shape 3,H,W")
        sym = checkpoint.set_attributes(sym, image_shape=list(image_shape))
    elif image_shape:
        raise InputError(f"{file} says its image size itself: leave out --image-shape")
    shape = checkpoint.get_attributes(sym)["image_shape"]
    check_shapes(sym, arg_params, aux_params, shape, file)
    if any(value.dtype == np.float16 for value in arg_params.values()):
        print(f"{prefix}: computes in float16; is compared and exported in float32")
    return in_float32(sym, arg_params, aux_params)


def check_ends_in_sigmoid(net, file):
    """Refuse a network whose output is not one probability a class, independent of the others."""
    graph = json.loads(net.tojson())
    last = graph["nodes"][graph["heads"][0][0]]
    if "sigmoid" not in (last["op"], last.get("attrs", {}).get("act_type")):
        raise InputError(f"{file} ends in {last['name']} ({last['op']}), not in a sigmoid; "
                         "wanted is a checkpoint of train_multilabel.py")


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
    return checkpoint.set_attributes(net, thresholds=None, thresholds_epoch=None)


def mxnet_predictor(sym, arg_params, aux_params):
    """A function from pixels, uint8 (batch, 3, height, width), to probabilities, by MXNet.

    Runs on the CPU, and keeps what it has set up for each batch size.
    """
    executors = {}

    def predict(pixels):
        if pixels.shape not in executors:
            executor = sym.simple_bind(mx.cpu(), grad_req="null", data=pixels.shape,
                                       type_dict={"data": "uint8"})
            executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
            executors[pixels.shape] = executor
        pixels = mx.nd.array(pixels, dtype="uint8")
        return executors[pixels.shape].forward(is_train=False, data=pixels)[0].asnumpy()

    return predict


def sample_images(attributes, files=()):
    """What the comparison looks at.

    Parameters
    ----------
    attributes : dict
        The network's, see `checkpoint.get_attributes`.
    files : sequence of str
        Images, read as the network's were in validation.

    Returns
    -------
    dict of str to np.ndarray, uint8 (images, 3, height, width)
        "random pixels", and "images" or, without files, "patches of colour": large and soft,
        so that they excite the last layers, as photographs do and noise does not.
    """
    shape = attributes["image_shape"]
    draw = np.random.RandomState(0)
    noise = draw.randint(0, 256, (5, *shape)).astype(np.uint8)
    if not files:
        _, height, width = shape
        patches = np.stack([cv2.resize(draw.randint(0, 256, (n, n, 3)).astype(np.uint8),
                                       (width, height)) for n in (1, 2, 3, 5, 8)])
        return {"random pixels": noise, "patches of colour": patches.transpose(0, 3, 1, 2)}
    images = np.empty((len(files), *shape), np.uint8)
    augment = Augment(resize=attributes.get("resize"), fit=attributes.get("fit", "crop"))
    for file, image in zip(files, images):
        read_image(file, image, augment)
    return {"random pixels": noise, "images": images}


def compare(name, candidate, reference, samples):
    """Print the largest difference between two predictors, for one image and for batches.

    Parameters
    ----------
    name : str
        Of the candidate, for the lines printed.
    candidate, reference : callable
        Take pixels, return probabilities.
    samples : dict of str to np.ndarray
        From `sample_images`.

    Raises
    ------
    InputError
        When a probability differs by more than TOLERANCE, or is not a number.
    """
    for kind, pixels in samples.items():
        batches = [pixels[:1]] + [pixels[i:i + BATCH] for i in range(1, len(pixels), BATCH)]
        # np.max, because max would pass over NaN.
        difference = np.max([np.abs(candidate(b) - reference(b)).max() for b in batches])
        print(f"{name}: {len(pixels)} {kind}: largest difference to the checkpoint "
              f"{difference:.2g}")
        if not difference <= TOLERANCE:
            raise InputError(f"{name}: not written: its probabilities differ by {difference:.2g} "
                             f"from the checkpoint's; at most {TOLERANCE:g} would do")


def build_parser():
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PREFIX",
                        help="the checkpoint, up to -symbol.json")
    parser.add_argument("--epoch", type=int, default=0, metavar="N",
                        help="the number in the .params file's name (default: %(default)s)")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE",
                        help="images to compare the result on (default: some are drawn)")
    results = parser.add_argument_group("results (one of them, or both)")
    results.add_argument("--out", metavar="FILE", help="ONNX file to write")
    results.add_argument("--deploy", metavar="PREFIX2",
                         help="plain MXNet checkpoint to write: PREFIX2-symbol.json and "
                              "PREFIX2-0000.params")
    foreign = parser.add_argument_group("for checkpoints of other scripts, which say less")
    foreign.add_argument("--image-shape", metavar="3,H,W", help="size of the images")
    foreign.add_argument("--rgb-mean", metavar="R,G,B",
                         help="mean that was subtracted from the pixels, 0 to 255")
    foreign.add_argument("--rgb-std", metavar="R,G,B",
                         help="standard deviation that they were divided by")
    return parser


def check_args(args):
    """Turn texts into numbers, refuse what cannot be done, and make the results' folders."""
    if not (args.out or args.deploy):
        raise InputError("nothing to write: give --out FILE, --deploy PREFIX2, or both")
    if args.out:
        import_onnx()
    if args.deploy and os.path.realpath(args.deploy) == os.path.realpath(args.model):
        raise InputError(f"--deploy {args.deploy} would overwrite the checkpoint itself, which can "
                         "be trained further; give another prefix")
    for flag, kind in (("image_shape", int), ("rgb_mean", float), ("rgb_std", float)):
        text = getattr(args, flag)
        if text is not None:
            setattr(args, flag, parse_numbers(f"--{flag.replace('_', '-')}", text, kind, 3))
    if args.image_shape and (args.image_shape[0] != 3 or min(args.image_shape) < 1):
        raise InputError("--image-shape must be 3,HEIGHT,WIDTH (3 for red, green and blue)")
    if args.out and os.path.isdir(args.out):
        raise InputError(f"--out {args.out} is a folder; a file's name is wanted")
    for result in filter(None, (args.out, args.deploy)):
        make_parent_folder(result)


def main(argv=None):
    args = build_parser().parse_args(argv)
    check_args(args)
    sym, arg_params, aux_params = load_network(
        args.model, args.epoch, args.image_shape, args.rgb_mean, args.rgb_std)
    net = with_thresholds_of(without_loss(sym), args.epoch)
    arg_params = {name: arg_params[name] for name in net.list_arguments() if name != "data"}
    aux_params = {name: aux_params[name] for name in net.list_auxiliary_states()}
    samples = sample_images(checkpoint.get_attributes(net), args.image)
    reference = mxnet_predictor(sym, arg_params, aux_params)
    if args.out:
        model = to_onnx(net, arg_params, aux_params)
        content = model.SerializeToString()
        compare(args.out, onnx_predictor(content), reference, samples)
        write_atomically(args.out, lambda name: Path(name).write_bytes(content))
        print(f"{args.out}: written, {len(content) / 1e6:.1f} MB, operator set {OPSET}; says "
              + ", ".join(sorted(entry.key for entry in model.metadata_props)))
    if args.deploy:
        compare(args.deploy, mxnet_predictor(net, arg_params, aux_params), reference, samples)
        checkpoint.save(args.deploy, 0, net, arg_params, aux_params)
        print(f"{args.deploy}-symbol.json and {args.deploy}-0000.params: written")


if __name__ == "__main__":
    run(main)
