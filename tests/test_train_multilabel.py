"""The fine-tune network, and the training script run as a person runs it."""
import csv
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, expect_error, predictions, script, train_all, training_flags
from sklearn.metrics import average_precision_score

from common.cli import InputError
from common.mx_compat import mx
from common.version import VERSION
from evaluation.classifier import Classifier
from evaluation.decisions import count_decisions, decision_metrics
from evaluation.thresholds import choose_thresholds, cross_fitted
from network import checkpoint
from network.fine_tune import find_features, get_fine_tune_model
from reading.lst_file import read_lst
from training.train_flags import parse_args


def outputs(net, arg_params, aux_params, shape, **inputs):
    net = net if isinstance(net, mx.sym.Symbol) else net
    executor = net.simple_bind(mx.cpu(), data=shape, grad_req="null", type_dict={"data": "uint8"})
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    executor.forward(**inputs)
    return executor.outputs[0].asnumpy()


def resnet_style():
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="fc_conv")
    net = mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg", name="pool1")
    net = mx.sym.FullyConnected(mx.sym.Flatten(net, name="flatten0"), num_hidden=9, name="fc")
    return mx.sym.SoftmaxOutput(net, name="softmax")


def gluon_style():
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="c")
    net = mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), name="resnetv20_pool1_fwd")
    net = mx.sym.Flatten(net, name="resnetv20_flatten0_flatten0")
    return mx.sym.FullyConnected(net, num_hidden=9, name="resnetv20_dense0_fwd")


def squeezenet_style():
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="c")
    net = mx.sym.Dropout(mx.sym.Activation(net, act_type="relu"), name="dropout0")
    net = mx.sym.Convolution(net, num_filter=9, kernel=(1, 1), name="classifier")
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg")
    return mx.sym.Flatten(net)


def mobilenetv2_style():
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="c")
    net = mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg", name="pool0")
    net = mx.sym.Convolution(net, num_filter=9, kernel=(1, 1), no_bias=True, name="pred")
    return mx.sym.Flatten(net)


def headless():
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="c")
    net = mx.sym.BatchNorm(net, name="bn")
    net = mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), name="pool")
    return mx.sym.Flatten(net, name="features")


STYLES = {resnet_style: "flatten0", gluon_style: "resnetv20_flatten0_flatten0",
          squeezenet_style: "dropout0", mobilenetv2_style: "pool0", headless: "features"}


def random_params(net, shape=(2, 3, 16, 16)):
    shapes, _, _ = net.infer_shape(data=shape)
    return {name: mx.nd.random.normal(shape=s)
            for name, s in zip(net.list_arguments(), shapes) if name != "data"}


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.__name__)
def test_finds_what_feeds_the_classifier(style):
    sym = style()
    assert find_features(sym) == STYLES[style]
    params = random_params(sym)
    net, new_args = get_fine_tune_model(sym, params, 7)
    assert net.list_outputs() == ["softmax_output"]
    assert set(net.list_arguments()) - set(new_args) == {
        "data", "fc_weight", "fc_bias", "softmax_label"}
    assert net.infer_shape(data=(2, 3, 16, 16))[1] == [(2, 7)]
    assert net.infer_shape(data=(2, 3, 16, 16))[0][net.list_arguments().index("fc_weight")] == (
        7, 4)


def test_only_the_classifiers_parameters_are_dropped():
    params = random_params(resnet_style())
    _, new_args = get_fine_tune_model(resnet_style(), params, 7)
    assert set(params) - set(new_args) == {"fc_weight", "fc_bias", "softmax_label"}


def test_a_layer_called_fc_in_the_backbone_keeps_its_weights():
    params = random_params(resnet_style())
    net, new_args = get_fine_tune_model(resnet_style(), params, 7, "fc")
    assert "fc_weight" in new_args and "fc_multilabel_weight" in net.list_arguments()


def test_the_layer_may_be_named():
    net, _ = get_fine_tune_model(resnet_style(), {}, 7, "fc_conv")
    shapes = dict(zip(net.list_arguments(), net.infer_shape(data=(2, 3, 16, 16))[0]))
    assert shapes["fc_weight"] == (7, 4)


