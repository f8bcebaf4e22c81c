"""Many small pictures on one sheet, each with a caption."""
import textwrap

import cv2
import numpy as np

MARGIN = 8
LINE = 16  # pixels of a caption's line
LETTER = 7.5  # pixels of a letter, on average
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(images, captions, columns=6):
    """Draw a sheet.

    Parameters
    ----------
    images : numpy.ndarray
        uint8, (count, 3, height, width), RGB.
    captions : list of str
        One an image, wrapped beneath it. OpenCV's font has ASCII only; "?" stands for the rest.
    columns : int
        Pictures in a row.

    Returns
    -------
    numpy.ndarray
        uint8, (sheet height, sheet width, 3), RGB.
    """
    count, _, height, width = images.shape
    letters = max(8, int(width / LETTER))
    texts = [textwrap.wrap(caption, letters) or [""] for caption in captions]
    columns = min(columns, count)
    lines = max(len(text) for text in texts)
    step_x, step_y = width + MARGIN, height + LINE * lines + 2 * MARGIN
    sheet = np.full((MARGIN + step_y * -(-count // columns), MARGIN + step_x * columns, 3), 255,
                    np.uint8)
    for number, (image, text) in enumerate(zip(images, texts)):
        x, y = MARGIN + step_x * (number % columns), MARGIN + step_y * (number // columns)
        sheet[y:y + height, x:x + width] = image.transpose(1, 2, 0)
        for line, words in enumerate(text, 1):
            cv2.putText(sheet, words.encode("ascii", "replace").decode(),
                        (x, y + height + LINE * line), FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet
