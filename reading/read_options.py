"""How images become samples: the options, their flags, and what is random about them."""
from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import cv2
import numpy as np

from common.cli import InputError, at_least, parse_numbers, require
from reading.lst_file import LABEL_FORMATS

FITS = ("crop", "pad", "squash")
BAD_IMAGES = ("fail", "skip")  # --bad-images; see LstIter
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
LUMA = np.array([0.114, 0.587, 0.299])  # weights of blue, green, red in a grey value (BT.601)


@dataclass(frozen=True)
class ReadOptions:
    """How an image becomes a sample; names and meanings are those of MXNet's iterators.

    An InputError is raised when a value is out of its range or two contradict each other.
    """

    resize: int | None = None  # pixels of the short side before the crop; None, 0: the least
    random_crop: bool = False  # crop anywhere instead of in the middle
    random_mirror: bool = False  # mirror every other image, left to right
    # Crop a random part of the image's area, in (0, 1], and scale it to the shape. Both 1: off.
    # Takes the place of `resize` and of `random_crop`.
    min_random_area: float = 1.0
    max_random_area: float = 1.0
    # Change that crop's aspect ratio by a factor in [1 - this, 1 + this]; in [0, 1).
    max_random_aspect_ratio: float = 0.0
    # Change each by a factor in [1 - this, 1 + this]; in [0, 1].
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    # "pad": the whole image, on a grey square where its aspect differs; "squash": the whole image,
    # without keeping its aspect.
    fit: str = "crop"
    full_decode: bool = False  # decode JPEGs always at full size: slower, and looks the same
    max_pixels: int = 100_000_000  # refuse images whose header says more
    background: tuple[int, int, int] = (255, 255, 255)  # RGB behind transparent images

    @property
    def plain(self) -> ReadOptions:
        """The same with nothing random, as for validation."""
        return ReadOptions(resize=self.resize, fit=self.fit, full_decode=self.full_decode,
                           max_pixels=self.max_pixels, background=self.background)

    def __post_init__(self):
        require((self.resize or 0) >= 0, "resize", "a number of pixels", self.resize)
        require(0 < self.max_random_area <= 1, "max_random_area", "above 0, at most 1",
                self.max_random_area)
        require(0 < self.min_random_area <= self.max_random_area, "min_random_area",
                f"above 0, at most {self.max_random_area}, the largest", self.min_random_area)
        require(0 <= self.max_random_aspect_ratio < 1, "max_random_aspect_ratio",
                "at least 0 and below 1", self.max_random_aspect_ratio)
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, "between 0 and 1", value)
        require(self.fit in FITS, "fit", "crop, pad or squash", self.fit)
        if self.random_area and self.fit != "crop":
            raise InputError(f"a random area is a crop, but {{flag}} ({self.fit}) takes the whole "
                             "image: choose one", flag="fit")
        require(self.max_pixels >= 1, "max_pixels", "at least 1", self.max_pixels)
        require(len(self.background) == 3 and all(0 <= value <= 255 for value in self.background),
                "background", "three numbers (red, green, blue) of 0 to 255", self.background)

    @classmethod
    def of_checkpoint(cls, attributes: Mapping[str, Any], **options: Any) -> ReadOptions:
        """How a checkpoint reads images, by its attributes; `options` are further fields."""
        given = {name: attributes[name] for name in ("resize", "fit", "full_decode")
                if name in attributes}
        background = tuple(attributes.get("background", cls.background))
        return cls(**{"background": background, **given, **options})

    @property
    def random_area(self) -> bool:
        """Whether the crop's area or aspect is random."""
        return self.min_random_area < 1 or self.max_random_aspect_ratio > 0

    @property
    def only_mirrors(self) -> bool:
        """Whether nothing is random but mirroring."""
        return not (self.fit == "crop" and self.random_crop or self.random_area
                    or self.brightness or self.contrast or self.saturation)

    @property
    def random(self) -> bool:
        """Whether any augmentation is random."""
        return self.random_mirror or not self.only_mirrors


