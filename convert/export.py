"""Preparing a fine-tuned checkpoint for export, and comparing what was exported with it."""
import cv2
import numpy as np

from common.cli import InputError
from common.mx_compat import mxnet_errors
from network import checkpoint
from network.fine_tune import in_float32, without_loss
from network.graph import Graph
from network.untrusted import NO_THRESHOLDS, check_shapes
from reading.image_reader import ReadOptions, read_image

TOLERANCE = 1e-4
BATCH = 8  # images, in the comparison


def load_network(prefix, epoch, image_shape=None, mean=None, std=None):
    """Read a checkpoint as `checkpoint.load`, in float32, ready for the export.

    `image_shape` (3, height, width) is for a checkpoint that does not say it; `mean` and `std`
    (3 floats each, on the scale of 0 to 255) are for one that does not normalise by itself. An
    InputError is raised when the checkpoint cannot be read or gives no independent probabilities,
    and when something that it needs was not given, or something given that it says itself.
    """
    sym, arg_params, aux_params = checkpoint.load(prefix, epoch)
    file = f"{prefix}-symbol.json"
    last = Graph(without_loss(sym)).output
    if "sigmoid" not in (last.op, last.attrs.get("act_type")):
        raise InputError(f"ends in {last.name} ({last.op}), not in a sigmoid; wanted is a "
                         "checkpoint of train_multilabel.py", file=file)
    if checkpoint.has_normalisation(sym):
        if mean or std:
            raise InputError("normalises by itself: leave out {flag}", file=file,
                             flag="--rgb-mean" if mean else "--rgb-std")
    elif not (mean and std):
        raise InputError("does not normalise its pixels: give what it was trained with as "
                         "{flag} R,G,B and --rgb-std R,G,B", file=file, flag="--rgb-mean")
    else:
        sym, constants = checkpoint.with_normalisation(sym, mean, std)
        arg_params.update(constants)
    if "image_shape" not in checkpoint.get_attributes(sym):
        if not image_shape:
            raise InputError("does not say its image size: give {flag} 3,H,W", file=file,
                             flag="--image-shape")
        sym = checkpoint.set_attributes(sym, image_shape=list(image_shape))
    elif image_shape:
        raise InputError("says its image size itself: leave out {flag}", file=file,
                         flag="--image-shape")
    shape = checkpoint.get_attributes(sym)["image_shape"]
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
