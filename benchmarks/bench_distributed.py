"""Time that communication adds to a training step, by number of parameters and workers.

    python benchmarks/bench_distributed.py
    python benchmarks/bench_distributed.py --workers 1,2,4 --parameters 1e5,1e6,1e7 --steps 20

Every worker sends its gradients to the servers and receives their sum, as train_multilabel.py
does with --kv-store dist_sync. All processes run on this machine, over the loopback address, each
with one core. The last table compares the step that these times predict for EfficientNet-Lite0
(computing + communicating) with the measured one. The time that a network between machines adds
follows from the number of bytes, and is printed for two speeds.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from turns import ROOT

from common.cli import ArgumentParser, HelpFormatter, InputError, run
from common.mx_compat import mx

TENSORS = 50  # into which the parameters are divided, as in networks of the size of Lite0
CLASSES = 58
RESULT = "RESULT "


def median_times(jobs, steps, workers):
    """Median milliseconds of each job at the slowest worker, without two rounds of warm-up.

    The jobs take turns, because the load of other programs varies.
    """
    times = {name: [] for name in jobs}
    for _ in range(steps + 2):
        for name, job in jobs.items():
            mx.nd.waitall()
            workers.sum([])  # a barrier, so that all workers begin at once
            start = time.perf_counter()
            job()
            mx.nd.waitall()
            times[name].append(time.perf_counter() - start)
    parts = workers.gather({name: np.array(values[2:]) for name, values in times.items()})
    return parts and {name: statistics.median(np.max([part[name] for part in parts], axis=0)) * 1000
                      for name in jobs}


def communicate(args, kv, workers):
    """Milliseconds to send and receive so many parameters, and of `Workers.sum`."""
    arrays = [mx.nd.ones(max(args.count // TENSORS, 1)) for _ in range(TENSORS)]
    names = [f"tensor{number}" for number in range(TENSORS)]
    if args.compress:
        kv.set_gradient_compression({"type": "2bit", "threshold": 0.5})
    for name, array in zip(names, arrays):
        kv.init(name, array)

    def exchange():
        for number, (name, array) in enumerate(zip(names, arrays)):
            kv.push(name, array, priority=-number)
            kv.pull(name, out=array, priority=-number)

    return median_times({"exchange": exchange, "sum": lambda: workers.sum([0, 0, 0, 0])},
                        args.steps, workers)


def train(args, kv, workers):
    """Milliseconds of a training step of EfficientNet-Lite0, and of its computation alone."""
    from convert import efficientnet_lite
    from network.fine_tune import get_fine_tune_model
    from training.module import FineTuningModule

    sym, constants = efficientnet_lite.network("efficientnet_lite0")
    net, _ = get_fine_tune_model(sym, {}, CLASSES)
    module = FineTuningModule(net, fixed_param_names=list(constants))
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

    times = median_times({"compute": lambda: module.forward_backward(batch), "step": step},
                         args.steps, workers)
    return times and {"parameters": parameters, **times}


def measure_as_worker(args):
    """Measure as one of the workers; rank 0 prints the result."""
    from distributed.worker_process import open_worker

    with open_worker("dist_sync") as (kv, workers):
        result = (train if args.measure == "train" else communicate)(args, kv, workers)
        if workers.rank == 0:
            print(RESULT + json.dumps(result), flush=True)
    return 0


def run_measurement(what, workers, servers, args, count=0, compress=False):
    """Result of `measure_as_worker` in so many workers and servers."""
    command = [sys.executable, str(ROOT / "tools" / "launch.py"), "-n", workers, "-s", servers,
               sys.executable, __file__, "--measure", what, "--count", count, "--steps",
               args.steps, "--batch-size", args.batch_size, *(["--compress"] if compress else [])]
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    for line in done.stdout.splitlines():
        if RESULT in line:
            return json.loads(line.partition(RESULT)[2])
    raise InputError(f"the measurement failed: {done.stdout[-2000:]} {done.stderr[-500:]}")


def whole_numbers(text):
    """`1e5,1e6` as integers."""
    return [int(float(part)) for part in text.split(",")]


def main(argv=None):
    """Measure all combinations and print the tables."""
    parser = ArgumentParser(description=__doc__.splitlines()[0],
                            formatter_class=HelpFormatter)
    parser.add_argument("--workers", type=whole_numbers, default="1,2,3", metavar="N,N")
    parser.add_argument("--parameters", type=whole_numbers, default="1e5,1e6,5e6,2.5e7",
                        metavar="N,N")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N",
                        help="images per worker and step, for the last table")
    parser.add_argument("--steps", type=int, default=15, metavar="N")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--compress", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        return measure_as_worker(args)

    print("Milliseconds to send and receive all parameters, over loopback\n")
    print("| parameters | workers | 1 server | as many servers as workers | 2bit, 1 server |"
          " Workers.sum |\n|--:|--:|--:|--:|--:|--:|")
    for count in args.parameters:
        for workers in args.workers:
            one = run_measurement("communicate", workers, 1, args, count)
            many = one if workers == 1 else run_measurement(
                "communicate", workers, workers, args, count)
            less = run_measurement("communicate", workers, 1, args, count, compress=True)
            print(f"| {count:,} | {workers} | {one['exchange']:.1f} | {many['exchange']:.1f} | "
                  f"{less['exchange']:.1f} | {one['sum']:.2f} |", flush=True)

    print(f"\nEfficientNet-Lite0, all parameters trained, batches of {args.batch_size}, "
          "ms per step\n")
    print("| workers | computing | predicted step | measured step | images/s, predicted | "
          "measured |\n|--:|--:|--:|--:|--:|--:|")
    for workers in args.workers:
        done = run_measurement("train", workers, 1, args)
        exchange = run_measurement("communicate", workers, 1, args, done["parameters"])["exchange"]
        predicted = done["compute"] + exchange
        images = workers * args.batch_size * 1000
        print(f"| {workers} | {done['compute']:.0f} | {predicted:.0f} | {done['step']:.0f} | "
              f"{images / predicted:.1f} | {images / done['step']:.1f} |", flush=True)

    megabytes = done["parameters"] * 4 / 1e6
    print(f"\nBetween machines each worker sends and receives {megabytes:.0f} MB per step. With as "
          "many servers as\nworkers, one per machine, that adds")
    for gigabits in (1, 10):
        print(f"- {gigabits} Gbit/s: {megabytes * 8 / gigabits:.0f} ms per step at most")
    return 0


if __name__ == "__main__":
    run(main)
