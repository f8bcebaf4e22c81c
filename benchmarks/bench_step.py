"""Time of a training step: of a network as it is, and as training computes it.

    python benchmarks/bench_step.py --model pretrained/efficientnet_lite0
    python tools/import_pretrained.py resnet50_v1 --gluon --random --prefix pretrained/resnet50_v1
    python benchmarks/bench_step.py --model pretrained/resnet50_v1

A step is forward, backward and update of every layer for one batch of made photos, on all cores.
The sides take turns of some steps; the figures are the medians without the first step of a turn.
The last column compares the parameters after all steps with those of the network as it is: the norm
of the difference as a part of the norm, for all parameters together. The row "rounding" is the
network as it is, begun with parameters changed in their last bit.
"""
import tempfile
import time

import numpy as np
from turns import make_photos

from common.cli import ArgumentParser, at_least, parse_image_shape, run
from common.machine import physical_cores
from common.mx_compat import mx
from lst_iter import LstIter
from network import checkpoint
from network.fine_tune import frozen_parameters, get_fine_tune_model, training_symbol
from training.compute import Compute
from training.faster_graph import faster_training
from training.module import INITIALIZER, FineTuningModule

SGD = {"learning_rate": 0.001, "momentum": 0.9, "wd": 0}


class InMXNet(FineTuningModule):
    """A Module that trains a network on batches that are described as by an iterator."""

    def __init__(self, symbol, batches, params):
        super().__init__(symbol, fixed_param_names=[*checkpoint.NORMALISATION])
        self.bind(batches.provide_data, batches.provide_label)
        self.init_params(INITIALIZER, *params, allow_missing=True, allow_extra=True)
        self.init_optimizer(optimizer_params=SGD)

    def step(self, batch):
        self.forward_backward(batch)
        self.update()
        mx.nd.waitall()

    def params(self):
        return {name: value.asnumpy() for name, value in self.get_params()[0].items()}


def change_last_bit(params):
    """The same parameters, each changed by a rounding error."""
    random = np.random.RandomState(0)
    return {name: mx.nd.array(value.asnumpy() * (
        1 + 1.2e-7 * random.choice([-1, 1], value.shape))) for name, value in params.items()}


def difference(params, others):
    """Norm of the difference of all parameters together, as a part of that of `others`."""
    names = sorted({*others} - {*checkpoint.NORMALISATION})
    one, other = (np.concatenate([part[name].ravel() for name in names]).astype(float)
                  for part in (params, others))
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PREFIX")
    parser.add_argument("--epoch", type=int, default=0)
    parser.add_argument("--image-shape", default="3,224,224", metavar="3,H,W")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=at_least(4), default=10)
    args = parser.parse_args(argv)
    shape = parse_image_shape(args.image_shape)
    with tempfile.TemporaryDirectory() as folder:
        batches = LstIter(args.batch_size, shape, make_photos(folder, args.batch_size), folder)
        batch = next(batches)
    symbol, arg_params, aux_params = checkpoint.load(args.model, args.epoch)
    symbol, arg_params = get_fine_tune_model(symbol, arg_params, batches.num_classes)
    symbol = training_symbol(symbol, frozen_parameters(symbol, "none"), 1)
    aux_params = {name: aux_params[name] for name in symbol.list_auxiliary_states()}

    mx.random.seed(0)
    module = InMXNet(symbol, batches, (arg_params, aux_params))
    arg_params = {name: mx.nd.array(value) for name, value in module.params().items()}
    rounded = InMXNet(symbol, batches, (change_last_bit(arg_params), aux_params))
    for _ in range(args.steps // 2 * 2):
        rounded.step(batch)
    rounded = rounded.params()  # frees the memory that the other sides take

    faster = faster_training(symbol, batches.provide_data[0], batches.provide_label[0],
                             Compute([mx.cpu()], "local"))
    sides = {"the network as it is": module,
             "as training computes it": InMXNet(faster, batches, (arg_params, aux_params))}
    seconds = {name: [] for name in sides}
    for _ in range(2):
        for name, side in sides.items():
            for step in range(args.steps // 2):
                began = time.perf_counter()
                side.step(batch)
                if step:  # the first finds the memory of another side
                    seconds[name].append(time.perf_counter() - began)

    print(f"{args.model}: {args.batch_size} images of {shape[2]}x{shape[1]} pixels, "
          f"{physical_cores()} cores, {args.steps} steps")
    print("| | s per step | images/s | ratio | difference |")
    print("|---|--:|--:|--:|--:|")
    own, first = module.params(), np.median(seconds["the network as it is"])
    print(f"| rounding | | | | {difference(rounded, own):.0e} |")
    for name, side in sides.items():
        median = np.median(seconds[name])
        print(f"| {name} | {median:.2f} | {args.batch_size / median:.1f} | {first / median:.2f} | "
              f"{difference(side.params(), own):.0e} |")


if __name__ == "__main__":
    run(main)
