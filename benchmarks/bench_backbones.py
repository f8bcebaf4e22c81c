"""What becomes of ONNX classifiers: imported, fine-tuned, exported again; a table in Markdown.

    python benchmarks/bench_backbones.py models/resnet50.onnx models/swin_t.onnx

Each file is imported by tools/import_pretrained.py --onnx, trained for one epoch on 16 drawn images
by train_multilabel.py, and exported by tools/export_onnx.py, which compares probabilities. The
speed is that of a training step (forward, backward, update) of 8 images on all cores: the best of a
few steps.
"""
import contextlib
import io
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import turns  # noqa: F401  finds the modules below
from bench_step import InMXNet

# isort: split
import export_onnx
import import_pretrained
import make_demo

import train_multilabel
from common.cli import ArgumentParser, InputError, run
from common.mx_compat import mx
from network import checkpoint
from training.compute import Compute
from training.faster_graph import faster_training

BATCH = 8
STEPS = 3


def quietly(main, *args):
    """Run a command in this process; what it prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        main([str(part) for part in args])
    return text.getvalue()


def images_per_second(prefix, epoch):
    """Images per second in training a fine-tuned checkpoint."""
    net, arg_params, aux_params = checkpoint.load(prefix, epoch)
    shape = checkpoint.get_attributes(net)["image_shape"]
    classes = net.infer_shape(data=(BATCH, *shape))[1][0][1]
    data = mx.io.DataDesc("data", (BATCH, *shape), np.uint8)
    label = mx.io.DataDesc("softmax_label", (BATCH, classes))
    pixels = np.random.RandomState(0).randint(0, 256, (BATCH, *shape))
    batch = mx.io.DataBatch([mx.nd.array(pixels, dtype="uint8")], [mx.nd.zeros((BATCH, classes))],
                            provide_data=[data], provide_label=[label])
    faster = faster_training(net, data, label, Compute([mx.cpu()], "local"))
    network = InMXNet(faster, batch, (arg_params, aux_params))
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        network.step(batch)
        seconds.append(time.perf_counter() - start)
    return BATCH / min(seconds)


def row(file, data, folder, train):
    """Cells of the table for one file."""
    prefix, result = f"{folder}/pretrained", f"{folder}/result"
    try:
        said = quietly(import_pretrained.main, "--onnx", file, "--prefix", prefix)
    except InputError as error:
        return [f"no: {error}"]
    cells = [re.search(r"onnxruntime's by (\S+)", said)[1]]
    if not train:
        return cells
    shape = checkpoint.get_attributes(mx.sym.load(f"{prefix}-symbol.json"))["image_shape"]
    quietly(train_multilabel.main, "--model", prefix, "--epoch", 0,
            "--data-train", data / "train.lst", "--image-train", data / "images",
            "--data-val", data / "val.lst", "--image-val", data / "images", "--squash",
            "--image-shape", ",".join(map(str, shape)), "--batch-size", 8, "--num-epoch", 1,
            "--lr", "0.001", "--gpus", "", "--save-result", result, "--save-name", "net")
    cells.append("yes")
    try:
        said = quietly(export_onnx.main, "--model", f"{result}/net-best", "--epoch", 0,
                       "--out", f"{folder}/again.onnx", "--deploy", f"{folder}/deploy")
        cells.append("yes")
    except InputError as error:
        cells.append(f"no: {error}")
    return [*cells, f"{images_per_second(f'{result}/net-best', 0):.1f}"]


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--import-only", action="store_true", help="do not train or export")
    args = parser.parse_args(argv)
    print("| file | difference of logits | trains | exports again | images/s, training |")
    print("|---|--:|---|---|--:|")
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        quietly(make_demo.main, "--out", data, "--num-train", 16, "--num-val", 8)
        for number, file in enumerate(args.files):
            folder = Path(temporary, str(number))
            cells = row(file, data, folder, not args.import_only)
            name = os.path.basename(file)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run(main)
