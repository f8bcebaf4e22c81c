"""The network that training computes gives what the network as it is gives."""
import json
import platform
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from common.mx_compat import mx
from training import faster_graph
from training.compute import Compute
from training.faster_graph import FUSED, faster_training
from training.module import FineTuningModule

# Elsewhere training keeps the network as it is.
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="for x86-64 only")
ALONE = Compute([mx.cpu()], "local")


def convolution(data, name, filters=32, kernel=(1, 1), **options):
    options = {"pad": tuple(side // 2 for side in kernel), **options}
    return mx.sym.Convolution(data, name=name, num_filter=filters, kernel=kernel, **options)


def layer(data, name, act, norm=None, **options):
    """Convolution, BatchNorm and an activation."""
    data = convolution(data, f"{name}_conv", **options)
    data = mx.sym.BatchNorm(data, name=f"{name}_norm", **{"fix_gamma": False, **(norm or {})})
    return act(data, f"{name}_act")


def clip(data, name, least=0, most=6):
    return mx.sym.clip(data, least, most, name=name)


def relu(data, name):
    return mx.sym.Activation(data, act_type="relu", name=name)


def network(data):
    """The data, with something to train before it and a loss behind it."""
    data = mx.sym.Flatten(mx.sym.Pooling(data, global_pool=True, pool_type="avg", kernel=(1, 1)))
    data = mx.sym.FullyConnected(data, num_hidden=3, name="fc")
    return mx.sym.LogisticRegressionOutput(data, name="softmax")


def depthwise(kernel, filters=32, **options):
    return {"filters": filters, "num_group": filters, "kernel": kernel, **options}


def multiplied(gate):
    """An activation: what it is given, times a function of it."""
    return lambda data, name: mx.sym.elemwise_mul(data, gate(data), name=name)


def squeeze_and_excitation(data, name):
    data = SILU(data, name)
    gate = mx.sym.Pooling(data, global_pool=True, pool_type="avg", kernel=(1, 1))
    gate = mx.sym.sigmoid(convolution(gate, f"{name}_gate", data.infer_shape(
        data=(4, 3, 23, 18))[1][0][1]))
    return data * mx.sym.broadcast_like(gate, data, lhs_axes=(2, 3), rhs_axes=(2, 3))


SILU = multiplied(lambda data: mx.sym.Activation(data, act_type="sigmoid"))
HARD_SWISH = multiplied(lambda data: mx.sym.hard_sigmoid(data, alpha=1 / 6, beta=0.5))
DATA = mx.sym.Variable("data")
STEM = layer(DATA, "stem", clip, filters=32, kernel=(3, 3))
SHARED = mx.sym.Variable("shared_weight")
NARROW = layer(DATA, "stem", relu, filters=24, kernel=(3, 3))
NETWORKS = {
    "clip": STEM,
    "clip to 1": layer(STEM, "one", lambda data, name: clip(data, name, 0, 1)),
    "clip of a convolution": clip(convolution(STEM, "convolution"), "act"),
    "relu": layer(STEM, "relu", relu, filters=48),
    "relu, the operator": layer(STEM, "relu", lambda data, name: mx.sym.relu(data, name=name)),
    "relu of a BatchNorm without gamma": layer(STEM, "relu", relu, {"fix_gamma": True}),
    "stored statistics": layer(STEM, "stored", clip, {"use_global_stats": True}),
    "channels that fill no blocks": layer(layer(NARROW, "wide", clip, filters=40), "x", clip),
    "from 24 to 32 and back": layer(layer(NARROW, "wide", clip), "narrow", relu, filters=24),
    "depthwise 5x5": layer(STEM, "five", clip, **depthwise((5, 5))),
    "depthwise 5x5, stride 2": layer(STEM, "five", clip, **depthwise((5, 5), stride=(2, 2))),
    "depthwise 7x7": layer(STEM, "seven", relu, **depthwise((7, 7))),
    "depthwise 7x7, stride 2": layer(STEM, "seven", relu, **depthwise((7, 7), stride=(2, 2))),
    "depthwise 3x5": layer(STEM, "three", clip, **depthwise((3, 5))),
    "depthwise without bias": layer(STEM, "five", clip, **depthwise((5, 5), no_bias=True)),
    "computed weights": layer(STEM, "sum", clip, weight=mx.sym.Variable("half_weight") * 2),
    "one weight in two layers": layer(
        layer(STEM, "one", clip, weight=SHARED, **depthwise((5, 5))), "two", clip, weight=SHARED,
        **depthwise((5, 5))),
    "SiLU": layer(STEM, "silu", SILU),
    "SiLU of a convolution": SILU(convolution(STEM, "wide", **depthwise((5, 5))), "silu"),
    "hard-swish": layer(STEM, "swish", HARD_SWISH),
    "hard-swish as written out": layer(
        STEM, "swish", multiplied(lambda data: mx.sym.clip(data + 3, 0, 6) / 6)),
    "squeeze and excitation": layer(STEM, "gated", squeeze_and_excitation),
    "mean of class maps": convolution(STEM, "maps", filters=5),
    "several of one size": layer(layer(STEM, "one", clip, **depthwise((5, 5))), "two", clip,
                                 **depthwise((5, 5))),
}


def step(symbol, shape=(4, 3, 23, 18)):
    """Output, gradients and auxiliary states after a step in training, and an output after it."""
    module = FineTuningModule(symbol)
    module.bind([("data", shape)], [("softmax_label", (shape[0], 3))], inputs_need_grad=True)
    random = np.random.RandomState(3)
    shapes = dict(zip(symbol.list_arguments(), symbol.infer_shape(data=shape)[0]))
    params = {name: mx.nd.array(random.normal(name.endswith("gamma"), 0.3, shapes[name]))
              for name in sorted(shapes)
              if name not in ("data", "softmax_label") and not faster_graph.is_constant(name)}
    module.init_params(mx.init.Zero(), arg_params=params, allow_missing=True)
    batch = mx.io.DataBatch([mx.nd.array(random.normal(size=shape))],
                            [mx.nd.array(random.randint(2, size=(shape[0], 3)))])
    module.forward_backward(batch)
    output = module.get_outputs()[0].asnumpy()
    gradients = {name: value.asnumpy() for name, value
                 in module._exec_group.execs[0].grad_dict.items() if value is not None}
    _, aux = module.get_params()
    module.forward(batch, is_train=False)
    return {"output": output, "after": module.get_outputs()[0].asnumpy(), **gradients,
            **{name: value.asnumpy() for name, value in aux.items()}}


def rewritten(symbol, devices=ALONE):
    return faster_training(symbol, mx.io.DataDesc("data", (4, 3, 23, 18)),
                           mx.io.DataDesc("softmax_label", (4, 3)), devices)


@pytest.mark.parametrize("name", NETWORKS)
def test_gives_the_same_output_gradients_and_statistics(name):
    symbol = network(NETWORKS[name])
    faster = rewritten(symbol)
    assert (faster is symbol) == (platform.machine() != "x86_64")
    before, after = step(symbol), step(faster)
    assert before.keys() == after.keys()
    for key, values in before.items():
        scale = max(np.abs(values).max(), 0.1)
        np.testing.assert_allclose(after[key], values, atol=1e-4 * scale, rtol=0, err_msg=key)


def operators(symbol):
    return Counter(node["op"] for node in json.loads(symbol.tojson())["nodes"])


@on_x86
@pytest.mark.parametrize(("name", "fused"), [
    ("clip", 2), ("clip of a convolution", 4), ("relu", 3), ("stored statistics", 4),
    ("channels that fill no blocks", 5)])
def test_batch_norm_and_activation_are_one_operator(name, fused):
    counts = operators(rewritten(network(convolution(NETWORKS[name], "last"))))
    assert [counts[op] for op in (FUSED, "BatchNorm", "clip", "Activation")] == [fused, 0, 0, 0]


@on_x86
@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("depthwise")])
def test_no_wide_depthwise_kernel_needs_a_gradient(name):
    nodes = json.loads(rewritten(network(NETWORKS[name])).tojson())["nodes"]
    weights = [nodes[node["inputs"][1][0]] for node in nodes if node["op"] == "Convolution"
               and not node["attrs"]["kernel"].endswith(", 3)")]
    assert weights
    assert all(weight["op"] == "BlockGrad" or faster_graph.is_constant(weight["name"])
               for weight in weights)


