"""tools/export_onnx.py: a fine-tuned checkpoint as ONNX and as plain MXNet."""
import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import export_onnx
import numpy as np
import pytest
from conftest import script
from import_pretrained import main as import_main

from common.cli import InputError
from common.mx_compat import mx
from convert import torch_networks
from convert.gluon_zoo import import_gluon
from network import checkpoint
from network.fine_tune import ATTENTION, find_feature_map, find_features
from network.forward_pass import in_float32
from network.graph import output_of
from reading.image_file import read_image
from reading.read_options import ReadOptions
from train_multilabel import get_fine_tune_model

CLASSES = ["boat", "car", "dog", "sea", "Bäume"]
SAYS = {"class_names": CLASSES, "image_shape": [3, 64, 64], "resize": 73, "fit": "crop",
        "thresholds": [0.5, 0.25, 0.5, 0.75, 0.5]}
SCRIPT = Path(export_onnx.__file__)

ROOT = SCRIPT.parents[1]
ONNXRUNTIME_EXAMPLE, MXNET_EXAMPLE = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.DOTALL)
# What someone without this package would write.
PLAIN_MXNET = """
import numpy
import mxnet_import  # crossentropy_op.py up to the operator
import mxnet as mx

pixels = numpy.load("pixels.npy")
net, arg_params, aux_params = mx.model.load_checkpoint("plain", 0)
module = mx.mod.Module(net, label_names=None)
module.bind([mx.io.DataDesc("data", pixels.shape, "uint8")], for_training=False)
module.set_params(arg_params, aux_params)
module.forward(mx.io.DataBatch([mx.nd.array(pixels, dtype="uint8")]))
numpy.save("module.npy", module.get_outputs()[0].asnumpy())

block = mx.gluon.SymbolBlock.imports("plain-symbol.json", ["data"], "plain-0000.params")
numpy.save("block.npy", block(mx.nd.array(pixels, dtype="uint8")).asnumpy())
numpy.save("floats.npy", block(mx.nd.array(pixels, dtype="float32")).asnumpy())
"""


def network(name):
    """A "pretrained" network."""
    if name in torch_networks.SIZES:
        return torch_networks.efficientnet_lite(name)[0]
    if name != "tiny":
        return import_gluon(name, random=True)[0]
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=8, kernel=(5, 5), stride=(4, 4),
                             no_bias=True, name="conv0")
    net = mx.sym.Activation(mx.sym.BatchNorm(net, name="bn0"), act_type="relu", name="relu0")
    net = mx.sym.Flatten(mx.sym.Pooling(net, kernel=(3, 3), stride=(3, 3), pool_type="max"))
    net = mx.sym.FullyConnected(net, num_hidden=10, name="old_fc")
    return mx.sym.SoftmaxOutput(net, name="softmax")


def fine_tuned(prefix, name, dtype="float32", attention=None, **says):
    """Write a checkpoint of random numbers in every parameter, with undecided probabilities."""
    mean, std = ([20, 120, 220], [50, 60, 70])
    pretrained, normalisation = checkpoint.with_normalisation(network(name), mean, std, dtype)
    says = {**SAYS, **says}
    pretrained = checkpoint.set_attributes(pretrained, **says)
    net, _ = get_fine_tune_model(pretrained, {}, len(CLASSES), None, dtype, attention)
    net = checkpoint.set_attributes(net, **says)
    random = np.random.RandomState(0)
    shapes, _, aux_shapes = net.infer_shape(data=(1, *says["image_shape"]))
    arg_params = {name: random_parameter(random, name, shape)
                  for name, shape in zip(net.list_arguments(), shapes)
                  if name not in ("data", "softmax_label")}
    arg_params.update(normalisation)
    aux_params = {name: random_parameter(random, name, shape)
                  for name, shape in zip(net.list_auxiliary_states(), aux_shapes)}
    features = net.get_internals()[f"{ATTENTION if attention else 'fc'}_output"]
    pixels = random.randint(0, 256, (4, *says["image_shape"])).astype(np.uint8)
    logits = output_of(*in_float32(features, arg_params, aux_params), pixels)
    arg_params["fc_weight"] /= float(logits.std())
    arg_params["fc_bias"] -= mx.nd.array(logits.mean(axis=0))
    arg_params["fc_bias"] /= float(logits.std())
    if dtype == "float16":
        kept = (*normalisation, "fc_weight", "fc_bias")
        arg_params = {name: value if name in kept or value.ndim == 1 else value.astype(dtype)
                      for name, value in arg_params.items()}
    checkpoint.save(str(prefix), 2, net, arg_params, aux_params)
    return str(prefix)