def test_a_wrong_layer_is_an_error_that_lists_likely_ones():
    with pytest.raises(InputError, match="no layer 'flatten9'.*flatten0.*pool1"):
        get_fine_tune_model(resnet_style(), {}, 7, "flatten9")


def test_pixels_are_normalised_in_the_graph():
    data = np.random.RandomState(0).randint(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    mean, std = (120.5, 110, 100), (50, 60, 70.5)
    for normalised in (
            checkpoint.with_normalisation(mx.sym.Flatten(mx.sym.Variable("data")), mean, std),
            checkpoint.with_normalisation(checkpoint.with_normalisation(
                mx.sym.Flatten(mx.sym.Variable("data")), (1, 2, 3), (4, 5, 6))[0], mean, std)):
        got = outputs(*normalised, {}, data.shape, data=mx.nd.array(data, dtype=np.uint8))
        expected = (data - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
        np.testing.assert_allclose(got, expected.reshape(2, -1), rtol=1e-5)


def test_float16_backbone_has_a_float32_head(tiny_network):
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    sym, constants = checkpoint.with_normalisation(sym, (0, 0, 0), (255, 255, 255), "float16")
    net, _ = get_fine_tune_model(sym, {**arg_params, **constants}, 5, dtype="float16")
    types = dict(zip(net.list_arguments(), net.infer_type(data="uint8")[0]))
    assert types["conv0_weight"] == types["conv1_weight"] == np.float16
    assert types["fc_weight"] == types["bn0_gamma"] == types["rgb_mean"] == np.float32


def test_float16_features_give_nearly_the_probabilities_of_float32():
    """On operators that MXNet's CPU has in float16; convolutions it has not."""
    data = np.random.RandomState(0).randint(0, 256, (4, 3, 8, 8)).astype(np.uint8)
    gradients, probabilities = [], []
    for dtype in ("float16", "float32"):
        net = mx.sym.Pooling(mx.sym.Variable("data"), kernel=(4, 4), stride=(4, 4),
                             pool_type="avg")
        net = mx.sym.Activation(net, act_type="relu")
        sym, constants = checkpoint.with_normalisation(net, (100, 100, 100), (50, 50, 50), dtype)
        net, args = get_fine_tune_model(sym, constants, 5, dtype=dtype)
        weight = np.random.RandomState(1).randn(5, 3).astype(np.float32)
        executor = net.simple_bind(mx.cpu(), data=data.shape, type_dict={"data": "uint8"},
                                   grad_req={"fc_weight": "write"})
        executor.copy_params_from({**args, "fc_weight": mx.nd.array(weight)})
        executor.arg_dict["softmax_label"][:] = 1
        executor.forward(is_train=True, data=mx.nd.array(data, dtype="uint8"))
        executor.backward()
        probabilities.append(executor.outputs[0].asnumpy())
        gradients.append(executor.grad_dict["fc_weight"].asnumpy())
    assert probabilities[0].dtype == np.float32
    np.testing.assert_allclose(*probabilities, atol=2e-3)
    np.testing.assert_allclose(*gradients, atol=2e-2)


@pytest.fixture(scope="module")
def trained(tiny_network, small_demo, tmp_path_factory):
    """A run of two epochs: its folder and its log."""
    result = tmp_path_factory.mktemp("result") / "deep er"
    text = script("train_multilabel.py", *training_flags(tiny_network, small_demo, result))
    shown = [line.partition(" ")[2] for line in text.splitlines()]
    assert [line.partition(":")[0] for line in shown if line.startswith("Epoch")] == [
        "Epoch 1 of 2", "Epoch 2 of 2"]
    assert "--batch-size 16" in text and "seed" not in text
    return result, (result / "train.log").read_text()


def test_logs_in_mxnets_format_and_says_what_needs_no_image(trained):
    _, log = trained
    for name in ("Train-loss", "Train-acc", "Validation-loss", "Validation-acc", "Validation-mAP"):
        assert re.search(rf"Epoch\[1\] {name}=[.\d]+", log), name
    for name in ("acc", "mAP"):
        scores, baselines = (re.findall(rf"Epoch\[\d\] {text}", log) for text in (
            rf"Validation-{name}=([.\d]+)", rf"Baselines: .*{name} ([.\d]+)"))
        beaten = [float(score) > float(base) for score, base in zip(scores, baselines)]
        warned = log.count(f"warning: validation {name} ")
        assert len(beaten) == 2 and warned == beaten.count(False)
    assert re.search(r"Epoch\[1\] Baselines: acc 0\.\d+ .*, mAP 0\.\d+ \(random rankings\)", log)
    assert "Epoch[1] Time cost=" in log


def test_the_log_ends_with_the_best_and_the_worst_classes(trained, small_demo):
    table = trained[1].split("AP  labels  class")[1]
    assert [name for name in (small_demo / "labels.txt").read_text().split() if name in table]
    values = [float(v) for v in re.findall(r" - ([01]\.\d{4}) +\d+  \w+", table)]
    assert len(values) == 8 and values == sorted(values, reverse=True)
    mean = float(re.findall(r"Epoch\[1\] Validation-mAP=([.\d]+)", trained[1])[0])
    assert np.mean(values) == pytest.approx(mean, abs=1e-3)


def test_writes_a_checkpoint_each_epoch_and_the_history(trained):
    result, _ = trained
    for number in (1, 2):
        assert (result / f"tiny-{number:04d}.params").exists()
    with open(result / "tiny-history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row[c]) > 0 for row in rows for c in row if c != "epoch")
    assert (result / "tiny-history.png").read_bytes()[:4] == b"\x89PNG"
    assert not [f.name for f in result.iterdir() if f.name.startswith(".")]


@pytest.mark.smoke
def test_the_checkpoint_carries_names_and_preprocessing(trained, small_demo):
    sym, arg_params, _ = checkpoint.load(str(trained[0] / "tiny"), 2)
    attributes = checkpoint.get_attributes(sym)
    assert attributes["class_names"] == (small_demo / "labels.txt").read_text().split()
    assert attributes["image_shape"] == [3, 32, 32] and attributes["fit"] == "crop"
    assert attributes["version"] == VERSION
    assert attributes["background"] == [255, 255, 255]
    assert attributes["full_decode"] is False
    said = attributes["training"]
    assert (said["pretrained network"], said["image size"]) == ("tiny", "32x32, cropped")
    assert said["training list"] == "train.lst, 70 images"
    assert said["validation list"] == "val.lst, 20 images"
    assert "2 epochs of fine-tuning by sgd, learning rate 0.05" in said["recipe"]
    np.testing.assert_allclose(arg_params["rgb_mean"].asnumpy().ravel(), checkpoint.IMAGENET_MEAN)


@pytest.mark.smoke
def test_plain_mxnet_loads_the_checkpoint_in_another_process(trained, small_demo, tmp_path):
    from lst_iter import LstIter
    batches = LstIter(batch_size=20, data_shape=(3, 32, 32),
                      path_imglist=str(small_demo / "val.lst"),
                      path_root=str(small_demo / "images"))
    batch = next(batches)
    np.save(tmp_path / "pixels.npy", batch.data[0].asnumpy())
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import numpy as np, crossentropy_op, mxnet as mx
pixels = np.load({str(tmp_path / 'pixels.npy')!r})
module = mx.mod.Module.load({str(trained[0] / 'tiny')!r}, 2, label_names=['softmax_label'])
module.bind([mx.io.DataDesc('data', pixels.shape, np.uint8)], for_training=False)
data = mx.nd.array(pixels, dtype='uint8')
module.forward(mx.io.DataBatch([data]), is_train=False)
np.save({str(tmp_path / 'out.npy')!r}, module.get_outputs()[0].asnumpy())
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    sym, arg_params, aux_params = checkpoint.load(str(trained[0] / "tiny"), 2)
    here = outputs(sym, arg_params, aux_params, batch.data[0].shape, data=batch.data[0])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), here, atol=1e-6)
    label = batch.label[0].asnumpy()
    acc = ((here > 0.5) == (label > 0.5)).mean()
    logged = re.findall(r"Epoch\[1\] Validation-acc=([.\d]+)", trained[1])[0]
    assert float(logged) == pytest.approx(acc, abs=1e-6)


def test_two_runs_give_the_same_bytes(trained, tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, data_nthreads=1)
    # In a Python of its own, whose hashes of texts, and so the order of sets, are others.
    script("train_multilabel.py", *flags, env={"PYTHONHASHSEED": "7"})
    name = "tiny-0002.params"
    assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()


@pytest.mark.slow
def test_a_fine_tuned_network_can_be_fine_tuned_again(trained, small_demo, tmp_path):
    flags = training_flags(trained[0] / "tiny", small_demo, tmp_path, epoch=2, num_epoch=1)
    script("train_multilabel.py", *flags)
    sym, _, _ = checkpoint.load(str(tmp_path / "tiny"), 1)
    assert sym.list_arguments().count("rgb_mean") == 1


# Options, and the learning rates after each of two epochs of five batches.
OPTIONS = [
    ({"optimizer": "adam", "lr": 0.001, "lr_schedule": "cosine", "num_epoch": 3},
     [0.001 * (1 + np.cos(np.pi * epoch / 3)) / 2 for epoch in (1, 2, 3)]),
    ({"optimizer": "lamb", "lr_schedule": "constant", "clip_gradient": 1, "warmup_epochs": 1.6},
     [0.05 * 5 / 8, 0.05]),
    ({"optimizer": "nag", "lr_step_epochs": "1", "loss": "asl", "label_smoothing": 0.1},
     [0.05, 0.005]),
    ({"loss": "focal", "pos_weight": "auto", "pad_square": True}, [0.05, 0.05]),
    ({"data_val": None, "image_val": None, "labels": None, "gpus": "", "squash": True},
     [0.05, 0.05])]


@pytest.fixture(scope="module")
def options_runs(tiny_network, small_demo, tmp_path_factory):
    """What the runs of OPTIONS printed, and their folders."""
    folders = [tmp_path_factory.mktemp("options") for _ in OPTIONS]
    done = train_all([training_flags(tiny_network, small_demo, folder, **flags)
                      for folder, (flags, _) in zip(folders, OPTIONS)])
    assert len(done) == len(OPTIONS)
    return list(zip(done, folders))


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_options_train_and_the_learning_rate_follows_its_schedule(number, options_runs):
    (status, text), folder = options_runs[number]
    assert status == 0, text
    losses = [float(x) for x in re.findall(r"Train-loss=([.\d]+)",
                                              (folder / "train.log").read_text())]
    assert losses[-1] < losses[0]
    with open(folder / "tiny-history.csv") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx(OPTIONS[number][1], abs=1e-8, rel=1e-5)


def test_automatic_weights_are_absent_over_present_labels(options_runs, small_demo):
    rows = (small_demo / "train.lst").read_text().splitlines()
    labels = np.array([row.split()[1:-1] for row in rows], float)
    symbol, _, _ = checkpoint.load(str(options_runs[3][1] / "tiny"), 2)
    weights = json.loads(symbol.attr_dict()["softmax"]["pos_weight"].replace("(", "[").replace(
        ")", "]"))
    expected = np.clip((labels == 0).sum(axis=0) / (labels == 1).sum(axis=0), 1, 10)
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    assert len(set(expected)) > 1


def test_the_heads_rate_is_multiplied(tiny_network, small_demo, tmp_path):
    factors = (0, 1, 10)
    done = train_all([training_flags(
        tiny_network, small_demo, tmp_path / str(factor), head_lr_mult=factor, num_epoch=1,
        batch_size=70, data_val=None, wd=0) for factor in factors])  # one step
    assert [status for status, _ in done] == [0, 0, 0]
    unmoved, once, tenfold = (checkpoint.load(str(tmp_path / str(factor) / "tiny"), 1)[1]
                              for factor in factors)
    steps = [(params["fc_weight"] - unmoved["fc_weight"]).asnumpy() for params in (once, tenfold)]
    np.testing.assert_allclose(steps[1], 10 * steps[0], rtol=1e-3, atol=1e-6)
    assert np.abs(steps[0]).max() > 1e-4
    assert np.array_equal(once["conv1_weight"].asnumpy(), tenfold["conv1_weight"].asnumpy())


MISTAKES = {
    "no such .lst": ({"data_train": "/nowhere/t.lst"}, "/nowhere/t.lst"),
    "no such network": ({"model": "/nowhere/net"}, "/nowhere/net-symbol.json: no such file"),
    "no such epoch": ({"epoch": 7}, "-0007.params: no such file"),
    "wrong number of classes": ({"num_classes": 9}, "train.lst:1: 8 labels, but --num-classes"),
    "wrong number of examples": ({"num_examples": 9}, "70 rows, but --num-examples is 9"),
    "no such layer": ({"layer_before_fullc": "x"}, "before its loss; likely ones: fc1, flatten0"),
    "wrong optimizer": ({"optimizer": "sdg"}, "--optimizer sdg"),
    "float16 on a CPU": ({"dtype": "float16", "gpus": ""}, "--dtype float16: needs a GPU"),
    "no such GPU": ({"gpus": "77"}, "--gpus 77: MXNet sees"),
    "images elsewhere": ({"image_train": "/nowhere"}, "no such file or directory"),
    "negative rate": ({"lr": -1}, "--lr: must be 0 or more"),
    "shape without channels": ({"image_shape": "32,32"}, "--image-shape: expected 3 numbers"),
    "freeze matches nothing": ({"freeze": "convx"}, "no parameter's name matches 'convx'"),
    "clip too large": ({"clip": 2}, "clip must be from 0 to 0.99"),
    "nothing to train": ({"num_epoch": 0}, "--num-epoch 0 trains nothing"),
    "std of zero": ({"rgb_std": "1,0,1"}, "rgb_std wants three numbers"),
    "too small for the network": ({"image_shape": "3,2,2"}, "does not work on images of"),
    "the loss as the layer": ({"layer_before_fullc": "softmax"}, "no layer 'softmax' before its"),
    "a parameter as the layer": ({"layer_before_fullc": "conv0_weight"}, "no layer 'conv0_weight'"),
    "freeze matches all": ({"freeze": ".*"}, "leaves nothing to train"),
    "too few weights": ({"pos_weight": "1,2"}, "2 weights, but 8 classes"),
    "nothing to compress for": ({"gc_type": "2bit", "gpus": ""}, "this run has one device"),
}
# What argparse and `check_args` say, before anything is read.
FLAGS = {
    "rate that is no number": (["--lr", "nan"], "--lr: must be 0 or more"),
    "infinite rate": (["--lr", "inf"], "--lr: must be below 2**128"),
    "threshold of 0": (["--gc-threshold", "0"], "--gc-threshold must be above 0"),
    "seed too large": (["--seed", "5000000000"], "--seed: must be below 2**32"),
    "rate that grows": (["--lr-factor", "2"], "--lr-factor must be 1 or less"),
    "step before the start": (["--lr-step-epochs=-1"], "--lr-step-epochs must be numbers above 0"),
    "warm-up beyond the first step": (["--warmup-epochs", "2", "--lr-step-epochs", "1,5",
                                       "--num-epoch", "9"], "first of --lr-step-epochs, 1"),
    "endless warm-up": (["--warmup-epochs", "2", "--num-epoch", "2"], "must be fewer than"),
    "nothing to stop by": (["--early-stop", "1"], "--early-stop needs validation images"),
    "name with a folder": (["--save-name", "a/b"], "--save-name is a name in the folder"),
    "no such flag": (["--no-such-flag"], "--no-such-flag: no such flag"),
    "not a number": (["--batch-size", "x"], "invalid int value: 'x'"),
    "no such store": (["--kv-store", "no_such"], "--kv-store: invalid choice: 'no_such'"),
}


@pytest.mark.parametrize("flags,says", FLAGS.values(), ids=FLAGS)
def test_flags_out_of_range_are_told_in_one_line(flags, says):
    with pytest.raises(InputError) as told:
        parse_args(["--data-train", "x", "--image-train", "x", "--model", "x", *flags])
    assert says in str(told.value) and "\n" not in str(told.value)


@pytest.fixture(scope="module")
def mistakes(tiny_network, small_demo, tmp_path_factory):
    """Status, output and folder of a run with each of MISTAKES."""
    folders = {name: tmp_path_factory.mktemp("mistake") for name in MISTAKES}
    done = train_all([
        training_flags(tiny_network, small_demo, folders[name] / "result", **{
            **flags, **({"image_train": folders[name]} if "image_train" in flags else {})})
        for name, (flags, _) in MISTAKES.items()])
    return {name: (*result, folders[name]) for name, result in zip(MISTAKES, done)}


def with_labels(lst, folder, change):
    """A copy of a .lst whose labels are changed, (rows, classes) of text to the same."""
    rows = [line.split("\t") for line in lst.read_text().splitlines()]
    labels = change(np.array([row[1:-1] for row in rows], object))
    (folder / lst.name).write_text("".join(
        "\t".join([row[0], *label, row[-1]]) + "\n" for row, label in zip(rows, labels)))
    return folder / lst.name


def without_first(labels):
    labels[:, 0] = "0.000000"
    return labels


def test_classes_that_cannot_be_learnt_are_named_before_training(
        tiny_network, small_demo, tmp_path):
    train = with_labels(small_demo / "train.lst", tmp_path,
                        lambda labels: np.where(labels == "0.000000", "-1.000000", labels))
    val = with_labels(small_demo / "val.lst", tmp_path, without_first)
    first = (small_demo / "labels.txt").read_text().split()[0]
    text = script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, num_epoch=1, data_train=train, data_val=val))
    before = text.partition("Epoch 1")[0]
    assert f"warning: {train}: without an absent label (0)" in before
    assert "--label-format signed" in before
    assert f"warning: {val}: without a present label: {first}\n" in before


