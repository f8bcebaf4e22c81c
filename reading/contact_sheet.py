"""A sheet of small images with captions; of samples, the command `python lst_iter.py` draws one."""
from __future__ import annotations

import textwrap
from typing import Any, Callable, Sequence

import cv2
import numpy as np

from common.cli import ArgumentParser, at_least, parse_image_shape
from common.files import atomic_file
from reading.classes import names_beside, read_class_names
from reading.image_shape import best_shape, median_size
from reading.lst_file import read_lst
from reading.read_options import AREA, add_data_args, read_options_from_args

MARGIN = 8
LINE = 16  # height of a line of text, in pixels
LETTER = 7.5  # mean width of a letter, in pixels
COLUMNS = 6
FONT = cv2.FONT_HERSHEY_SIMPLEX


def save(path: str, images: np.ndarray, captions: Sequence[str]) -> None:
    """Write images, uint8 (count, 3, height, width) RGB, with captions beneath, as a PNG.

    The path may have any ending. OpenCV's font has ASCII only; "?" stands for other characters.
    """
    count, _, height, width = images.shape
    texts = [textwrap.wrap(caption, max(8, int(width / LETTER))) or [""] for caption in captions]
    columns = min(COLUMNS, count)
    lines = max(len(text) for text in texts)
    step_x, step_y = width + MARGIN, height + LINE * lines + 2 * MARGIN
    sheet = np.full((MARGIN + step_y * -(-count // columns), MARGIN + step_x * columns, 3), 255,
                    np.uint8)
    for number, (image, text) in enumerate(zip(images, texts)):
        x, y = MARGIN + step_x * (number % columns), MARGIN + step_y * (number // columns)
        sheet[y:y + height, x:x + width] = image[::-1].transpose(1, 2, 0)  # OpenCV's BGR
        for line, words in enumerate(text, 1):
            cv2.putText(sheet, words.encode("ascii", "replace").decode(),
                        (x, y + height + LINE * line), FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    with atomic_file(path) as name:
        cv2.imencode(".png", sheet)[1].tofile(name)


def draw_samples(open_iterator: Callable[..., Any], argv: Sequence[str] | None = None) -> None:
    """The command `python lst_iter.py`; `open_iterator` is its LstIter."""
    parser = ArgumentParser(
        description="Draw the samples that a network gets in training, with their labels.")
    parser.add_argument("lst", metavar="LST", help=".lst file")
    parser.add_argument("--path-root", default="", metavar="DIR",
                        help="folder that image names in the .lst file start from")
    parser.add_argument("--show", required=True, metavar="PNG", help="image to write")
    parser.add_argument("--image-shape", default="3,224,224", metavar="3,H,W",
                        help="shape of a sample; auto: as training finds it for these images")
    parser.add_argument("--labels", metavar="FILE",
                        help="file of class names, one per line (default: PREFIX_labels.txt beside "
                             "PREFIX_train.lst, if it is there)")
    parser.add_argument("--num-images", type=at_least(1), default=24, metavar="N",
                        help="samples to draw")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    add_data_args(parser)
    args = parser.parse_args(argv)

    lst = read_lst(args.lst, label_format=args.label_format)
    if args.image_shape == "auto":
        size = median_size(lst, args.path_root, args.max_pixels)
        shape = best_shape(*size, AREA) if size else [3, 224, 224]
    else:
        shape = parse_image_shape(args.image_shape)
    names = (read_class_names(args.labels, lst.num_classes) if args.labels
             else names_beside(args.lst, lst.num_classes) or [*map(str, range(lst.num_classes))])
    with open_iterator(min(args.num_images, len(lst)), shape, lst, args.path_root, shuffle=True,
                 seed=args.seed, num_threads=args.data_nthreads, prefetch=1,
                 read_options=read_options_from_args(args), bad_images=args.bad_images) as batches:
        batch = batches.next()
    captions = [f"{lst.ids[row]}: " + ", ".join(
        names[c] if label[c] == 1 else f"{names[c]} {label[c]:g}" for c in np.flatnonzero(label > 0)
    ) for row, label in zip(batch.index, batch.label[0].asnumpy())]
    save(args.show, batch.data[0].asnumpy(), captions)
    print(f"{args.show}: {len(captions)} samples of {shape[1]}x{shape[2]} pixels")