def random_parameter(random, name, shape):
    if name.endswith(("gamma", "var")):
        values = random.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = random.normal(0, 0.2, shape)
    else:
        values = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    return mx.nd.array(values)


def probabilities(prefix, pixels):
    """What the checkpoint itself answers, by Module, its loss still on."""
    net, arg_params, aux_params = checkpoint.load(prefix, 2)
    module = mx.mod.Module(net, label_names=["softmax_label"])
    module.bind([mx.io.DataDesc("data", pixels.shape, np.uint8)],
                [("softmax_label", (len(pixels), len(CLASSES)))], for_training=False)
    module.set_params(arg_params, aux_params)
    module.forward(mx.io.DataBatch([mx.nd.array(pixels, dtype="uint8")]), is_train=False)
    return module.get_outputs()[0].asnumpy()


def random_pixels(count, side=64):
    return np.random.RandomState(1).randint(0, 256, (count, 3, side, side)).astype(np.uint8)


def export(prefix, *flags):
    return export_onnx.main(["--model", str(prefix), "--epoch", "2", *map(str, flags)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def tiny(folder):
    """Prefix of a small checkpoint."""
    return fine_tuned(folder / "tiny", "tiny")


@pytest.fixture(scope="module")
def exporter():
    """The module that writes ONNX, which needs packages that are optional."""
    return pytest.importorskip("convert.onnx.exporter")


@pytest.fixture(scope="module")
def exported(folder, tiny, exporter):
    """Its ONNX file."""
    export(tiny, "--out", folder / "tiny.onnx")
    return folder / "tiny.onnx"


@pytest.fixture
def photo(tmp_path):
    """A picture of large shapes, wider than high."""
    picture = cv2.resize(np.random.RandomState(3).randint(0, 256, (3, 5, 3)).astype(np.uint8),
                         (160, 120), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "photo.jpg"), picture)
    return tmp_path / "photo.jpg"


def run_elsewhere(code, folder, status=0):
    """Run a script that cannot see this package; what it prints, or its error."""
    (folder / "elsewhere.py").write_text(code, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-X", "utf8", "elsewhere.py"], cwd=str(folder),
                          env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


@pytest.mark.parametrize("name, attention", [
    ("efficientnet_lite0", None), ("squeezenet1.1", None), ("mobilenetv2_1.0", 0.3),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        ("mobilenetv2_1.0", None), ("resnet18_v1", None), ("resnet18_v2", None),
        ("efficientnet_lite0", 0.3), ("resnet18_v2", 0.3)))])
def test_onnxruntime_gives_the_checkpoints_probabilities(name, attention, tmp_path, exporter):
    import onnxruntime
    prefix = fine_tuned(tmp_path / "net", name, attention=attention)
    export(prefix, "--out", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"),
                                           providers=["CPUExecutionProvider"])
    for count in (1, 3):
        pixels = random_pixels(count)
        ours = probabilities(prefix, pixels)
        assert ours.min() > 0.01 and ours.max() < 0.99
        theirs = session.run(None, {"data": pixels})[0]
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_exported_attention_head_is_found_after_its_import(tmp_path, exporter):
    prefix = fine_tuned(tmp_path / "net", "efficientnet_lite0", attention=0.3)
    export(prefix, "--out", tmp_path / "net.onnx")
    import_main(["--onnx", str(tmp_path / "net.onnx"), "--prefix", str(tmp_path / "again")])
    symbol = checkpoint.load(str(tmp_path / "again"), 0)[0]
    assert find_feature_map(symbol, None, [3, 64, 64]) == find_features(symbol)


