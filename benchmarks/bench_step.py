"""Time of a training step: of a network as it is, as training computes it, and in PyTorch.

    python benchmarks/bench_step.py --model pretrained/efficientnet_lite0
    python tools/import_pretrained.py resnet50_v1 --gluon --random --prefix pretrained/resnet50_v1
    python benchmarks/bench_step.py --model pretrained/resnet50_v1

A step is forward, backward and update of every layer for one batch of drawn images, on all cores.
The sides take turns of some steps; the figures are the medians without the first step of a turn.
PyTorch, if it is installed, computes the same network from the same parameters in its faster
layout, channels last. The last column compares the parameters after all steps with those of the
network as it is: the norm of the difference as a part of the norm, for all parameters together. The
row "rounding" is the network as it is, begun with parameters changed in their last bit.
"""
import tempfile
import time

import numpy as np
import turns  # noqa: F401  finds the modules below

try:
    import torch  # before MXNet's settings of OpenMP
except ImportError:
    torch = None

import make_demo

from common.cli import ArgumentParser, InputError, parse_numbers, run
from common.mx_compat import mx
from common.processors import physical_cores
from lst_iter import LstIter
from network import checkpoint
from network.fine_tune import frozen_parameters, get_fine_tune_model, training_symbol
from network.graph import Graph
from training.compute import Compute
from training.faster_graph import faster_training
from training.module import FineTuningModule
from training.optimizer import INITIALIZER

SGD = {"learning_rate": 0.001, "momentum": 0.9, "wd": 0}


class InMXNet:
    """A network that a Module trains on batches that are described as by an iterator."""

    def __init__(self, symbol, batches, params):
        self._module = FineTuningModule(symbol, fixed_param_names=[*checkpoint.NORMALISATION])
        self._module.bind(batches.provide_data, batches.provide_label)
        self._module.init_params(INITIALIZER, *params, allow_missing=True, allow_extra=True)
        self._module.init_optimizer(optimizer_params=SGD)

    def step(self, batch):
        self._module.forward_backward(batch)
        self._module.update()
        mx.nd.waitall()

    def params(self):
        return {name: value.asnumpy() for name, value in self._module.get_params()[0].items()}


class InTorch:
    """The same network, which PyTorch computes node by node."""

    def __init__(self, symbol, params):
        self._nodes = Graph(symbol).nodes
        arg_params, aux_params = ({name: torch.tensor(value.asnumpy()) for name, value
                                   in part.items()} for part in params)
        self._params = {**arg_params, **aux_params}
        for name, value in arg_params.items():
            if value.dim() == 4 and name not in checkpoint.NORMALISATION:
                self._params[name] = value.contiguous(memory_format=torch.channels_last)
        self._trained = {name: self._params[name].requires_grad_() for name in arg_params
                         if name not in checkpoint.NORMALISATION}
        self._optimizer = torch.optim.SGD(self._trained.values(), SGD["learning_rate"],
                                          SGD["momentum"])

    def step(self, batch):
        data, label = (torch.from_numpy(part[0].asnumpy()) for part in (batch.data, batch.label))
        values = {}
        for node in self._nodes:
            inputs = [values[source] for source, *_ in node.inputs]
            if node.op == "Custom":  # CrossEntropyLoss
                prob = inputs[0]
                break
            values[node] = (self._compute(node, inputs) if not node.is_variable else
                            {**self._params, "data": data}.get(node.name))
        loss = torch.nn.functional.binary_cross_entropy(prob, label, reduction="sum")
        self._optimizer.zero_grad()
        (loss / len(data)).backward()
        self._optimizer.step()

    def params(self):
        return {name: value.detach().numpy() for name, value in self._trained.items()}

    @staticmethod
    def _compute(node, inputs):
        functional, attrs = torch.nn.functional, node.attrs
        first, *rest = inputs

        def numbers(key):
            return tuple(node.integers(key))

        if node.op == "Convolution":
            bias = rest[1] if len(rest) > 1 else None
            return functional.conv2d(first, rest[0], bias, numbers("stride") or 1,
                                     numbers("pad") or 0, numbers("dilate") or 1,
                                     int(attrs.get("num_group", 1)))
        if node.op == "BatchNorm":
            gamma, beta, mean, variance = rest
            if node.flag("fix_gamma", "True"):
                gamma = torch.ones_like(gamma)
            return functional.batch_norm(first, mean, variance, gamma, beta, True,
                                         1 - float(attrs.get("momentum", 0.9)),
                                         float(attrs.get("eps", 1e-3)))
        if node.op == "Pooling":
            if node.flag("global_pool"):
                pool = (functional.adaptive_max_pool2d if attrs.get("pool_type") == "max"
                        else functional.adaptive_avg_pool2d)
                return pool(first, 1)
            assert attrs["pool_type"] == "max", node
            return functional.max_pool2d(first, numbers("kernel"), numbers("stride"),
                                         numbers("pad") or 0)
        if node.op == "slice":  # of the normalised pixels
            steps = numbers("step")
            turned = [axis for axis, step in enumerate(steps or (1,) * 4) if step == -1]
            return first.flip(turned)
        simple = {
            "Cast": lambda: first.float().contiguous(memory_format=torch.channels_last),
            "BlockGrad": lambda: first, "broadcast_sub": lambda: first - rest[0],
            "broadcast_div": lambda: first / rest[0], "relu": lambda: functional.relu_(first),
            "Activation": lambda: functional.relu_(first), "sigmoid": lambda: torch.sigmoid(first),
            "clip": lambda: functional.hardtanh(first, float(attrs["a_min"]),
                                                float(attrs["a_max"]), inplace=True),
            "elemwise_add": lambda: first + rest[0], "_plus": lambda: first + rest[0],
            "Flatten": lambda: first.flatten(1),
            "FullyConnected": lambda: functional.linear(first, *rest)}
        assert attrs.get("act_type", "relu") == "relu", node
        return simple[node.op]()


