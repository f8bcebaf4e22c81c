"""What a training step costs in communication, by parameters and workers, and what that predicts.

    python benchmarks/bench_distributed.py
    python benchmarks/bench_distributed.py --workers 1,2,4 --parameters 1e5,1e6,1e7 --steps 20

Every worker sends its gradients to the servers and gets their sum back, as train_multilabel.py
does with --kv-store dist_sync. All processes run on this machine, over the loopback address, each
with one core. The last table sets the step that the figures predict for EfficientNet-Lite0
(computing + communicating) beside the measured one; what a network between machines adds follows
from the bytes, and is printed for two speeds.
"""
import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import numpy as np  # noqa: E402

from common.cli import ArgumentParser, HelpFormatter, InputError, run  # noqa: E402
from common.mx_compat import mx  # noqa: E402

TENSORS = 50  # that the parameters are spread over, as in networks of the size of Lite0
CLASSES = 58
RESULT = "RESULT "


def times_of(jobs, steps, workers):
    """Median milliseconds of each job at the slowest worker, without the first two times.

    They take turns, because other programs' load comes and goes.
    """
    times = {name: [] for name in jobs}
    for _ in range(steps + 2):
        for name, job in jobs.items():
            mx.nd.waitall()
            workers.sum([])  # all begin at once
            start = time.perf_counter()
            job()
            mx.nd.waitall()
            times[name].append(time.perf_counter() - start)
    parts = workers.gather({name: np.array(values[2:]) for name, values in times.items()})
    return parts and {name: statistics.median(np.max([part[name] for part in parts], axis=0)) * 1000
                      for name in jobs}


def communicate(args, kv, workers):
    """Milliseconds to send and get back so many parameters, and for a word among all workers."""
    arrays = [mx.nd.ones(max(int(args.count) // TENSORS, 1)) for _ in range(TENSORS)]
    names = [f"tensor{number}" for number in range(TENSORS)]
    if args.compress:
        kv.set_gradient_compression({"type": "2bit", "threshold": 0.5})
    for name, array in zip(names, arrays):
        kv.init(name, array)

    def exchange():
        for number, (name, array) in enumerate(zip(names, arrays)):
            kv.push(name, array, priority=-number)
            kv.pull(name, out=array, priority=-number)

    return times_of({"exchange": exchange, "word": lambda: workers.sum([0, 0, 0, 0])},
                    args.steps, workers)


def train(args, kv, workers):
    """Milliseconds of a step of EfficientNet-Lite0, and of its computing alone."""
    from convert import efficientnet_lite
    from train_multilabel import get_fine_tune_model
    from training.snapshot import ResumableModule

    sym, constants = efficientnet_lite.network("efficientnet_lite0")
    net, _ = get_fine_tune_model(sym, {}, CLASSES)
    module = ResumableModule(net, label_names=["softmax_label"],
                             fixed_param_names=list(constants))
    shape = (args.batch_size, 3, 224, 224)
    module.bind([mx.io.DataDesc("data", shape, np.uint8)],
                [mx.io.DataDesc("softmax_label", (args.batch_size, CLASSES))])
    module.init_params(mx.init.Xavier(magnitude=2), constants, allow_missing=True)
    parameters = sum(value.size for value in module.get_params()[0].values())
    batch = mx.io.DataBatch([mx.nd.random.randint(0, 256, shape).astype("uint8")],
                            [mx.nd.zeros((args.batch_size, CLASSES))])
    module.init_optimizer(kv, "sgd", {"learning_rate": 0.0})

    def step():
        module.forward_backward(batch)
        module.update()

    times = times_of({"compute": lambda: module.forward_backward(batch), "step": step},
                     args.steps, workers)
    return times and {"parameters": parameters, **times}


def measure_here(args):
    """As one of the workers: measure, and print what came of it."""
    from training.worker_process import create_kvstore, exit_worker_on_error
    from training.workers import Workers

    @exit_worker_on_error
    def measure(_):
        kv = create_kvstore("dist_sync")
        with Workers(kv) as workers:
            result = (train if args.measure == "train" else communicate)(args, kv, workers)
            if workers.rank == 0:
                print(RESULT + json.dumps(result), flush=True)

    measure(None)
    return 0


def measured(what, workers, servers, args, count=0, compress=False):
    """What a run of `measure_here` in so many processes found."""
    command = [sys.executable, str(ROOT / "tools" / "launch.py"), "-n", workers, "-s", servers,
               sys.executable, __file__, "--measure", what, "--count", count, "--steps",
               args.steps, "--batch-size", args.batch_size, *(["--compress"] if compress else [])]
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    for line in done.stdout.splitlines():
        if RESULT in line:
            return json.loads(line.partition(RESULT)[2])
    raise InputError(f"the measurement failed: {done.stdout[-2000:]} {done.stderr[-500:]}")


def list_of(kind):
    """A parser of numbers separated by commas."""
    return lambda text: [kind(float(part)) for part in text.split(",")]


def main(argv=None):
    """Measure all combinations and print tables."""
    parser = ArgumentParser(description=__doc__.splitlines()[0],
                            formatter_class=HelpFormatter)
    parser.add_argument("--workers", type=list_of(int), default="1,2,3", metavar="N,N")
    parser.add_argument("--parameters", type=list_of(int), default="1e5,1e6,5e6,2.5e7",
                        metavar="N,N")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N",
                        help="images a worker and step, for the last table")
    parser.add_argument("--steps", type=int, default=15, metavar="N")
    for flag in ("--measure", "--count"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    parser.add_argument("--compress", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        args.count = args.count and float(args.count)
        return measure_here(args)

    print("Milliseconds to send and get back all parameters, over loopback\n")
    print("| parameters | workers | 1 server | as many servers as workers | 2bit, 1 server |"
          " a word among all |\n|--:|--:|--:|--:|--:|--:|")
    for count in args.parameters:
        for workers in args.workers:
            one = measured("communicate", workers, 1, args, count)
            many = one if workers == 1 else measured("communicate", workers, workers, args, count)
            less = measured("communicate", workers, 1, args, count, compress=True)
            print(f"| {count:,} | {workers} | {one['exchange']:.1f} | {many['exchange']:.1f} | "
                  f"{less['exchange']:.1f} | {one['word']:.2f} |", flush=True)

    print(f"\nEfficientNet-Lite0, all of it trained, batches of {args.batch_size}, ms a step\n")
    print("| workers | computing | predicted step | measured step | images/s, predicted | "
          "measured |\n|--:|--:|--:|--:|--:|--:|")
    for workers in args.workers:
        done = measured("train", workers, 1, args)
        cost = measured("communicate", workers, 1, args, done["parameters"])["exchange"]
        predicted = done["compute"] + cost
        images = workers * args.batch_size * 1000
        print(f"| {workers} | {done['compute']:.0f} | {predicted:.0f} | {done['step']:.0f} | "
              f"{images / predicted:.1f} | {images / done['step']:.1f} |", flush=True)

    megabytes = done["parameters"] * 4 / 1e6
    print(f"\nBetween machines each worker sends {megabytes:.0f} MB a step and gets as much: with "
          "as many servers as\nworkers, one a machine, that adds")
    for gigabits in (1, 10):
        print(f"- {gigabits} Gbit/s: {megabytes * 8 / gigabits:.0f} ms at most a step")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):
        sys.stdout.reconfigure(line_buffering=True)
    run(main)
