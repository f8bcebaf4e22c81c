"""Command-line flags for reading images, declared once for all commands."""
from common.cli import parse_numbers
from reading.augment import Augment
from reading.bad_images import BAD_IMAGES
from reading.lst_file import LABEL_FORMATS


def add_data_args(parser, train=True):
    """Declare the flags for reading images, in groups.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    train : bool
        Whether to declare the random augmentations too.
    """
    reading = parser.add_argument_group("reading images")
    reading.add_argument("--label-format", choices=LABEL_FORMATS, default="multi-hot",
                         help="each .lst row has one 0 or 1 per class, or the numbers of the "
                              "classes present (default: %(default)s)")
    reading.add_argument("--data-nthreads", type=int, metavar="N",
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
    reading.add_argument("--max-pixels", type=int, default=Augment.max_pixels, metavar="N",
                         help="refuse images of more pixels (default: %(default)s)")
    reading.add_argument("--background", default="255,255,255", metavar="R,G,B",
                         help="colour behind what is transparent (default: %(default)s)")
    if not train:
        return
    random = parser.add_argument_group("random augmentation in training")
    random.add_argument("--random-crop", type=int, choices=(0, 1), default=1,
                        help="crop anywhere, not in the middle (default: %(default)s)")
    random.add_argument("--random-mirror", type=int, choices=(0, 1), default=1,
                        help="mirror every other image (default: %(default)s)")
    for flag, default, text in (
            ("--min-random-area", 1.0, "least part of an image's area that a crop takes"),
            ("--max-random-area", 1.0, "largest part of an image's area that a crop takes"),
            ("--max-random-aspect-ratio", 0.0, "stretch crops by 1 - this to 1 + this"),
            ("--brightness", 0.0, "change brightness by a factor of 1 - this to 1 + this"),
            ("--contrast", 0.0, "change contrast likewise"),
            ("--saturation", 0.0, "change saturation likewise")):
        random.add_argument(flag, type=float, default=default, metavar="X",
                            help=text + " (default: %(default)s)")


def augment_from_args(args, train=True):
    """The Augment that the flags of `add_data_args` ask for.

    Parameters
    ----------
    args : argparse.Namespace
    train : bool
        Whether to augment at random; else whole images or their middle, as for validation.

    Raises
    ------
    InputError
        When a value is out of its range or two contradict each other.
    """
    settings = {
        "resize": args.resize, "full_decode": args.full_decode, "max_pixels": args.max_pixels,
        "background": tuple(parse_numbers("--background", args.background, int, 3)),
        "fit": "pad" if args.pad_square else "squash" if args.squash else "crop"}
    if train:
        settings.update(
            random_crop=bool(args.random_crop), random_mirror=bool(args.random_mirror),
            min_random_area=args.min_random_area, max_random_area=args.max_random_area,
            max_random_aspect_ratio=args.max_random_aspect_ratio, brightness=args.brightness,
            contrast=args.contrast, saturation=args.saturation)
    return Augment(**settings)