@on_x86
@pytest.mark.parametrize(("name", "op"), [
    ("SiLU", "Activation"), ("SiLU of a convolution", "Activation"),
    ("hard-swish", "hard_sigmoid"), ("hard-swish as written out", "_plus_scalar")])
def test_what_is_multiplied_by_its_function_is_in_the_plain_layout(name, op):
    nodes = json.loads(rewritten(network(NETWORKS[name])).tojson())["nodes"]
    product = next(node for node in nodes if node["op"] == "elemwise_mul")
    gate = next(node for node in nodes if node["op"] == op)
    assert product["inputs"][0] == gate["inputs"][0]
    assert nodes[product["inputs"][0][0]]["op"] == "Reshape"


@on_x86
@pytest.mark.parametrize(("name", "pooled"), [
    ("squeeze and excitation", 1), ("mean of class maps", 0), ("SiLU", 1)])
def test_no_mean_that_is_slow_is_left(name, pooled):
    assert operators(rewritten(network(NETWORKS[name])))["Pooling"] == pooled


def two_users(data):
    norm = mx.sym.BatchNorm(convolution(data, "conv"), fix_gamma=False, name="norm")
    return clip(norm, "act") + norm


@pytest.mark.parametrize("data", [
    two_users(DATA), clip(DATA, "act"),
    layer(DATA, "below", lambda data, name: clip(data, name, -1, 6)),
    layer(DATA, "large", lambda data, name: clip(data, name, 0, 1e4)),
    layer(DATA, "free", lambda data, name: clip(data, name, 0, np.inf)),
    layer(DATA, "fixed", clip, {"fix_gamma": True}),
    layer(DATA, "tanh", lambda data, name: mx.sym.Activation(data, act_type="tanh", name=name)),
    convolution(convolution(DATA, "wide"), "dilated", kernel=(5, 5), num_group=32, dilate=(2, 2)),
    convolution(convolution(DATA, "wide"), "cut", kernel=(5, 5), num_group=32, pad=(0, 0)),
    convolution(convolution(DATA, "wide"), "grouped", kernel=(5, 5), num_group=16),
    convolution(mx.sym.mean(DATA, axis=1, keepdims=True), "grey", kernel=(5, 5))],
    ids=["BatchNorm used twice", "clip of images", "clip below 0", "clip to 1e4",
         "clip to infinity", "no gamma", "tanh", "dilated", "no padding", "groups of two",
         "grey images"])
def test_other_layers_stay_as_they_are(data):
    symbol = network(data)
    assert operators(rewritten(symbol)) == operators(symbol)


def test_gpus_train_the_network_as_it_is():
    symbol = network(STEM)
    assert rewritten(symbol, ALONE._replace(contexts=[mx.gpu(0)])) is symbol


def test_where_mxnet_cannot_compute_it_the_network_stays(monkeypatch):
    # On processors with AVX-512 this cannot be computed without plain gradients.
    monkeypatch.setattr(faster_graph._Rewriting, "_fills_blocks", lambda *_: True)
    symbol = network(NETWORKS["from 24 to 32 and back"])
    assert step(rewritten(symbol))["output"] == pytest.approx(step(symbol)["output"], abs=1e-4)
    monkeypatch.setattr(faster_graph, "FUSED", "BatchNorm_v0")
    assert rewritten(symbol) is symbol


@on_x86
def test_all_workers_train_the_same_network():
    symbol = network(STEM)
    for able, expected in ((2, "another"), (1, "the same")):
        workers = SimpleNamespace(count=2, sum=lambda _, able=able: [able])
        found = rewritten(symbol, ALONE._replace(workers=workers))
        assert ("the same" if found is symbol else "another") == expected
