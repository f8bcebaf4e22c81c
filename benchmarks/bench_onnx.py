"""How fast onnxruntime predicts on the CPU, against MXNet, from the same checkpoint.

    python benchmarks/bench_onnx.py --model result/multilabel-best
    python benchmarks/bench_onnx.py --model result/multilabel --epoch 4 --batch-size 64

The two take turns, so that whatever else the machine does meets both alike, from pixels in memory
to probabilities in memory; speeds and ratio are medians, the ratio over pairs of turns. Both run
with their own defaults: MXNet with its fused oneDNN operators, each with the threads it chooses.
"""
import statistics

import numpy as np
from turns import take_turns

from common.cli import ArgumentParser, InputError, run
from common.processors import processors
from convert.export import load_network, mxnet_predictor
from convert.onnx.exporter import onnx_predictor, to_onnx
from network import checkpoint
from network.fine_tune import without_loss

WARM_UP = 2  # turns that do not count


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PREFIX",
                        help="fine-tuned checkpoint, up to -symbol.json")
    parser.add_argument("--epoch", type=int, default=0, metavar="N",
                        help="the number in the .params file's name (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32], metavar="N",
                        help="images per batch (default: 1 8 32)")
    parser.add_argument("--turns", type=int, default=15, metavar="N",
                        help="turns of each (default: %(default)s)")
    args = parser.parse_args(argv)
    if min(*args.batch_size, args.turns) < 1:
        raise InputError("--batch-size and --turns are at least 1")

    sym, arg_params, aux_params = load_network(args.model, args.epoch)
    net = without_loss(sym)
    shape = checkpoint.get_attributes(net)["image_shape"]
    predict_mxnet = mxnet_predictor(net, arg_params, aux_params)
    predict_onnx = onnx_predictor(to_onnx(net, arg_params, aux_params).SerializeToString())
    print(f"{args.model}, images of {shape}, {processors()} cores, median of {args.turns} turns")
    for size in args.batch_size:
        pixels = np.random.RandomState(0).randint(0, 256, (size, *shape)).astype(np.uint8)
        seconds = take_turns({"MXNet": lambda pixels=pixels: predict_mxnet(pixels),
                              "onnxruntime": lambda pixels=pixels: predict_onnx(pixels)},
                             args.turns, WARM_UP)
        mxnet, onnx = seconds.values()
        ratio = statistics.median(m / o for m, o in zip(mxnet, onnx))
        print(f"batch {size:3}: MXNet {size / statistics.median(mxnet):7.1f} images/s, onnxruntime "
              f"{size / statistics.median(onnx):7.1f} images/s, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    run(main)