def sample_rng(seed: int, epoch: int, row: int) -> random.Random:
    """The random generator of one sample, the same on every machine and in every thread.

    Only its method `random` gives the same numbers under every version of Python.
    """
    return random.Random(seed << 96 | epoch << 48 | row)


def jitter_colors(image: np.ndarray, options: ReadOptions, draws: Sequence[float]) -> np.ndarray:
    """Change brightness, contrast and saturation of blue, green, red pixels by three draws."""
    brightness, contrast, saturation = (
        1 + limit * (2 * draw - 1)
        for limit, draw in zip((options.brightness, options.contrast, options.saturation), draws))
    if options.brightness or options.contrast:
        # Contrast pulls towards the image's mean grey value, after brightness has moved it.
        grey = brightness * LUMA.dot(cv2.mean(image)[:3])
        table = np.arange(256) * (brightness * contrast) + (1 - contrast) * grey
        image = cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8))
    if options.saturation:
        mix = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
        image = cv2.transform(image, mix)
    return image


def add_file_args(add: Callable[..., Any]) -> None:
    """Declare how lists and image files are read; `add` is a parser's add_argument."""
    add("--label-format", choices=LABEL_FORMATS, default="multi-hot",
        help="each .lst row has one 1 or 0 per class, the numbers of the classes present, or "
             "(signed) one 1 or -1 per class")
    add("--data-nthreads", type=at_least(1), metavar="N",
        help="threads that decode images (default: one per core, at most 16)")
    add("--full-decode", action="store_true",
        help="decode JPEGs at full size even where less would do (slower)")
    add("--max-pixels", type=int, default=ReadOptions.max_pixels, metavar="N",
        help="refuse images of more pixels")


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Declare the flags for reading images and for random augmentation, in groups."""
    reading = parser.add_argument_group("reading images")
    add_file_args(reading.add_argument)
    reading.add_argument("--bad-images", choices=BAD_IMAGES, default="fail",
                         help="stop at an image that cannot be used, or leave it out of loss and "
                              "metrics")
    reading.add_argument("--resize", type=int, metavar="PIXELS",
                         help="short side before the crop (default: as small as the crop allows)")
    whole = reading.add_mutually_exclusive_group()
    whole.add_argument("--pad-square", action="store_true",
                       help="no crop: the whole image, its aspect kept, on grey")
    whole.add_argument("--squash", action="store_true",
                       help="no crop: the whole image, its aspect ignored")
    reading.add_argument("--background", default="255,255,255", metavar="R,G,B",
                         help="colour behind what is transparent")
    random = parser.add_argument_group("random augmentation in training")
    random.add_argument("--random-crop", type=int, choices=(0, 1), default=1,
                        help="crop anywhere, not in the middle")
    random.add_argument("--random-mirror", type=int, choices=(0, 1), default=1,
                        help="mirror every other image")
    for name, text in RANDOM_AMOUNTS.items():
        random.add_argument("--" + name.replace("_", "-"), type=float, metavar="X",
                            default=getattr(ReadOptions, name), help=text)


def read_options_from_args(args: argparse.Namespace) -> ReadOptions:
    """The ReadOptions of training images, or an InputError, for the flags of `add_data_args`."""
    names = ("resize", "full_decode", "max_pixels", "random_crop", "random_mirror", *RANDOM_AMOUNTS)
    background = tuple(parse_numbers("--background", args.background, int, 3))
    fit = "pad" if args.pad_square else "squash" if args.squash else "crop"
    try:
        return ReadOptions(background=background, fit=fit,
                           **{name: getattr(args, name) for name in names})
    except InputError as error:  # its flag is a field of ReadOptions
        field = {"fit": "pad-square" if args.pad_square else "squash"}.get(error.flag, error.flag)
        raise error.at(flag="--" + field.replace("_", "-")) from None
