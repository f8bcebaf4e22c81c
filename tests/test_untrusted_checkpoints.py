"""Checkpoints from strangers: nothing in their files crashes, hangs or floods the commands."""
import json
import struct

import cv2
import export_onnx
import numpy as np
import pytest
from conftest import ROOT, Forked

import predict_multilabel
import train_multilabel
from common.cli import InputError
from common.mx_compat import mx
from evaluation.classifier import Classifier
from network import checkpoint
from network.fine_tune import get_fine_tune_model
from network.untrusted import check_params, read_attributes


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Folder of a small fine-tuned checkpoint of many operators, `valid`, and of an image."""
    folder = tmp_path_factory.mktemp("checkpoints")
    net, constants = checkpoint.normalised_data((127,) * 3, (128,) * 3)
    net = mx.sym.Convolution(net, num_filter=8, kernel=(3, 3), stride=(2, 2), pad=(1, 1),
                             no_bias=True, name="conv")
    net = mx.sym.BatchNorm(net, fix_gamma=False, name="bn")
    net = mx.sym.Activation(net, act_type="relu", name="relu")
    left, right = mx.sym.SliceChannel(net, num_outputs=2, name="split")
    left = mx.sym.Convolution(left, num_filter=8, num_group=4, kernel=(3, 3), dilate=(2, 2),
                              pad=(2, 2), name="grouped")
    left = mx.sym.LeakyReLU(left, act_type="leaky", name="leaky")
    right = mx.sym.Pad(right, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1), name="padded")
    right = mx.sym.Pooling(right, kernel=(3, 3), pool_type="max", name="max")
    net = mx.sym.Concat(left, right, dim=1, name="joined")
    net = mx.sym.clip(net + 0.5 * mx.sym.Dropout(net, p=0.2), 0, 6)
    up = mx.sym.Deconvolution(net, num_filter=4, kernel=(2, 2), stride=(2, 2), name="up")
    up = mx.sym.slice(mx.sym.LRN(up, nsize=3), begin=(None,) * 4, end=(None,) * 4,
                      step=(1, 1, 2, -2))
    net = mx.sym.Concat(net, up, dim=1, name="both")
    net = mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool")
    net = mx.sym.Reshape(mx.sym.Flatten(net), shape=(-1, 4, 4))
    net = mx.sym.LayerNorm(net, name="ln")
    net = mx.sym.broadcast_mul(net, mx.sym.softmax(mx.sym.mean(net, axis=2, keepdims=True),
                                                   axis=1))
    net = mx.sym.FullyConnected(mx.sym.Flatten(net, name="features"), num_hidden=5, name="fc1")
    says = {"image_shape": [3, 32, 32], "class_names": ["a", "b", "c"], "fit": "squash",
            "resize": 40, "thresholds": [0.5, 0.2, 0.7], "thresholds_epoch": 2}
    net, _ = get_fine_tune_model(checkpoint.set_attributes(net, **says), {}, 3)
    net = checkpoint.set_attributes(net, **says)
    rng = np.random.RandomState(1)
    shapes, _, aux_shapes = net.infer_shape(data=(1, 3, 32, 32))
    arg_params = {name: mx.nd.array(rng.normal(0, 0.06, shape))
                  for name, shape in zip(net.list_arguments(), shapes)
                  if name not in ("data", "softmax_label")}
    aux_params = {name: mx.nd.array(rng.uniform(0.5, 1, shape))
                  for name, shape in zip(net.list_auxiliary_states(), aux_shapes)}
    checkpoint.save(str(folder / "valid"), 2, net, {**arg_params, **constants}, aux_params)
    cv2.imwrite(str(folder / "image.png"), rng.randint(0, 256, (40, 50, 3)).astype(np.uint8))
    return folder


@pytest.fixture
def changed(valid, tmp_path):
    """A function that writes the checkpoint with a changed graph, and gives its prefix."""
    def changed(change, params=lambda data: data):
        graph = json.loads((valid / "valid-symbol.json").read_text())
        nodes = {node["name"]: node for node in graph["nodes"]}
        change(graph, nodes)
        (tmp_path / "net-symbol.json").write_text(json.dumps(graph))
        (tmp_path / "net-0002.params").write_bytes(
            params((valid / "valid-0002.params").read_bytes()))
        return str(tmp_path / "net")
    return changed


def attrs(**values):
    """A change of attributes, by the names of their nodes."""
    def change(graph, nodes):
        for name, more in values.items():
            nodes[name].setdefault("attrs", {}).update(more)
    return change


def operator(op, **attributes):
    """A change of the layer `relu` into another operator."""
    return lambda graph, nodes: nodes["relu"].update(op=op, attrs=attributes)


def condition(graph, nodes):
    values = nodes["leaky"]["inputs"]
    nodes["leaky"].update(op="where", attrs={}, inputs=[*nodes["grouped"]["inputs"][:1],
                                                        *values, *values])


def cycle(graph, nodes):
    nodes["conv"]["inputs"][0] = [len(graph["nodes"]) - 1, 0, 0]


def long_chain(graph, nodes):
    last = graph["heads"][0][0]
    for number in range(20000):
        graph["nodes"].append({"op": "relu", "name": f"r{number}", "inputs": [[last, 0, 0]]})
        last = len(graph["nodes"]) - 1
    graph["heads"] = [[last, 0, 0]]


GRAPHS = {
    "a pointer": (operator("_Native", info="0x4141414141414141"), "operator _Native"),
    "another pointer": (operator("_NDArray", info="12345678"), "operator _NDArray"),
    "a foreign function": (operator("_CustomFunction"), "operator _CustomFunction"),
    "control flow": (operator("_foreach"), "operator _foreach"),
    "another custom operator": (operator("Custom", op_type="Proposal"), "has 1 inputs"),
    "no groups": (attrs(grouped={"num_group": "0"}), "num_group of node grouped is '0'"),
    "no stride": (attrs(max={"stride": "(0, 0)"}), "stride of node max"),
    "a negative kernel": (attrs(conv={"kernel": "(-3, 3)"}), "kernel of node conv"),
    "too few pads": (attrs(max={"pad": "(1,)"}), "another length than its kernel"),
    "no number": (attrs(conv={"num_filter": "many"}), "num_filter of node conv is 'many'"),
    "no filters": (operator("UpSampling", sample_type="bilinear", scale="1", num_args="1"),
                   "node relu has no num_filter"),
    "a condition of another shape": (condition, "the condition of leaky is (2, 4, 16, 16)"),
    "an axis": (attrs(softmax0={"axis": "-7"}), "no axis -7"),
    "an unknown attribute": (attrs(conv={"colour": "red"}), "colour"),
    "a future MXNet": (lambda graph, _: graph["attrs"].update(mxnet_version=["int", 99999999]),
                       "mxnet_version is"),
    "a cycle": (cycle, "output that is not there"),
    "an output too many": (lambda graph, nodes: nodes["conv"]["inputs"][0].__setitem__(1, 7),
                           "output that is not there"),
    "an input too few": (lambda graph, nodes: nodes["conv"]["inputs"].pop(), "has 1 inputs"),
    "two inputs of one name": (lambda graph, nodes: nodes["bn_gamma"].update(name="bn_beta"),
                               "the same name"),
    "nodes without end": (long_chain, "at most 10000 nodes"),
    "deep JSON": (lambda graph, _: graph["attrs"].update(deep=json.loads("[" * 900 + "]" * 900)),
                  None),
    "an image of 30,000 pixels": (attrs(data={"__rgb_image_shape__": "[3, 30000, 30000]"}),
                                  "the largest layer has 3.6e+09 values"),
    "a layer of gigabytes": (attrs(data={"__rgb_image_shape__": "[3, 8000, 8000]"}),
                             "the largest layer has"),
    "another size": (attrs(fc={"num_hidden": "4"}), "is it another network's"),
    "no input": (lambda graph, nodes: nodes["data"].update(name="pixels"), "pixels"),
}


@pytest.mark.parametrize("change, message", GRAPHS.values(), ids=GRAPHS)
def test_a_hostile_graph_is_refused_in_one_line(change, message, changed):
    prefix = changed(change)
    if message is None:
        assert Classifier(prefix, 2).class_names == ["a", "b", "c"]
        return
    with pytest.raises(InputError) as error:
        Classifier(prefix, 2)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert error.value.file.startswith(f"{prefix}-") and f"{prefix}-symbol.json" in str(error.value)


@pytest.mark.parametrize("op", ["GroupNorm", "InstanceNorm", "BatchNorm", "LayerNorm"])
@pytest.mark.parametrize("computed", [lambda layer: layer, mx.sym.abs], ids=["itself", "abs"])
def test_a_norm_whose_parameters_are_feature_maps_is_refused(op, computed, tmp_path):
    layer = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=8, kernel=(3, 3), name="conv")
    parameters = [computed(layer)] * 2
    options = {"num_groups": 4} if op == "GroupNorm" else {}
    norm = getattr(mx.sym, op)(layer, *parameters, name="norm", **options)
    symbol = checkpoint.set_attributes(mx.sym.Flatten(norm), image_shape=[3, 32, 32])
    arg_params = {"conv_weight": mx.nd.ones((8, 3, 3, 3)), "conv_bias": mx.nd.zeros(8)}
    aux_params = {name: mx.nd.ones(8) for name in symbol.list_auxiliary_states()}
    checkpoint.save(str(tmp_path / "net"), 0, symbol, arg_params, aux_params)
    with pytest.raises(InputError) as refused:
        checkpoint.load(str(tmp_path / "net"), 0)
    assert refused.value.file == f"{tmp_path}/net-symbol.json"


def test_a_norm_whose_parameters_are_computed_is_read(tmp_path):
    gamma, beta = (mx.sym.Variable(name, shape=(3,)) * 2 for name in ("gamma", "beta"))
    symbol = mx.sym.Flatten(mx.sym.InstanceNorm(mx.sym.Variable("data"), gamma, beta))
    symbol = checkpoint.set_attributes(symbol, image_shape=[3, 4, 4])
    checkpoint.save(str(tmp_path / "net"), 0, symbol,
                    {name: mx.nd.ones(3) for name in ("gamma", "beta")}, {})
    checkpoint.load(str(tmp_path / "net"), 0)


def test_a_slice_of_less_than_a_block_of_channels_is_computed(tmp_path):
    layer = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=16, kernel=(3, 3), no_bias=True,
                               name="conv")
    symbol = checkpoint.set_attributes(mx.sym.slice(
        layer, begin=(None, 4), end=(None, 7), name="part"), image_shape=[3, 32, 32])
    weight = mx.nd.array(np.random.RandomState(0).normal(size=(16, 3, 3, 3)))
    for epoch in range(2):  # loaded again, it is the same
        checkpoint.save(str(tmp_path / "net"), epoch, symbol, {"conv_weight": weight}, {})
        symbol, _, _ = checkpoint.load(str(tmp_path / "net"), epoch)
        assert [layer.name for layer in symbol.get_children()] == ["part_plain"]
    inputs = {"data": mx.nd.ones((2, 3, 32, 32)), "conv_weight": weight}
    some, every = (net.bind(mx.cpu(), inputs).forward()[0].asnumpy() for net in (symbol, layer))
    np.testing.assert_array_equal(some, every[:, 4:7])


def test_a_custom_operator_is_crossentropyloss_with_its_options(changed):
    Classifier(changed(attrs(softmax={"gamma_neg": "2"})), 2)
    for more in ({"op_type": "Other"}, {"self": "1"}, {"gamma_neg": "many"}, {"clip": "nan"}):
        with pytest.raises(InputError, match="node softmax"):
            Classifier(changed(attrs(softmax=more)), 2)


def test_each_command_refuses_it(changed, valid):
    prefix = changed(attrs(grouped={"num_group": "0"}))
    (valid / "few.lst").write_text("0\t1\t0\t1\timage.png\n")
    flags = ["--model", prefix, "--epoch", "2"]
    for command, more in (
            (train_multilabel, ["--data-train", str(valid / "few.lst"), "--image-train",
                                str(valid), "--num-classes", "3", "--save-result",
                                str(valid / "result"), "--gpus", ""]),
            (predict_multilabel, [str(valid / "image.png"), "--gpus", ""]),
            (export_onnx, ["--deploy", str(valid / "deployed")])):
        with pytest.raises(InputError, match="num_group of node grouped is '0'"):
            command.main([*flags, *more])


def test_what_mxnet_refuses_in_training_ends_in_one_line(changed, valid):
    def change(graph, nodes):
        # MXNet notices the attribute when it builds the backward pass, not before.
        nodes["leaky"].update(op="LogisticRegressionOutput", attrs={"label": "x"},
                              inputs=nodes["leaky"]["inputs"] * 2)

    prefix = changed(change)
    (valid / "few.lst").write_text("0\t1\t0\t1\timage.png\n")
    with pytest.raises(InputError, match="MXNet cannot train this network: .*"):
        train_multilabel.main([
            "--model", prefix, "--epoch", "2", "--data-train", str(valid / "few.lst"),
            "--image-train", str(valid), "--num-classes", "3", "--batch-size", "1", "--num-epoch",
            "1", "--save-result", str(valid / "trained"), "--gpus", ""])


@pytest.mark.parametrize("key", ["param", "attr"])
def test_the_keys_of_old_versions_are_read(key, changed, valid):
    def rename(graph, nodes):
        for node in graph["nodes"]:
            if "attrs" in node:
                node[key] = node.pop("attrs")
            node["backward_source_id"] = -1
    old = checkpoint.load(changed(rename), 2)[0]
    assert old.tojson() == checkpoint.load(str(valid / "valid"), 2)[0].tojson()


def test_an_attribute_may_have_the_name_of_anything(changed):
    names = dict.fromkeys(("op", "name", "inputs", "self"), "x")
    symbol = checkpoint.load(changed(attrs(data=names)), 2)[0]
    assert names.items() <= symbol.attr_dict()["data"].items()


def test_a_checked_symbol_is_the_one_that_mxnet_reads(valid):
    theirs = mx.sym.load(str(valid / "valid-symbol.json"))
    assert checkpoint.load(str(valid / "valid"), 2)[0].tojson() == theirs.tojson()


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def params_file(array, count=1, name=b"arg:w", names=1):
    """The bytes of a .params file of one array, given as bytes."""
    return (struct.pack("<QQQ", 0x112, 0, count) + array
            + struct.pack("<QQ", names, len(name)) + name)


def array_bytes(layout, shape=(2, 3), kind=0, device=(1, 0)):
    """An array in one of the three layouts that MXNet has written."""
    if layout == "0.10":
        head = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    else:
        head = struct.pack("<I", {"0.11": 0xF993FAC8, "1.0": 0xF993FAC9}[layout])
        head += struct.pack("<i", 0) if layout == "1.0" else b""
        head += struct.pack(f"<I{len(shape)}q", len(shape), *shape)
    return head + struct.pack("<iii", *device, kind) + VALUES.tobytes()


@pytest.mark.parametrize("layout", ["0.10", "0.11", "1.0"])
def test_a_parameter_file_of_each_layout_passes_as_mxnet_reads_it(layout, tmp_path):
    (tmp_path / "old.params").write_bytes(params_file(array_bytes(layout)))
    check_params(str(tmp_path / "old.params"))
    np.testing.assert_array_equal(mx.nd.load(str(tmp_path / "old.params"))["arg:w"].asnumpy(),
                                  VALUES)


def test_each_type_of_values_passes(tmp_path):
    path = str(tmp_path / "types.params")
    mx.nd.save(path, {kind: mx.nd.ones((2, 3), dtype=kind) for kind in (
        "float16", "float32", "float64", "uint8", "int8", "int32", "int64")})
    check_params(path)


PARAMS = {
    "another file": (b"PK\3\4" + bytes(100), "wrong magic number"),
    "an empty file": (b"", "ends too early"),
    "terabytes": (params_file(array_bytes("1.0", (1 << 20, 1 << 20))), "ends too early"),
    "an overflow": (params_file(array_bytes("1.0", (1 << 62, 4, 1 << 62))), "ends too early"),
    "no dimensions": (params_file(array_bytes("1.0", ())), "0 dimensions"),
    "dimensions without end": (params_file(struct.pack("<II", 0xF993FAC9, 0)
                                           + struct.pack("<I", 1 << 31)), "dimensions"),
    "a negative side": (params_file(array_bytes("1.0", (-2, -3))), "shape (-2, -3)"),
    "an unknown type": (params_file(array_bytes("1.0", kind=99)), "type 99"),
    "an unknown device": (params_file(array_bytes("1.0", device=(77, 0))), "device 77"),
    "sparse storage": (params_file(struct.pack("<Ii", 0xF993FAC9, 1) + bytes(50)), "sparse"),
    "arrays without end": (params_file(array_bytes("1.0"), count=1 << 60), "array 1"),
    "names without end": (params_file(array_bytes("1.0"), names=1 << 60), "does not name"),
    "a name of gigabytes": (params_file(array_bytes("1.0"))[:-13]
                            + struct.pack("<Q", 1 << 40) + b"arg:w", "a name has"),
    "a name that is no text": (params_file(array_bytes("1.0"), name=b"\xff\xfe"), "not UTF-8"),
    "a longer file": (params_file(array_bytes("1.0")) + b"more", "4 bytes follow"),
}


@pytest.mark.parametrize("data, message", PARAMS.values(), ids=PARAMS)
def test_a_hostile_parameter_file_is_refused_in_one_line(data, message, tmp_path):
    (tmp_path / "net.params").write_bytes(data)
    with pytest.raises(InputError) as error:
        check_params(str(tmp_path / "net.params"))
    assert error.value.file == str(tmp_path / "net.params") and message in str(error.value)


@pytest.mark.parametrize("name, text", [
    ("thresholds", "[0.5, NaN, 0.5]"), ("thresholds", '"0.5"'), ("thresholds", "[0.5, 0.2, true]"),
    ("thresholds", "[0.5, 0.2, 1e999]"), ("thresholds", "[0.5, 0.2"), ("thresholds", "{}"),
    ("thresholds_epoch", "-1"), ("thresholds_epoch", "1.5"), ("class_names", '["a", "b", 3]'),
    ("class_names", "[]"), ("class_names", '["a", "b", "\\ud800"]'), ("class_names", "null"),
    ("image_shape", "[3, 0, 32]"), ("image_shape", "[3, -1, 32]"), ("image_shape", "[1, 32, 32]"),
    ("image_shape", "[3, 32]"), ("image_shape", "[3, 32.0, 32]"), ("image_shape", "32"),
    ("fit", '"stretch"'), ("fit", '["crop"]'), ("resize", "-5"), ("resize", '"40"'),
    ("resize", "9" * 5000), ("background", "[1, 2]"), ("background", "[0, 0, 256]"),
    ("training", '["a"]'), ("training", '{"a": 1}'), ("full_decode", "1"),
    ("thresholds_list", '["a"]'), ("thresholds_list", '["a", 1]'),
    ("version", "1"), ("fit", "[" * 100000), ("colour", '"red"')],
    ids=lambda value: value[:30])
def test_an_attribute_that_cannot_be_is_an_error_that_names_file_and_attribute(name, text):
    with pytest.raises(InputError, match=f"attribute '?{name}") as error:
        read_attributes({f"__rgb_{name}__": text}, "net-symbol.json")
    assert error.value.file == "net-symbol.json"


def test_an_attribute_is_checked_when_a_checkpoint_is_loaded(changed):
    with pytest.raises(InputError, match="net-symbol.json: attribute thresholds: its JSON"):
        checkpoint.load(changed(attrs(data={"__rgb_thresholds__": "[0.9, 0.9, 0.9"})), 2)
    with pytest.raises(InputError, match="2 class_names, but the network has 3 classes"):
        Classifier(changed(attrs(data={"__rgb_class_names__": '["a", "b"]'})), 2)


def test_an_attribute_that_could_not_be_read_is_not_written():
    with pytest.raises(InputError, match="attribute fit is 'stretch'; expected is crop"):
        checkpoint.set_attributes(mx.sym.Variable("data"), fit="stretch")


def crashes(kind, folder, first, last, log):
    """Inputs that ended the child process, each with its reason."""
    found = []
    program = log.with_name("child.py")
    program.write_text(
        f"import sys; sys.path[:0] = {[str(ROOT / part) for part in ('', 'tools', 'tests')]}\n"
        "from untrusted_child import main\nmain(*sys.argv[1:])\n")
    while first < last:
        done = Forked(program, kind, folder, first, last, log)
        done.wait()
        *_, line = log.read_text().splitlines() or [""]
        if done.returncode == 0 and line == "done":
            break
        number = int(line.split()[0])
        found.append((number, done.returncode, done.err[-500:]))
        first = number + 1
    return found


@pytest.mark.parametrize("kind, count", [
    ("symbol", 40), ("params", 30), ("attributes", 30), ("layers", 30),
    pytest.param("symbol", 2000, marks=pytest.mark.slow),
    pytest.param("params", 500, marks=pytest.mark.slow),
    pytest.param("attributes", 200, marks=pytest.mark.slow),
    pytest.param("layers", 4000, marks=pytest.mark.slow)])
def test_untrusted_checkpoints_are_computed_or_refused(kind, count, valid, tmp_path):
    assert crashes(kind, valid, 0, count, tmp_path / "log") == []
    text = (tmp_path / "log").read_text()
    assert text.count(" begins\n") == count and text.count(" is refused: ") > count / 2
    assert kind == "attributes" or " is computed\n" in text
