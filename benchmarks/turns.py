"""What the benchmarks share: the project's modules, timing in turns, and made photos.

Imported first, it makes the project importable, so that each benchmark runs as
`python benchmarks/NAME.py`.
"""
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PHOTO_SIZE = (550, 830)  # width and height of the photos that are made


def take_turns(jobs, turns=7, warm_up=0):
    """Seconds of each job's turns, by its name: other programs' load then meets all alike.

    Every other turn goes through the jobs backwards. The first `warm_up` turns do not count.
    """
    seconds = {name: [] for name in jobs}
    for turn in range(warm_up + turns):
        for name, job in list(jobs.items())[::-1 if turn % 2 else 1]:
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[warm_up:] for name, values in seconds.items()}


def print_speeds(seconds, count):
    """Print the medians of what `take_turns` measured, for `count` images in each turn.

    Of the ratios, too, turn by turn: other programs' load moves speeds far more than anything else.
    """
    first, *_ = seconds.values()
    for name, values in seconds.items():
        ratio = statistics.median(np.divide(values, first))
        print(f"  {name:32} {count / statistics.median(values):8.1f} images/s; the first is "
              f"{ratio:.2f} times as fast", flush=True)


@contextlib.contextmanager
def photos(folder, count):
    """The folder, or without one a temporary folder of so many made photos."""
    with tempfile.TemporaryDirectory() as made:
        if not folder:
            make_photos(made, count)
        yield folder or made


def make_photos(folder, count):
    """JPEGs of blurred noise at several scales, about as many bytes per pixel as photos have.

    Returns the path of their .lst file of two classes.
    """
    width, height = PHOTO_SIZE
    rows = []
    for number in range(count):
        rng = np.random.RandomState(number)
        image = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64, 256):
            noise = rng.rand(max(2, cells * height // width), cells, 3).astype(np.float32)
            noise = cv2.resize(noise, PHOTO_SIZE, interpolation=cv2.INTER_CUBIC)
            image += noise * (160 / cells ** 0.5)
        name = f"{number}.jpg"
        cv2.imwrite(str(Path(folder, name)), np.clip(image, 0, 255).astype(np.uint8),
                    [cv2.IMWRITE_JPEG_QUALITY, 90])
        rows.append(f"{number}\t{number % 2}\t{number % 3 // 2}\t{name}\n")
    lst = Path(folder, "train.lst")
    lst.write_text("".join(rows))
    return str(lst)