@pytest.mark.parametrize("begin, end, step", [
    ((None, 1, 5, None), (None, 3, 2, None), (None, 1, -1, -2)),
    ((None, 0, -2, -7), (None, 2, -6, -1), (1, 1, -2, 3)),
    ((None, 1), (None, 3), ())])
def test_slices_are_those_of_numpy(begin, end, step, exporter):
    net = mx.sym.slice(mx.sym.Variable("data"), begin=begin, end=end, step=step)
    net = mx.sym.Flatten(mx.sym.Cast(net, dtype="float32"))
    model = exporter.to_onnx(checkpoint.set_attributes(net, image_shape=[3, 9, 11]), {}, {})
    pixels = np.random.RandomState(0).randint(0, 256, (2, 3, 9, 11)).astype(np.uint8)
    expected = pixels[tuple(map(slice, begin, end, step or [None] * len(begin)))]
    np.testing.assert_array_equal(exporter.onnx_predictor(model.SerializeToString())(pixels),
                                  expected.reshape(2, -1))


def test_sizes_at_which_pooling_rounds_up_are_right(tmp_path, exporter):
    prefix = fine_tuned(tmp_path / "net", "squeezenet1.1", image_shape=[3, 100, 100])
    export(prefix, "--out", tmp_path / "net.onnx")
    predict = exporter.onnx_predictor((tmp_path / "net.onnx").read_bytes())
    pixels = random_pixels(2, side=100)
    np.testing.assert_allclose(predict(pixels), probabilities(prefix, pixels), rtol=0, atol=1e-5)


def test_data_is_uint8_and_the_batch_size_free(exported):
    import onnx
    graph = onnx.load(str(exported)).graph
    (data,), (probability,) = graph.input, graph.output
    assert (data.name, probability.name) == ("data", "probability")
    assert data.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sides = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
             for value in (data, probability)]
    assert sides == [["batch", 3, 64, 64], ["batch", 5]]


def test_weights_are_initializers_and_not_inputs(exported, tiny):
    import onnx
    model = onnx.load(str(exported))
    _, arg_params, _ = checkpoint.load(tiny, 2)
    weights = {name for name in arg_params if name.endswith(("weight", "bias"))}
    assert weights <= {tensor.name for tensor in model.graph.initializer}
    assert [value.name for value in model.graph.input] == ["data"]


def test_the_file_is_valid_and_says_the_operator_set_it_is_written_in(exported):
    import onnx
    model = onnx.load(str(exported))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]


def test_metadata_holds_what_the_checkpoint_says(exported):
    import onnxruntime
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in metadata.items()} == SAYS


def with_thresholds_epoch(prefix, folder, epoch):
    net, arg_params, aux_params = checkpoint.load(prefix, 2)
    net = checkpoint.set_attributes(net, thresholds_epoch=epoch)
    checkpoint.save(str(folder / "chosen"), 2, net, arg_params, aux_params)
    return folder / "chosen"


def test_thresholds_of_this_epoch_go_along(tiny, tmp_path):
    export(with_thresholds_epoch(tiny, tmp_path, 2), "--deploy", tmp_path / "plain")
    net, _, _ = checkpoint.load(str(tmp_path / "plain"), 0)
    assert checkpoint.get_attributes(net) == {**SAYS, "thresholds_epoch": 0}


def test_thresholds_of_another_epoch_are_left_out(tiny, tmp_path, capsys):
    export(with_thresholds_epoch(tiny, tmp_path, 1), "--deploy", tmp_path / "plain")
    assert "the thresholds were chosen for epoch 1 and are left out" in capsys.readouterr().out
    net, _, _ = checkpoint.load(str(tmp_path / "plain"), 0)
    assert not {"thresholds", "thresholds_epoch"} & set(checkpoint.get_attributes(net))