def test_a_list_without_a_present_label_is_refused(tiny_network, small_demo, tmp_path):
    train = with_labels(small_demo / "train.lst", tmp_path,
                        lambda labels: np.full_like(labels, "0.000000"))
    text = script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, data_train=train), status=2)
    assert f"{train}: no label of its 70 rows is present" in text.splitlines()[-1]


def test_validation_on_the_training_list_is_refused(tiny_network, small_demo, tmp_path):
    text = script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, data_val=small_demo / "train.lst"), status=2)
    assert f"{small_demo}/train.lst: --data-val: all of its images are in the training list" in text
    assert not list(tmp_path.glob("*.params"))


def test_images_in_both_lists_are_counted_and_a_batch_is_no_larger_than_the_list(
        tiny_network, small_demo, tmp_path):
    val = tmp_path / "val.lst"
    shared = (small_demo / "train.lst").read_text().splitlines(True)[:3]
    val.write_text((small_demo / "val.lst").read_text() + "".join(shared))
    text = script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, num_epoch=1, data_val=val, batch_size=5000))
    assert f"warning: {val}:21: 3 of 23 images" in text
    assert "Batch size 70, not 5000" in text
    assert "batch_size=70 " in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_one_line_and_status_2(name, mistakes):
    status, text, folder = mistakes[name]
    assert status == 2 and MISTAKES[name][1] in text.splitlines()[-1]
    assert "Traceback" not in text
    assert not list(folder.glob("result/*.params"))


