"""Command-line flags for reading images, declared once for all commands."""
from __future__ import annotations

import argparse

from common.cli import InputError, at_least, parse_numbers
from reading.bad_images import BAD_IMAGES
from reading.lst_file import LABEL_FORMATS
from reading.read_options import ReadOptions

AREA = 480 * 320  # pixels that --image-shape auto aims at, where the images are as large
# Random augmentations that are amounts, and the help texts of their flags.
RANDOM_AMOUNTS = {
    "min_random_area": "least part of an image's area that a crop takes",
    "max_random_area": "largest part of an image's area that a crop takes",
    "max_random_aspect_ratio": "stretch crops by 1 - this to 1 + this",
    "brightness": "change brightness by a factor of 1 - this to 1 + this",
    "contrast": "change contrast likewise",
    "saturation": "change saturation likewise",
}


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Declare the flags for reading images and for random augmentation, in groups."""
    reading = parser.add_argument_group("reading images")
    reading.add_argument("--label-format", choices=LABEL_FORMATS, default="multi-hot",
                         help="each .lst row has one 1 or 0 per class, the numbers of the classes "
                              "present, or (signed) one 1 or -1 per class (default: %(default)s)")
    reading.add_argument("--data-nthreads", type=at_least(1), metavar="N",
                         help="threads that decode images (default: one per core, at most 16)")
    reading.add_argument("--bad-images", choices=BAD_IMAGES, default="fail",
                         help="stop at an image that cannot be used, or leave it out of loss and "
                              "metrics (default: %(default)s)")
    reading.add_argument("--resize", type=int, metavar="PIXELS",
                         help="short side before the crop (default: as small as the crop allows)")
    whole = reading.add_mutually_exclusive_group()
    whole.add_argument("--pad-square", action="store_true",
                       help="no crop: the whole image, its aspect kept, on grey")
    whole.add_argument("--squash", action="store_true",
                       help="no crop: the whole image, its aspect ignored")
    reading.add_argument("--full-decode", action="store_true",
                         help="decode JPEGs at full size even where less would do (slower)")
    reading.add_argument("--max-pixels", type=int, default=ReadOptions.max_pixels, metavar="N",
                         help="refuse images of more pixels (default: %(default)s)")
    reading.add_argument("--background", default="255,255,255", metavar="R,G,B",
                         help="colour behind what is transparent (default: %(default)s)")
    random = parser.add_argument_group("random augmentation in training")
    random.add_argument("--random-crop", type=int, choices=(0, 1), default=1,
                        help="crop anywhere, not in the middle (default: %(default)s)")
    random.add_argument("--random-mirror", type=int, choices=(0, 1), default=1,
                        help="mirror every other image (default: %(default)s)")
    for name, text in RANDOM_AMOUNTS.items():
        random.add_argument("--" + name.replace("_", "-"), type=float, metavar="X",
                            default=getattr(ReadOptions, name),
                            help=text + " (default: %(default)s)")


def read_options_from_args(args: argparse.Namespace, train: bool = True) -> ReadOptions:
    """The ReadOptions that the flags of `add_data_args` ask for.

    Without `train`, nothing is random, as in validation. An InputError is raised when a value is
    out of its range or two contradict each other.
    """
    names = ["resize", "full_decode", "max_pixels"]
    if train:
        names += ["random_crop", "random_mirror", *RANDOM_AMOUNTS]
    background = tuple(parse_numbers("--background", args.background, int, 3))
    fit = "pad" if args.pad_square else "squash" if args.squash else "crop"
    try:
        return ReadOptions(background=background, fit=fit,
                           **{name: getattr(args, name) for name in names})
    except InputError as error:  # its flag is a field of ReadOptions
        field = {"fit": "pad-square" if args.pad_square else "squash"}.get(error.flag, error.flag)
        raise error.with_flag("--" + field.replace("_", "-")) from None
