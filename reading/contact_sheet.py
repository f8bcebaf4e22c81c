"""A sheet of many small images, each with a caption."""
from __future__ import annotations

import textwrap
from typing import Sequence

import cv2
import numpy as np

from common.files import atomic_file

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