def test_a_float16_checkpoint_is_exported_in_float32(tiny, tmp_path, capsys, exporter):
    prefix = fine_tuned(tmp_path / "half", "tiny", dtype="float16")
    export(prefix, "--out", tmp_path / "half.onnx", "--deploy", tmp_path / "plain")
    assert "computes in float16; is compared and exported in float32" in capsys.readouterr().out
    _, arg_params, _ = checkpoint.load(str(tmp_path / "plain"), 0)
    assert {value.dtype for value in arg_params.values()} == {np.float32}
    # MXNet itself does not compute all of it in float16 on every CPU.
    predict = exporter.onnx_predictor((tmp_path / "half.onnx").read_bytes())
    pixels = random_pixels(2)
    np.testing.assert_allclose(predict(pixels), probabilities(tiny, pixels), rtol=0,
                               atol=0.02)


def test_the_comparison_is_told_and_reads_images(tiny, tmp_path, photo, capsys):
    export(tiny, "--deploy", tmp_path / "plain", "--image", photo, photo)
    out = capsys.readouterr().out
    assert "5 random pixels: largest difference to the checkpoint" in out
    assert "2 images: largest difference to the checkpoint" in out


def test_images_are_read_as_the_checkpoint_says(photo):
    samples = export_onnx.sample_images({**SAYS, "fit": "squash"}, [str(photo)])
    expected = np.empty((3, 64, 64), np.uint8)
    read_image(str(photo), expected, ReadOptions(resize=73, fit="squash"))
    np.testing.assert_array_equal(samples["images"], expected[None])


@pytest.mark.parametrize("wrong", [lambda p: p + 2e-4, lambda p: p * np.nan])
def test_a_model_that_differs_is_not_written(wrong, tiny, tmp_path, monkeypatch, exporter):
    predictor = exporter.onnx_predictor
    monkeypatch.setattr(exporter, "onnx_predictor",
                        lambda model: lambda pixels: wrong(predictor(model)(pixels)))
    out = tmp_path / "net.onnx"
    out.write_text("earlier")
    with pytest.raises(InputError, match="not written: its probabilities differ by") as error:
        export(tiny, "--out", out)
    assert error.value.file == str(out)
    assert out.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_the_plain_pair_works_without_this_package(tiny, tmp_path):
    export(tiny, "--deploy", tmp_path / "plain")
    pixels = random_pixels(3)
    np.save(tmp_path / "pixels.npy", pixels)
    operator = (ROOT / "crossentropy_op.py").read_text(encoding="utf-8")
    (tmp_path / "mxnet_import.py").write_text(operator.partition("import mxnet")[0],
                                              encoding="utf-8")
    run_elsewhere(PLAIN_MXNET, tmp_path)
    expected = probabilities(tiny, pixels)
    for result in ("module", "block", "floats"):
        np.testing.assert_allclose(np.load(tmp_path / f"{result}.npy"), expected, rtol=0,
                                   atol=1e-5, err_msg=result)


def test_the_plain_pair_ends_at_the_sigmoid_and_keeps_what_the_checkpoint_says(
        tiny, tmp_path):
    export(tiny, "--deploy", tmp_path / "plain")
    net, arg_params, _ = checkpoint.load(str(tmp_path / "plain"), 0)
    assert net.list_outputs() == ["sig_output"]
    assert set(net.list_arguments()) == {"data", *arg_params}
    assert checkpoint.get_attributes(net) == SAYS


@pytest.fixture(scope="module")
def squashing(folder):
    """Prefix of a small checkpoint for images that are squashed."""
    return fine_tuned(folder / "squashing", "tiny", fit="squash", resize=None)


@pytest.mark.smoke
def test_the_onnxruntime_example_answers_as_predict_multilabel(squashing, real_photo, exporter):
    export(squashing, "--out", real_photo.parent / "model.onnx")
    assert_same_answer(run_elsewhere(ONNXRUNTIME_EXAMPLE, real_photo.parent), squashing, real_photo,
                       1e-4, "--full-decode")


