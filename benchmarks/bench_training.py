"""Time and mAP of ways to train, all in one run.

    python benchmarks/bench_training.py --data demo/data --image-shape 3,128,128
    python benchmarks/bench_training.py --data PHOTOS --recipes

DATA holds train.lst, val.lst and the images (in DATA, DATA/images or DATA/photos). The first two
rows are what the warm head is judged by: two plain epochs of SGD at 0.001, and the warm head alone.
"""
import datetime
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.cli import ArgumentParser, InputError, run  # noqa: E402
from common.mx_compat import physical_cores  # noqa: E402

WARM = "--warm-head-epochs 15 --warm-head-mirror"
JUDGED = {
    "two plain epochs, SGD 0.001": "--num-epoch 2 --lr 0.001",
    "warm head alone": f"{WARM} --num-epoch 0"}
RECIPES = {
    "two plain epochs, half of the cores (MXNet's own choice)": "--num-epoch 2 --lr 0.001",
    "plain, SGD 0.01, 3 epochs": "--num-epoch 3 --lr 0.01 --lr-schedule cosine",
    **{f"warm head, then {name}": f"{WARM} --lr-schedule cosine {flags}" for name, flags in (
        ("SGD 0.003, 3 epochs", "--num-epoch 3 --lr 0.003"),
        ("SGD 0.01, 3 epochs", "--num-epoch 3 --lr 0.01"),
        ("SGD 0.01, 5 epochs (run_train.sh)", "--num-epoch 5 --lr 0.01"),
        ("SGD 0.03, 3 epochs", "--num-epoch 3 --lr 0.03"),
        ("Adam 0.0003, 3 epochs", "--num-epoch 3 --optimizer adam --lr 0.0003"),
        ("SGD 0.01, 3 epochs, asymmetric loss", "--num-epoch 3 --lr 0.01 --loss asl"),
        ("SGD 0.01, 3 epochs, --pos-weight auto", "--num-epoch 3 --lr 0.01 --pos-weight auto"))}}


def train(args, flags, cores=None):
    """Run train_multilabel.py; what each validation said: seconds since the start, and mAP.

    `cores` are for MXNet to compute on; None leaves that to the script.
    """
    data = Path(args.data)
    images = next(f for f in (data / "images", data / "photos", data) if f.is_dir())
    with tempfile.TemporaryDirectory() as result:
        command = [sys.executable, str(ROOT / "train_multilabel.py"), "--model", args.model,
                   "--data-train", str(data / "train.lst"), "--data-val", str(data / "val.lst"),
                   "--image-train", str(images), "--save-result", result,
                   "--image-shape", args.image_shape, "--squash", "--batch-size", "32",
                   "--checkpoint-minutes", "0", "--gpus", "", *flags.split()]
        start = time.time()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": str(cores)} if cores else None)
        seconds = time.time() - start
    if done.returncode:
        raise InputError(f"{' '.join(command)}: {done.stdout.splitlines()[-1]}")
    course = []
    for stamp, value in re.findall(r"(\S+ \S+) - .*Validation-mAP=([.\d]+)", done.stdout):
        at = datetime.datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
        course.append((at - start, float(value)))
    return seconds, course


def main(argv=None):
    """Print one row a recipe."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(ROOT / "demo" / "data"))
    parser.add_argument("--model", default=str(ROOT / "pretrained" / "efficientnet_lite0"))
    parser.add_argument("--image-shape", default="3,224,224")
    parser.add_argument("--recipes", action="store_true", help="try the other recipes too")
    args = parser.parse_args(argv)
    cores = physical_cores()
    print(f"{args.data} at {args.image_shape}, {cores} cores")
    print(f"{'seconds':>8} {'mAP':>7}  recipe")
    courses = {}
    for name, flags in {**JUDGED, **(RECIPES if args.recipes else {})}.items():
        seconds, course = train(args, flags, max(cores // 2, 1) if "half" in name else None)
        courses[name] = course
        print(f"{seconds:8.1f} {course[-1][1]:7.4f}  {name}", flush=True)
    plain, warm = (courses[name] for name in JUDGED)
    reached = next((at for at, value in warm if value >= plain[-1][1]), None)
    if reached is None:
        print("The warm head did not reach what two plain epochs reach.")
    else:
        print(f"mAP {plain[-1][1]:.4f} after {plain[-1][0]:.1f} s plain, after {reached:.1f} s by "
              f"the warm head: {reached / plain[-1][0]:.2f} of the time")


if __name__ == "__main__":
    run(main)
