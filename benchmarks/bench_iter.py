"""How fast LstIter reads, beside MXNet's own iterators, and what memory it takes.

    python benchmarks/bench_iter.py --quick
    python benchmarks/bench_iter.py --lst train.lst --path-root photos --only speed

All sides of a comparison run in turns in one process, and the medians are printed, because
other programs' load moves the figures far more than anything here does. Speeds are images
per second at 224x224 with resize, random crop and mirror, batches of 32. Without --lst the photos
are made.
"""
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from turns import make_photos, take_turns

from common.cli import ArgumentParser, InputError, run
from common.mx_compat import mx
from lst_iter import LstIter
from reading.image_file import REDUCED
from reading.image_reader import REDUCTIONS
from reading.lst_file import read_lst
from reading.read_options import ReadOptions

SIDE = 224
SHAPE = (3, SIDE, SIDE)
BATCH = 32
RANDOM = ReadOptions(resize=SIDE, random_crop=True, random_mirror=True)
SECTIONS = ("speed", "memory", "lst", "fit")

# Linux keeps the peak of a process under this name; resource.getrusage inherits its parent's.
PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
"""
LOAD = PEAK + """
import time
from reading.lst_file import read_lst
start = time.perf_counter()
lst = read_lst({path!r}, label_format={label_format!r})
print(len(lst), lst.num_classes, time.perf_counter() - start, peak())
"""
EPOCHS = PEAK + """
from lst_iter import LstIter
from reading.read_options import ReadOptions
read_options = ReadOptions(random_crop=True, random_mirror=True)
batches = LstIter({batch}, {shape}, {lst!r}, {path_root!r}, shuffle=True, num_threads=2,
                  prefetch={prefetch}, read_options=read_options)
for epoch in range({epochs}):
    for batch in batches:
        batch.data[0].wait_to_read()
    batches.reset()
    print(peak())
