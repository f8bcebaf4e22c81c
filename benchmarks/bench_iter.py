"""How fast LstIter reads, beside MXNet's own iterators, and what memory it takes.

    python benchmarks/bench_iter.py
    python benchmarks/bench_iter.py --photos train.lst photos --only speed

All sides of a comparison run in turns in one process. Speeds are at 224x224 with resize, random
crop and mirror, batches of 32. Without --photos they are made.
"""
import dataclasses
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from turns import make_photos, print_speeds, take_turns

from common.cli import ArgumentParser, run
from common.mx_compat import mx
from lst_iter import LstIter
from reading.image_file import REDUCED, REDUCTIONS
from reading.lst_file import read_lst
from reading.read_options import ReadOptions

SIDE = 224
SHAPE = (3, SIDE, SIDE)
BATCH = 32
RANDOM = ReadOptions(resize=SIDE, random_crop=True, random_mirror=True)
SECTIONS = ("speed", "memory", "fit", "lst")


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


def bench_speed(path_lst, path_root, folder):
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
        read_epoch(mx.io.ImageRecordIter(
            path_imgrec=os.path.join(folder, "packed.rec"), data_shape=SHAPE, batch_size=BATCH,
            label_width=lst.num_classes, shuffle=True, preprocess_threads=2, verbose=False,
            **random))

    def lstiter(threads, read_options=RANDOM):
        return partial(read_epoch, LstIter(BATCH, SHAPE, lst, path_root, shuffle=True,
                                           num_threads=threads, read_options=read_options))

    readers = {
        **{f"LstIter, {threads} threads": lstiter(threads) for threads in (2, 1, 4, 8)},
        "LstIter, 2 threads, full decode": lstiter(2, dataclasses.replace(
            RANDOM, full_decode=True)),
        "bare decoding, 2 threads": partial(decode_all, paths, REDUCED[reduction]),
        "ImageIter": partial(read_epoch, imageiter),
        "ImageRecordIter, 2 threads": imagerecorditer}
    decode_all(paths, REDUCED[1])  # bring the files into memory
    print(f"\n{len(lst)} JPEGs of {width}x{height}, decoded at 1/{reduction}")
    print_speeds(take_turns(readers), len(lst))


def bench_memory(path_lst, path_root, epochs=8):
    """Print the peak memory after each epoch, for several prefetch depths."""
    print("\nPeak memory in MB after each epoch, by batches of prefetch "
          f"(one batch is {BATCH * 3 * SIDE * SIDE / 1e6:.1f} MB)")
    for prefetch in (1, 2, 4, 8, 16):
        peaks = in_fresh_process(epoch_peaks, path_lst, path_root, prefetch, epochs)
        print(f"  {prefetch:3}  " + " ".join(f"{peak:.0f}" for peak in peaks), flush=True)


def epoch_peaks(path_lst, path_root, prefetch, epochs):
    peaks = []
    with LstIter(BATCH, SHAPE, path_lst, path_root, shuffle=True, num_threads=2,
                 prefetch=prefetch, read_options=RANDOM) as batches:
        for _ in range(epochs):
            read_epoch(batches)
            peaks.append(peak_memory())
    return peaks


def bench_fit(path_lst, path_root, steps=6):
    """Print the speed of training fed by LstIter and by one batch held in memory."""
    network = mx.gluon.model_zoo.vision.resnet18_v2(classes=read_lst(path_lst).num_classes)
    data = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32") / 255
    module = mx.mod.Module(mx.sym.LogisticRegressionOutput(
        network(data), mx.sym.Variable("softmax_label"), name="softmax"))
    with LstIter(BATCH, SHAPE, path_lst, path_root, shuffle=True, read_options=RANDOM,
                 last_batch_handle="roll_over") as batches:
        module.bind(batches.provide_data, batches.provide_label)
        module.init_params(mx.init.Xavier())
        module.init_optimizer(optimizer_params={"learning_rate": 0.001})
        batch = batches.next()

        def train(source):
            for batch in mx.io.ResizeIter(source, steps):
                module.forward_backward(batch)
                module.update()
            mx.nd.waitall()

        held = mx.io.NDArrayIter(batch.data[0], batch.label[0], BATCH)
        seconds = take_turns({"LstIter": partial(train, batches),
                              "one batch held in memory": partial(train, held)}, 3, warm_up=1)
    print(f"\nTraining of a resnet18_v2, batches of {BATCH}")
    print_speeds(seconds, BATCH * steps)


def bench_lst(folder, rows=1_000_000):
    """Print what loading a long .lst takes."""
    print("\nLoading a .lst: rows, classes, MB of the file, seconds, MB of memory at the peak")
    rng = np.random.RandomState(0)
    for classes, label_format in ((80, "multi-hot"), (9600, "indices")):
        path = os.path.join(folder, f"{label_format}.lst")
        labels = []
        for _ in range(1000):
            present = rng.permutation(classes)[:1 + rng.randint(5)].tolist()
            labels.append("".join(f"{c}\t" for c in present) if label_format == "indices" else
                          "".join(f"{c in present:d}.000000\t" for c in range(classes)))
        with open(path, "w") as file:
            file.writelines(f"{row}\t{labels[row % 1000]}train/{row:09}.jpg\n"
                            for row in range(rows))
        seconds, peak = in_fresh_process(load, path, label_format)
        print(f"  {label_format:10} {rows:>8} {classes:>6} {os.path.getsize(path) / 1e6:8.0f} "
              f"{seconds:8.1f} {peak:8.0f}", flush=True)
        os.unlink(path)


def load(path, label_format):
    before, start = peak_memory(), time.perf_counter()
    read_lst(path, label_format=label_format)
    return time.perf_counter() - start, peak_memory() - before


def in_fresh_process(function, *args):
    """What a function returns in a process of its own, whose peak of memory is not another's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def peak_memory():
    """The largest memory of this process so far, in MB, on Linux."""
    # resource.getrusage inherits its parent's.
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1024


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", nargs=2, metavar=("LST", "DIR"),
                        help="list and folder of photos to read (default: makes its own)")
    parser.add_argument("--only", choices=SECTIONS, action="append",
                        help="run this part; may be repeated (default: all)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        photos = args.photos or (make_photos(folder, 480), folder)
        sections = {"speed": lambda: bench_speed(*photos, folder),
                    "memory": lambda: bench_memory(*photos),
                    "fit": lambda: bench_fit(*photos), "lst": lambda: bench_lst(folder)}
        for section in args.only or SECTIONS:
            sections[section]()


if __name__ == "__main__":
    run(main)
