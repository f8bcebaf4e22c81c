"""Time and memory of tools/make_lst.py for data sets of a million boxes.

    python benchmarks/bench_make_lst.py
    python benchmarks/bench_make_lst.py --boxes 100000 --images 12000

Draws a COCO instances file with as many masks and names as COCO itself has, a CSV of one column
per class and JSON lines, turns each into .lst files, and prints seconds and megabytes.
"""
import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE_LST = Path(__file__).resolve().parents[1] / "tools" / "make_lst.py"
CLASSES = 80


def write_coco(path, images, boxes, rng):
    """An instances file whose annotations have polygons of 20 corners."""
    with open(path, "w") as file:
        file.write('{"images": [')
        file.write(", ".join(json.dumps({
            "id": n, "file_name": f"{n:012}.jpg", "height": 480, "width": 640, "license": 3,
            "coco_url": f"http://images.example.org/train2017/{n:012}.jpg",
            "date_captured": "2013-11-14 11:18:45"}) for n in range(images)))
        file.write('], "annotations": [')
        for n in range(boxes):
            corners = ", ".join(f"{rng.random() * 640:.2f}" for _ in range(40))
            file.write(", " * (n > 0) + f'{{"segmentation": [[{corners}]], "area": 702.1, '
                       f'"iscrowd": {int(n % 100 == 0)}, "image_id": {rng.randrange(images)}, '
                       f'"bbox": [473.07, 395.93, 38.65, 28.67], '
                       f'"category_id": {rng.randrange(CLASSES)}, "id": {n}}}')
        file.write('], "categories": ')
        json.dump([{"id": n, "name": f"class {n}"} for n in range(CLASSES)], file)
        file.write("}")


def write_csv(path, images, rng):
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", *(f"class {n}" for n in range(CLASSES))])
        for n in range(images):
            rows.writerow([f"{n:012}.jpg", *(int(rng.random() < 0.04) for _ in range(CLASSES))])


def write_jsonl(path, images, rng):
    with open(path, "w") as file:
        for n in range(images):
            labels = [f"class {c}" for c in rng.sample(range(CLASSES), 3)]
            file.write(json.dumps({"image": f"{n:012}.jpg", "labels": labels}) + "\n")


def measure(command):
    """Seconds of wall clock, seconds of processor and megabytes that a command takes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=120_000, help="images in each file")
    parser.add_argument("--boxes", type=int, default=1_000_000, help="annotations of COCO")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        rng = random.Random(0)
        write_coco(folder / "coco.json", args.images, args.boxes, rng)
        write_csv(folder / "labels.csv", args.images, rng)
        write_jsonl(folder / "labels.jsonl", args.images, rng)
        print(f"{args.images} images, {args.boxes} boxes, {CLASSES} classes, with the split")
        for command, name in (("coco", "coco.json"), ("csv", "labels.csv"),
                              ("jsonl", "labels.jsonl")):
            seconds, processor, megabytes = measure(
                [sys.executable, MAKE_LST, command, folder / name, "--prefix", folder / command])
            size = (folder / name).stat().st_size / 1e6
            print(f"{command:6} {size:5.0f} MB file  {seconds:6.1f} s  {processor:6.1f} s of "
                  f"processor  {megabytes:5.0f} MB of memory")


if __name__ == "__main__":
    main()