def test_too_little_memory_is_told_in_one_line(tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, image_shape="3,20000,20000")
    text = script("train_multilabel.py", *flags, status=2,
                  limits=[(resource.RLIMIT_AS, 16 << 30, 16 << 30)])
    assert "--batch-size: 16 images at once take " in text.splitlines()[-1]
    assert "Traceback" not in text


def test_the_checkpoints_have_thresholds_of_their_own_validation(trained, small_demo):
    result, log = trained
    lst = read_lst(str(small_demo / "val.lst"), 8)
    with open(result / "tiny-history.csv") as file:
        rows = list(csv.DictReader(file))
    best = json.loads((result / "tiny-result.json").read_text())["best"]["number"]
    for name, epoch, number in (("tiny", 2, 2), ("tiny-best", 0, best)):
        classifier = Classifier(str(result / name), epoch)
        assert classifier.thresholds_epoch == epoch
        assert classifier.thresholds_list == ["val.lst", lst.checksum]
        label, prob = predictions(classifier, small_demo / "val.lst", small_demo / "images")
        np.testing.assert_allclose(classifier.thresholds, choose_thresholds(label, prob),
                                   atol=1e-4)
        rates = decision_metrics(count_decisions(label, cross_fitted(label, prob)))
        assert float(rows[number - 1]["val-CF1"]) == pytest.approx(rates["CF1"], abs=1e-4)
    assert f"(CF1) {float(rows[best - 1]['val-CF1']):.4f}, over all" in log


