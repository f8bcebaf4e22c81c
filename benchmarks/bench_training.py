"""Time and validation mAP of ways to train, all in one run: mean and range over random seeds.

    python benchmarks/bench_training.py --data demo/data --image-shape 3,128,128
    python benchmarks/bench_training.py --data PHOTOS --swap --recipes "attention head"
    python benchmarks/bench_training.py --data PHOTOS --recipes "3 epochs of SGD 0.02" --beside 1

DATA holds train.lst, val.lst and the images (in DATA, DATA/images or DATA/photos). The mAP is that
of the best checkpoint. With --beside each run is followed by the same one while so many other
processes compute.
"""
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from turns import ROOT

from common.cli import ArgumentParser, InputError, run
from common.machine import physical_cores

SMALL = "--image-shape 3,224,224"
WARM = "--warm-head-epochs 5 --warm-head-mirror"
ATTENTION = f"--head attention {WARM} --lr-schedule cosine"
RECIPES = {
    "two plain epochs, SGD 0.001": "--num-epoch 2 --lr 0.001",
    "linear head, 224x224": f"{SMALL} {WARM} --num-epoch 0",
    "linear head": f"{WARM} --num-epoch 0",
    "attention head": f"{ATTENTION} --num-epoch 0",
    **{f"attention head, then {epochs} epochs of SGD {rate} behind {stages} frozen stages":
       f"{ATTENTION} --freeze-stages {stages} --num-epoch {epochs} --lr {rate}"
       for epochs, rate, stages in ((3, 0.003, 4), (3, 0.02, 4), (3, 0.003, 3), (3, 0.02, 3),
                                    (5, 0.02, 3))},
    "attention head, then 3 epochs of everything, SGD 0.01":
        f"{ATTENTION} --num-epoch 3 --lr 0.01"}


def train(args, flags, seed):
    """Run train_multilabel.py: seconds of the whole process, and the best mAP."""
    data = Path(args.data)
    images = next(f for f in (data / "images", data / "photos", data) if f.is_dir())
    lists = [str(data / f"{name}.lst") for name in ("train", "val")][::-1 if args.swap else 1]
    shape = [] if "--image-shape" in flags else ["--image-shape", args.image_shape]
    with tempfile.TemporaryDirectory() as result:
        command = [sys.executable, str(ROOT / "train_multilabel.py"), "--model", args.model,
                   "--data-train", lists[0], "--data-val", lists[1],
                   "--image-train", str(images), "--save-result", result, *shape, "--squash",
                   "--batch-size", "32", "--checkpoint-minutes", "0", "--gpus", "",
                   "--seed", str(seed), "--save-name", "multilabel", *flags.split()]
        start = time.time()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seconds = time.time() - start
        if done.returncode:
            raise InputError(f"{' '.join(command)}: {done.stdout.splitlines()[-1]}")
        reached = json.loads(Path(result, "multilabel-result.json").read_text())
    return seconds, reached["best"]["value"]


@contextlib.contextmanager
def others(count):
    """So many processes that compute all the time, until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
                 for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(argv=None):
    """Print one row per recipe."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(ROOT / "demo" / "data"))
    parser.add_argument("--model", default=str(ROOT / "pretrained" / "efficientnet_lite0"))
    parser.add_argument("--image-shape", default="auto")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="random seeds of each")
    parser.add_argument("--swap", action="store_true", help="train on val.lst instead")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="other processes")
    parser.add_argument("--recipes", default="", metavar="TEXT", help="only names that hold this")
    args = parser.parse_args(argv)
    print(f"{args.data} at {args.image_shape}, {physical_cores()} cores, {args.seeds} seeds")
    print(f"{'seconds':>8} {'mAP':>7} {'range':>15}  recipe")
    for name, flags in RECIPES.items():
        if args.recipes not in name:
            continue
        runs, slowed = [], []
        for seed in range(args.seeds):
            runs.append(train(args, flags, seed))
            if args.beside:
                with others(args.beside):
                    slowed.append(train(args, flags, seed)[0] / runs[-1][0])
        seconds, scores = zip(*runs)
        if slowed:
            name += f"; beside {args.beside}: {statistics.median(slowed):.2f} times as long"
        print(f"{min(seconds):8.1f} {sum(scores) / len(scores):7.4f} "
              f"{min(scores):7.4f}-{max(scores):.4f}  {name}", flush=True)


if __name__ == "__main__":
    run(main)