@pytest.mark.parametrize("size", [(50, 60), (127, 131), (301, 225), (550, 831), (1201, 777)])
def test_the_examples_function_reads_exactly_as_the_package(tmp_path, size):
    noise = np.random.RandomState(0).randint(0, 256, (*size, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), cv2.GaussianBlur(noise, (3, 3), 0))
    names = {"cv2": cv2}
    exec(re.search(r"def read_pixels.*?\n\n\n", ONNXRUNTIME_EXAMPLE, re.DOTALL).group(), names)
    for shape in ((64, 64), (224, 160), (100, 301)):
        out = np.empty((3, *shape), np.uint8)
        read_image(str(tmp_path / "a.jpg"), out, ReadOptions(fit="squash", full_decode=True))
        assert np.array_equal(names["read_pixels"](str(tmp_path / "a.jpg"), *shape), out)


@pytest.mark.smoke
def test_the_plain_mxnet_example_answers_as_predict_multilabel(squashing, real_photo):
    export(squashing, "--deploy", real_photo.parent / "deploy" / "multilabel")
    shutil.copy(ROOT / "crossentropy_op.py", real_photo.parent)
    assert_same_answer(run_elsewhere(MXNET_EXAMPLE, real_photo.parent), squashing, real_photo)


def test_the_examples_say_when_a_checkpoint_wants_another_fit(exported, tiny, photo):
    (photo.parent / "model.onnx").write_bytes(exported.read_bytes())
    export(tiny, "--deploy", photo.parent / "deploy" / "multilabel")
    shutil.copy(ROOT / "crossentropy_op.py", photo.parent)
    for example in (ONNXRUNTIME_EXAMPLE, MXNET_EXAMPLE):
        assert "needs images fitted by crop" in run_elsewhere(example, photo.parent, status=1)


@pytest.fixture
def real_photo(ccp, tmp_path):
    found = sorted(ccp.rglob("*.jpg"))[0]
    return Path(shutil.copy(found, tmp_path / "photo.jpg"))


def assert_same_answer(printed, prefix, photo, atol=0.02, *flags):
    answer = ast.literal_eval(printed)
    assert list(answer) == CLASSES
    lines = script("predict_multilabel.py", "--model", prefix, "--epoch", 2, photo, *flags)
    row = next(csv.DictReader(lines[lines.index("name,"):].splitlines()))
    # MXNet's resizing rounds otherwise than ours.
    np.testing.assert_allclose(list(answer.values()), [float(row[name]) for name in CLASSES],
                               rtol=0, atol=atol)
    assert max(len(str(p)) for p in answer.values()) <= 6


def without_normalisation(folder):
    """A checkpoint of another script, which normalised the pixels before the network."""
    net = mx.sym.Flatten(mx.sym.Pooling(mx.sym.Variable("data"), kernel=(8, 8), stride=(8, 8),
                                        pool_type="avg"))
    net = mx.sym.sigmoid(mx.sym.FullyConnected(net, num_hidden=2, name="fc"), name="sig")
    net = mx.sym.Custom(net, name="softmax", op_type="CrossEntropyLoss")
    arg_params = {"fc_weight": mx.nd.random.normal(0, 0.1, (2, 48)), "fc_bias": mx.nd.ones(2)}
    checkpoint.save(str(folder / "foreign"), 2, net, arg_params, {})
    return folder / "foreign"


def test_a_checkpoint_that_does_not_normalise_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not normalise its pixels") as error:
        export(without_normalisation(tmp_path), "--deploy", tmp_path / "plain")
    assert error.value.file == str(tmp_path / "foreign-symbol.json")
    assert not list(tmp_path.glob("plain*"))


@pytest.mark.parametrize("flags, flag, says", [
    ((), "--out", "nothing to write"),
    (("--deploy", "{}", "--image", "no.jpg"), None, "no.jpg"),
    (("--deploy", "{}", "--epoch", "7"), None, "-0007.params: no such file"),
])
def test_mistakes_are_told(flags, flag, says, tiny, tmp_path):
    with pytest.raises(InputError, match=says) as error:
        export(tiny, *(text.format(tmp_path / "plain") for text in flags))
    assert error.value.flag == flag
    assert not list(tmp_path.iterdir())


