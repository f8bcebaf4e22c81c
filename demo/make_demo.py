"""Draw a small multi-label data set: pictures that hold up to five of eight kinds of shape.

    python demo/make_demo.py --out demo/data
    python demo/make_demo.py --out /tmp/small --num-train 100 --num-val 50 --seed 1

Kinds differ in form alone: colour, size, place and rotation are random, so that a network has
to look at shapes. A label is 1 when at least 60 % of the shape can be seen: what is drawn
over it and what lies outside the picture does not count.
"""
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import ArgumentParser, InputError, at_least, run

# How often each class is asked for.
CLASSES = {"ring": 0.55, "star": 0.45, "triangle": 0.38, "stripes": 0.31,
           "cross": 0.26, "spiral": 0.21, "zigzag": 0.17, "checkerboard": 0.13}
# These turn up together more often than by chance.
PAIRS = [("ring", "stripes"), ("star", "spiral"), ("zigzag", "checkerboard")]
MAX_CLASSES = 5
MIN_VISIBLE = 0.6
TURN = 2 * np.pi


def circle(angles, radii):
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def rectangle(x, y, width, height):
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


# Each shape in the square from -1 to 1: its polygons, and the width of the pen (0: filled).
OUTLINES = {
    "ring": ([circle(np.linspace(0, TURN, 49), 0.8)], 0.34),
    "star": ([circle(np.arange(10) * TURN / 10, np.tile([1.0, 0.42], 5))], 0),
    "triangle": ([circle(np.arange(3) * TURN / 3, 1.0)], 0),
    "stripes": ([rectangle(-0.85, y, 1.7, 0.25) for y in (-0.85, -0.367, 0.117, 0.6)], 0),
    "cross": ([np.array([[1, 1, .26, .26, -.26, -.26, -1, -1, -.26, -.26, .26, .26],
                         [-.26, .26, .26, 1, 1, .26, .26, -.26, -.26, -1, -1, -.26]]).T], 0),
    "spiral": ([circle(np.linspace(0, 2.5 * TURN, 80), np.linspace(0.02, 0.92, 80))], 0.17),
    "zigzag": ([np.stack([np.linspace(-0.95, 0.95, 6), np.tile([-0.5, 0.5], 3)], axis=1)], 0.2),
    "checkerboard": ([rectangle(x * 0.44, y * 0.44, 0.44, 0.44)
                      for x in range(-2, 2) for y in range(-2, 2) if (x + y) % 2], 0),
    # No classes, only there to distract:
    "blob": ([circle(np.linspace(0, TURN, 33), 0.3)], 0),
    "line": ([np.array([(-2.2, 0.0), (2.2, 0.0)])], 0.05),
}


def place(rng, kind, height, width):
    """Put one shape at a random place: its coverage of the picture, (height, width) uint8 from
    0 to 255, and the sum of its coverage counted with what lies outside."""
    radius = min(height, width) * rng.uniform(0.34, 0.6) / 2
    angle = rng.uniform(0, TURN)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    squeeze = rng.uniform(0.8, 1.0, 2) * radius
    margin = int(radius * 1.2) + 2  # room for what lies outside
    centre = rng.uniform(0.12, 0.88, 2) * (width, height) + margin
    polygons, pen = OUTLINES[kind]
    points = [np.round(((p * squeeze) @ turn.T + centre) * 16).astype(np.int32) for p in polygons]
    canvas = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    if pen:
        cv2.polylines(canvas, points, False, 255, max(1, round(pen * radius)), cv2.LINE_AA, 4)
    else:
        cv2.fillPoly(canvas, points, 255, cv2.LINE_AA, 4)
    return canvas[margin:-margin, margin:-margin], int(canvas.sum())


def arrange(rng, kinds, height, width):
    """Place shapes one over the other: (kind, coverage, whole) in the order of drawing.

    A place that would leave a class with too little to see, the new one or an earlier one, is
    not taken; a shape that finds no place in 20 tries stays away. So no image shows scraps
    of a class that its labels deny.
    """
    placed, visible = [], []  # visible: for each class so far, the coverage that still shows
    for kind in kinds:
        for _ in range(20):
            cover, whole = place(rng, kind, height, width)
            # What is covered in part shows in part, as antialiased edges do.
            left = [(cv2.multiply(seen, 255 - cover, scale=1 / 255), all_of_it)
                    for seen, all_of_it in visible]
            if kind in CLASSES:
                left.append((cover, whole))
            if all(seen.sum() >= MIN_VISIBLE * all_of_it for seen, all_of_it in left):
                visible = left
                placed.append((kind, cover, whole))
                break
    return placed