def test_training_chooses_thresholds_for_an_objective(tiny_network, small_demo, tmp_path):
    script("train_multilabel.py", *training_flags(tiny_network, small_demo, tmp_path, num_epoch=1,
                                                  min_precision=0.9))
    classifier = Classifier(str(tmp_path / "tiny"), 1)
    label, prob = predictions(classifier, small_demo / "val.lst", small_demo / "images")
    expected = choose_thresholds(label, prob, "precision 0.9")
    np.testing.assert_allclose(classifier.thresholds, expected, atol=1e-4)
    assert not np.allclose(expected, choose_thresholds(label, prob), atol=1e-4)


@pytest.mark.parametrize("flags", [
    {"threshold_objective": "precision"}, {"threshold_objective": "f1", "min_precision": 0.5},
    {"min_precision": 1.5}])
def test_an_objective_and_a_precision_that_contradict_each_other_are_refused(flags, small_demo):
    with expect_error(flag="--min-precision"):
        parse_args(training_flags("net", small_demo, "result", **flags))


@pytest.mark.slow
def test_thresholds_of_an_earlier_fine_tuning_do_not_survive_a_new_one(
        tiny_network, small_demo, tmp_path):
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    sym = checkpoint.set_attributes(sym, thresholds=[0.9] * 10, thresholds_epoch=0,
                                    thresholds_list=["val.lst", "0"])
    checkpoint.save(str(tmp_path / "chosen"), 0, sym, arg_params, aux_params)
    flags = training_flags(tmp_path / "chosen", small_demo, tmp_path / "r", num_epoch=1,
                           data_val=None, image_val=None)
    script("train_multilabel.py", *flags)
    sym, _, _ = checkpoint.load(str(tmp_path / "r" / "tiny"), 1)
    assert not [name for name in checkpoint.get_attributes(sym) if name.startswith("thresholds")]