def test_the_results_folders_are_made(tiny, tmp_path, exporter):
    export(tiny, "--out", tmp_path / "a/net.onnx", "--deploy", tmp_path / "b/c/plain")
    assert (tmp_path / "a/net.onnx").is_file()
    assert (tmp_path / "b/c/plain-0000.params").is_file()


def test_a_folder_that_cannot_serve_is_told_before_any_work(tmp_path, exporter):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a folder") as error:
        export(tmp_path / "no such", "--out", tmp_path)
    assert error.value.flag == "--out"
    with pytest.raises(InputError, match="file: cannot be made: file exists"):
        export(tmp_path / "no such", "--deploy", tmp_path / "file/plain")


def test_the_checkpoint_itself_is_not_overwritten(tiny):
    with pytest.raises(InputError, match="would overwrite the checkpoint itself") as error:
        export(tiny, "--deploy", os.path.relpath(tiny))
    assert error.value.flag == "--deploy"


def test_the_plain_pair_can_be_exported_in_turn(tiny, tmp_path):
    export(tiny, "--deploy", tmp_path / "plain")
    export_onnx.main(["--model", str(tmp_path / "plain"), "--epoch", "0",
                      "--deploy", str(tmp_path / "again")])
    assert ((tmp_path / "again-symbol.json").read_bytes()
            == (tmp_path / "plain-symbol.json").read_bytes())


def test_a_network_that_does_not_end_in_a_sigmoid_is_refused(tmp_path):
    net = mx.sym.FullyConnected(mx.sym.Flatten(mx.sym.Variable("data")), num_hidden=2, name="fc")
    checkpoint.save(str(tmp_path / "net"), 2, mx.sym.SoftmaxOutput(net, name="softmax"),
                    {"fc_weight": mx.nd.zeros((2, 12)), "fc_bias": mx.nd.zeros(2)}, {})
    with pytest.raises(InputError, match=r"ends in softmax \(SoftmaxOutput\)") as error:
        export(tmp_path / "net", "--deploy", tmp_path / "plain")
    assert error.value.file == str(tmp_path / "net-symbol.json")


def test_an_operator_that_onnx_export_lacks_is_named(tmp_path, exporter):
    pixels, constants = checkpoint.normalised_data((0, 0, 0), (1, 1, 1))
    net = mx.sym.FullyConnected(mx.sym.erfinv(pixels * 0.001, name="odd"), num_hidden=2, name="fc")
    net = mx.sym.Custom(mx.sym.sigmoid(net), name="softmax", op_type="CrossEntropyLoss")
    net = checkpoint.set_attributes(net, image_shape=[3, 4, 4])
    params = {**constants, "fc_weight": mx.nd.zeros((2, 48)), "fc_bias": mx.nd.zeros(2)}
    checkpoint.save(str(tmp_path / "net"), 2, net, params, {})
    with pytest.raises(InputError, match="cannot write erfinv as ONNX"):
        export(tmp_path / "net", "--out", tmp_path / "net.onnx")
    export(tmp_path / "net", "--deploy", tmp_path / "plain")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_are_told_with_what_to_do(package, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match="pip install -r requirements-export.txt"):
        export(tiny, "--out", tmp_path / "net.onnx")
    export(tiny, "--deploy", tmp_path / "plain")
    assert sorted(os.listdir(tmp_path)) == ["plain-0000.params", "plain-symbol.json"]


def test_a_mistake_ends_in_one_line_and_status_2(tmp_path):
    text = script("tools/export_onnx.py", "--model", "none", "--epoch", "1", "--deploy", "plain",
                  cwd=tmp_path, status=2)
    assert text.startswith("export_onnx.py: error: none-symbol.json: no such file")
    assert text.count("\n") == 1