"""


def pack(lst, path_root, path):
    """The same files in a .rec, as im2rec packs them without recoding."""
    record = mx.recordio.MXIndexedRecordIO(path + ".idx", path + ".rec", "w")
    for row, labels in enumerate(lst.labels(range(len(lst)))):
        content = Path(path_root, lst.name(row)).read_bytes()
        record.write_idx(row, mx.recordio.pack(mx.recordio.IRHeader(0, labels, row, 0), content))
    record.close()


def read_epoch(batches):
    for batch in batches:
        batch.data[0].wait_to_read()
    batches.reset()


def decode_all(paths, flag):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: cv2.imread(path, flag) is None, paths))


def bench_speed(path_lst, path_root, rounds, folder):
    """Print images per second of every reader over the same files."""
    lst = read_lst(path_lst)
    paths = [os.path.join(path_root, lst.name(row)) for row in range(len(lst))]
    height, width = cv2.imread(paths[0]).shape[:2]
    ratio = min(width, height) / SIDE
    reduction = next((r for r, least in REDUCTIONS if ratio >= least), 1)
    pack(lst, path_root, os.path.join(folder, "packed"))
    random = {"resize": SIDE, "rand_crop": True, "rand_mirror": True}
    imageiter = mx.image.ImageIter(BATCH, SHAPE, label_width=lst.num_classes, shuffle=True,
                                   path_imglist=path_lst, path_root=path_root, **random)

    def imagerecorditer():
        # Made for each turn: it would read the next epoch during the others' turns.
        batches = mx.io.ImageRecordIter(
            path_imgrec=os.path.join(folder, "packed.rec"), data_shape=SHAPE, batch_size=BATCH,
            label_width=lst.num_classes, shuffle=True, preprocess_threads=2, verbose=False,
            **random)
        for batch in batches:
            batch.data[0].wait_to_read()

    def lstiter(threads, read_options=RANDOM):
        return partial(read_epoch, LstIter(BATCH, SHAPE, lst, path_root, shuffle=True,
                                           num_threads=threads, read_options=read_options))

    readers = {
        "bare decoding, 2 threads": partial(decode_all, paths, REDUCED[reduction]),
        "ImageIter": partial(read_epoch, imageiter),
        "ImageRecordIter, 2 threads": imagerecorditer,
        **{f"LstIter, {threads} threads": lstiter(threads) for threads in (1, 2, 4, 8)},
        "LstIter, 2 threads, full decode": lstiter(2, dataclasses.replace(
            RANDOM, full_decode=True))}
    decode_all(paths, REDUCED[1])  # bring the files into memory
    seconds = take_turns(readers, rounds)
    ours = seconds["LstIter, 2 threads"]
    print(f"\n{len(lst)} JPEGs of {width}x{height}, decoded at 1/{reduction}: images per second, "
          "and how many times that LstIter with 2 threads is")
    for name, values in seconds.items():
        times = statistics.median(other / mine for mine, other in zip(ours, values))
        print(f"  {name:32} {len(lst) / statistics.median(values):8.0f} {times:8.2f}", flush=True)


def bench_memory(path_lst, path_root, epochs):
    """Print the peak memory after each epoch, for several prefetch depths."""
    print("\nPeak memory in MB after each epoch, by batches of prefetch "
          f"(one batch is {BATCH * 3 * SIDE * SIDE / 1e6:.1f} MB)")
    for prefetch in (1, 2, 4, 8, 16):
        peaks = fresh_process(EPOCHS.format(
            batch=BATCH, shape=SHAPE, lst=path_lst, path_root=path_root, prefetch=prefetch,
            epochs=epochs)).split()
        print(f"  {prefetch:3}  " + " ".join(f"{float(peak):.0f}" for peak in peaks), flush=True)


def bench_lst(folder, rows):
    """Print what loading a long .lst takes."""
    print("\nLoading a .lst: rows, classes, MB of the file, seconds, peak MB of the process")
    rng = np.random.RandomState(0)
    for classes, label_format in ((80, "multi-hot"), (9600, "indices")):
        labels = []
        for _ in range(1000):
            present = rng.permutation(classes)[:1 + rng.randint(5)]
            if label_format == "multi-hot":
                hot = np.zeros(classes, int)
                hot[present] = 1
                labels.append("".join(f"{value}.000000\t" for value in hot))
            else:
                labels.append("".join(f"{number}\t" for number in present))
        path = os.path.join(folder, f"{label_format}.lst")
        with open(path, "w") as file:
            for row in range(rows):
                file.write(f"{row}\t{labels[row % 1000]}train/{row:09}.jpg\n")
        found = fresh_process(LOAD.format(path=path, label_format=label_format))
        count, found_classes, seconds, peak = found.split()
        print(f"  {label_format:10} {count:>8} {found_classes:>6} "
              f"{os.path.getsize(path) / 1e6:8.0f} {float(seconds):8.1f} {float(peak):8.0f}",
              flush=True)
        os.unlink(path)


def bench_fit(path_lst, path_root, steps, rounds):
    """Print the speed of Module.fit fed by LstIter and by one batch held in memory."""
    network = mx.gluon.model_zoo.vision.resnet18_v2(classes=read_lst(path_lst).num_classes)
    data = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32") / 255
    network = mx.sym.LogisticRegressionOutput(
        network(data), mx.sym.Variable("softmax_label"), name="softmax")
    batches = LstIter(BATCH, SHAPE, path_lst, path_root, shuffle=True, read_options=RANDOM,
                      last_batch_handle="roll_over")
    batch = batches.next()
    held = mx.io.NDArrayIter(batch.data[0], batch.label[0], BATCH)
    sources = {"one batch held in memory": held, "LstIter": batches}
    speeds = {name: [] for name in sources}
    for _ in range(rounds):
        for name, source in sources.items():
            times = []
            mx.mod.Module(network).fit(
                mx.io.ResizeIter(source, steps + 1), num_epoch=1, eval_metric="mse",
                initializer=mx.init.Xavier(), optimizer_params={"learning_rate": 0.001},
                batch_end_callback=lambda _, times=times: times.append(time.perf_counter()))
            # The first step allocates memory.
            speeds[name].append(BATCH * (len(times) - 1) / (times[-1] - times[0]))
    batches.close()
    held, fed = speeds.values()
    print(f"\nModule.fit of a resnet18_v2, batches of {BATCH}: images per second")
    for name, values in speeds.items():
        print(f"  {name:32} {statistics.median(values):8.1f}")
    print(f"  fed by LstIter / held in memory  "
          f"{statistics.median(a / b for a, b in zip(fed, held)):8.3f}", flush=True)


def fresh_process(code):
    """What a Python process of its own prints; peak memory is a process's, not a function's."""
    return subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE,
                          text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).stdout


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds, small .lst")
    parser.add_argument("--lst", metavar="LST", help="photos to read, in place of made ones")
    parser.add_argument("--path-root", default="", metavar="DIR", help="folder of its images")
    parser.add_argument("--only", choices=SECTIONS, action="append",
                        help="run this part; may be repeated (default: all)")
    args = parser.parse_args(argv)
    if args.path_root and not args.lst:
        raise InputError("--path-root wants --lst too")
    sections = args.only or SECTIONS
    rounds = 3 if args.quick else 7
    with tempfile.TemporaryDirectory() as folder:
        photos = args.lst, args.path_root
        if not args.lst:
            photos = make_photos(folder, 192 if args.quick else 480), folder
        if "speed" in sections:
            bench_speed(*photos, rounds, folder)
        if "memory" in sections:
            bench_memory(*photos, 3 if args.quick else 8)
        if "fit" in sections:
            bench_fit(*photos, 3 if args.quick else 6, 2 if args.quick else 3)
        if "lst" in sections:
            bench_lst(folder, 100_000 if args.quick else 1_000_000)


if __name__ == "__main__":
    run(main)