def background(rng, height, width):
    """A colour gradient, soft blobs and noise: (height, width, 3) float32."""
    corners = rng.uniform(40, 215, (2, 2, 3)).astype(np.float32)
    small = cv2.resize(corners, (width // 4, height // 4), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(8, 20)):
        centre = rng.integers(0, 100, 2)
        axes = rng.integers(3, 20, 2)
        cv2.ellipse(small, [int(v) for v in centre], [int(v) for v in axes],
                    rng.uniform(0, 180), 0, 360, rng.uniform(40, 215, 3).tolist(), -1)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(1.0, 4.0))
    picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    strength = rng.integers(4, 20)
    picture += rng.integers(-strength, strength + 1, picture.shape, np.int8)
    return picture


def choose_classes(rng):
    """Which classes an image is to hold: normal variables that pairs share in part, cut at
    each class's quantile."""
    normal = dict(zip(CLASSES, rng.standard_normal(len(CLASSES))))
    for pair in PAIRS:
        shared = rng.standard_normal()
        for kind in pair:
            normal[kind] = (normal[kind] + shared) / 2 ** 0.5
    chosen = [k for k, share in CLASSES.items() if normal[k] < NormalDist().inv_cdf(share)]
    return list(rng.permutation(chosen)[:MAX_CLASSES])


def paint(rng, picture, cover):
    """Paint a shape in a random colour that stands out, with a soft shadow around it."""
    x, y, width, height = cv2.boundingRect(cover)
    box = np.s_[max(0, y - 9):y + height + 9, max(0, x - 9):x + width + 9]
    patch, cover = picture[box], cover[box]
    below = np.array(cv2.mean(patch, cover)[:3])
    colour = max(rng.uniform(0, 255, (4, 3)), key=lambda c: np.abs(c - below).sum())
    alpha = cover * np.float32(1 / 255)
    keep = (1 - alpha) * (1 - cv2.GaussianBlur(cover, (0, 0), 2.5) * np.float32(0.4 / 255))
    patch *= cv2.merge([keep] * 3)
    patch += cv2.merge([alpha * np.float32(c) for c in colour])


def draw(rng):
    """Draw one image: (height, width, 3) uint8 and the set of classes that can be seen in it."""
    sides = [rng.integers(240, 401)]
    sides.append(max(160, sides[0] * rng.uniform(0.6, 1.0)))
    height, width = (int(v) for v in rng.permutation(sides))
    picture = background(rng, height, width)
    distractors = ["blob"] * rng.integers(0, 4) + ["line"] * rng.integers(0, 4)
    kinds = rng.permutation(distractors + choose_classes(rng))
    placed = arrange(rng, kinds, height, width)
    for _, cover, _ in placed:
        paint(rng, picture, cover)
    return picture.clip(0, 255).astype(np.uint8), {k for k, _, _ in placed if k in CLASSES}


def draw_set(folder, counts, seed):
    """Draw images, as many as `counts` says per split, into folder/images; list them beside it."""
    def write(split, row):
        # Seeded by the image, not by the run: other counts give the same images.
        picture, seen = draw(np.random.default_rng([seed, split == "val", row]))
        name = f"{split}_{row:05d}.jpg"
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (folder / "images" / name).write_bytes(jpeg.tobytes())
        labels = "\t".join(f"{kind in seen:.6f}" for kind in CLASSES)
        return f"{row}\t{labels}\t{name}\n"

    (folder / "images").mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        for split, count in counts.items():
            rows = pool.map(partial(write, split), range(count))
            (folder / f"{split}.lst").write_text("".join(rows))
    (folder / "labels.txt").write_text("".join(f"{kind}\n" for kind in CLASSES))


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo/data", help="folder to make")
    parser.add_argument("--num-train", type=at_least(1), default=800, help="training images")
    parser.add_argument("--num-val", type=at_least(1), default=200, help="validation images")
    parser.add_argument("--seed", type=at_least(0), default=0, help="another seed, other images")
    args = parser.parse_args(argv)
    out = Path(args.out).resolve()
    try:
        if out.is_file() or (out.exists() and any(out.iterdir())):
            raise InputError("is there already: remove it or choose another {flag}", file=out,
                             flag="--out")
        out.parent.mkdir(parents=True, exist_ok=True)
        # Drawn beside its place and renamed: `out` is whole or not there at all.
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            drawn = Path(temporary, "set")
            draw_set(drawn, {"train": args.num_train, "val": args.num_val}, args.seed)
            drawn.replace(out)
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=args.out) from error
    print(f"{args.out}: drew {args.num_train} training and {args.num_val} validation images "
          f"of {len(CLASSES)} classes")


if __name__ == "__main__":
    run(main)