def change_last_bit(params):
    """The same parameters, each changed by a rounding error."""
    random = np.random.RandomState(0)
    return {name: mx.nd.array(value.asnumpy() * (
        1 + 1.2e-7 * random.choice([-1, 1], value.shape))) for name, value in params.items()}


def drawn_batch(folder, shape, batch_size):
    """An iterator over a single batch of the demo's images."""
    make_demo.main(["--out", folder, "--num-train", str(batch_size), "--num-val", "1"])
    return LstIter(batch_size, shape, f"{folder}/train.lst", f"{folder}/images", shuffle=False)


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
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args(argv)
    if args.steps < 4:
        raise InputError(f"--steps {args.steps}: two turns of two steps are the least")
    shape = parse_numbers("--image-shape", args.image_shape, int, 3)
    with tempfile.TemporaryDirectory() as folder:
        batches = drawn_batch(folder, shape, args.batch_size)
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
    results = {"rounding": rounded.params()}
    del rounded  # and its memory, which the other sides take

    faster = faster_training(symbol, batches.provide_data[0], batches.provide_label[0],
                             Compute([mx.cpu()], "local"))
    sides = {"the network as it is": module,
             "as training computes it": InMXNet(faster, batches, (arg_params, aux_params))}
    if torch:
        torch.set_num_threads(physical_cores())
        sides[f"PyTorch {torch.__version__}"] = InTorch(symbol, (arg_params, aux_params))
    seconds = {name: [] for name in sides}
    for _ in range(2):
        for name, side in sides.items():
            for step in range(args.steps // 2):
                began = time.perf_counter()
                side.step(batch)
                if step:  # the first finds the memory of another side
                    seconds[name].append(time.perf_counter() - began)
    results.update((name, side.params()) for name, side in sides.items())

    print(f"{args.model}: {args.batch_size} images of {shape[2]}x{shape[1]} pixels, "
          f"{physical_cores()} cores, {args.steps} steps")
    print("| | s per step | images/s | ratio | difference |")
    print("|---|--:|--:|--:|--:|")
    own = results["the network as it is"]
    medians = {name: np.median(values) for name, values in seconds.items()}
    for name, params in results.items():
        cells = ["", "", ""]
        if name in medians:
            cells = [f"{medians[name]:.2f}", f"{args.batch_size / medians[name]:.1f}",
                     f"{medians['the network as it is'] / medians[name]:.2f}"]
        print(f"| {name} | {' | '.join(cells)} | {difference(params, own):.0e} |")


if __name__ == "__main__":
    run(main)