@pytest.mark.slow
def test_weight_decay_leaves_biases_and_batchnorms_alone(tiny_network, small_demo, tmp_path):
    for wd in (0, 0.5):
        flags = training_flags(tiny_network, small_demo, tmp_path / str(wd), wd=wd, num_epoch=1,
                               batch_size=70, data_val=None)  # one step
        script("train_multilabel.py", *flags)
    (_, without, _), (_, with_decay, _) = (
        checkpoint.load(str(tmp_path / str(wd) / "tiny"), 1) for wd in (0, 0.5))
    decayed = {name for name in without
               if not np.array_equal(without[name].asnumpy(), with_decay[name].asnumpy())}
    assert decayed == {"conv0_weight", "conv1_weight", "fc_weight"}


def test_class_names_must_be_as_many_as_classes(tiny_network, small_demo, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\n")
    flags = training_flags(tiny_network, small_demo, tmp_path / "r", labels=labels)
    assert "2 class names, but the .lst has 8" in script("train_multilabel.py", *flags, status=2)


@pytest.mark.parametrize("ending,says", [("-0000.params", "cut short"), ("-symbol.json", "cut")])
def test_a_checkpoint_cut_in_half_is_an_error(ending, says, tiny_network, small_demo, tmp_path):
    for name in ("-0000.params", "-symbol.json"):
        content = Path(tiny_network + name).read_bytes()
        (tmp_path / f"cut{name}").write_bytes(
            content[:len(content) // 2] if name == ending else content)
    flags = training_flags(tmp_path / "cut", small_demo, tmp_path / "r")
    text = script("train_multilabel.py", *flags, status=2)
    assert says in text.splitlines()[-1] and "Traceback" not in text


def test_parameters_of_another_network_are_an_error(tiny_network, small_demo, tmp_path):
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    arg_params["conv1_weight"] = mx.nd.zeros((5, 8, 3, 3))
    checkpoint.save(str(tmp_path / "other"), 0, sym, arg_params, aux_params)
    flags = training_flags(tmp_path / "other", small_demo, tmp_path / "r")
    text = script("train_multilabel.py", *flags, status=2)
    assert "conv1_weight is (5, 8, 3, 3)" in text.splitlines()[-1]


def test_a_rate_that_explodes_stops_and_keeps_the_last_checkpoint(
        tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, lr=1e30)
    text = script("train_multilabel.py", *flags, status=2)
    assert re.search(r"epoch 1, batch \d+: the loss is (nan|inf)", text.splitlines()[-1])
    assert not list(tmp_path.glob("*.params"))


def test_test_io_reads_and_trains_nothing(tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, test_io=True)
    assert re.search(r"Read 70 images in .*samples/sec", script("train_multilabel.py", *flags))
    assert not list(tmp_path.glob("*.params"))


def test_a_frozen_backbone_does_not_move(tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, freeze="backbone")
    script("train_multilabel.py", *flags)
    _, before, before_aux = checkpoint.load(tiny_network, 0)
    sym, after, after_aux = checkpoint.load(str(tmp_path / "tiny"), 2)
    for name in before_aux:
        assert np.array_equal(before_aux[name].asnumpy(), after_aux[name].asnumpy()), name
    for name in set(before) & set(after):
        assert np.array_equal(before[name].asnumpy(), after[name].asnumpy()), name
    # The checkpoint itself can be trained on whole.
    assert "use_global_stats" not in sym.tojson()


def test_freezing_by_pattern_freezes_those_alone(tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, freeze="conv0|bn0")
    script("train_multilabel.py", *flags)
    _, before, before_aux = checkpoint.load(tiny_network, 0)
    _, after, after_aux = checkpoint.load(str(tmp_path / "tiny"), 2)
    same = {n for n in set(before) & set(after)
            if np.array_equal(before[n].asnumpy(), after[n].asnumpy())}
    assert same == {"conv0_weight", "bn0_gamma", "bn0_beta"}
    assert np.array_equal(before_aux["bn0_moving_mean"].asnumpy(),
                          after_aux["bn0_moving_mean"].asnumpy())
    assert not np.array_equal(before_aux["bn1_moving_mean"].asnumpy(),
                              after_aux["bn1_moving_mean"].asnumpy())


def test_the_symbol_file_is_plain_json_with_attributes(trained):
    graph = json.loads((trained[0] / "tiny-symbol.json").read_text())
    data = next(n for n in graph["nodes"] if n["name"] == "data")
    assert json.loads(data["attrs"]["__rgb_image_shape__"]) == [3, 32, 32]


@pytest.mark.slow
def test_photos_of_many_classes_are_ranked_better_than_at_random(ccp, tiny_network, tmp_path):
    text = script("train_multilabel.py", *training_flags(
        tiny_network, ccp, tmp_path, data_train=ccp / "val.lst", image_train=ccp / "photos",
        data_val=None, image_val=None, image_shape="3,48,48", squash=True, num_epoch=8,
        batch_size=8, optimizer="adam", lr=0.03, lr_schedule="cosine"))
    assert "120 training images, 58 classes" in text
    rows = (ccp / "val.lst").read_text().splitlines()
    labels = np.array([row.split("\t")[1:-1] for row in rows], float)
    labels, rng = labels[:, labels.any(axis=0)], np.random.RandomState(0)
    random = [average_precision_score(labels, rng.rand(*labels.shape)) for _ in range(20)]
    reached = float(re.findall(r"Train-mAP=([.\d]+)",
                               (tmp_path / "train.log").read_text())[-1])
    assert reached > 1.1 * max(random)
