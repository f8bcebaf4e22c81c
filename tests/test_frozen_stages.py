"""--freeze-stages: where stages end, and that stored outputs train as the whole network does."""
import re

import numpy as np
import pytest
from conftest import predictions, script, train_all, training_flags

from common.cli import InputError
from common.mx_compat import mx
from evaluation.classifier import Classifier
from evaluation.thresholds import choose_thresholds
from network import checkpoint
from network.fine_tune import get_fine_tune_model
from training.frozen_stages import choose_stages, find_stages

EFFICIENTNET_STAGES = [(16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]


def trained_params(result, number):
    return {name: value.asnumpy() for params in checkpoint.load(str(result / "tiny"), number)[1:]
            for name, value in params.items()}


def test_the_stages_of_an_inverted_residual_network_end_where_it_is_narrow():
    from convert.torch_networks import efficientnet_lite
    symbol, _ = get_fine_tune_model(efficientnet_lite("efficientnet_lite0")[0], {}, 8)
    stages = find_stages(symbol, (3, 224, 224))
    assert [shape for _, shape in stages] == EFFICIENTNET_STAGES
    assert stages[3][0] == "block5_3_add"


def test_the_stages_of_a_residual_network_end_after_its_additions():
    symbol = mx.gluon.model_zoo.vision.resnet50_v1()(mx.sym.Variable("data"))
    symbol, _ = get_fine_tune_model(symbol, {}, 8)
    stages = find_stages(symbol, (3, 224, 224))
    assert [shape for _, shape in stages] == [
        (64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    with pytest.raises(InputError, match="5 stages"):
        choose_stages(symbol, (3, 224, 224), 5)
    assert choose_stages(symbol, (3, 224, 224), "auto") == (3, stages[2][0])
    assert choose_stages(symbol, (3, 320, 480), "auto")[0] == 4


def test_stored_outputs_train_what_the_whole_network_trains(tiny_network, small_demo, tmp_path):
    flags = {"squash": True, "random_mirror": 0, "num_epoch": 2}
    texts = [script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path / name, **flags, **more))
        for name, more in (("stored", {"freeze_stages": 1}), ("whole", {"freeze": "(conv|bn)0"}))]
    assert "once through" in texts[0] and "once through" not in texts[1]
    first = trained_params(tmp_path / "stored", 1)
    whole = trained_params(tmp_path / "whole", 1)
    pretrained = checkpoint.load(tiny_network, 0)[1]
    assert set(first) == set(whole)
    for name, value in first.items():
        np.testing.assert_allclose(value, whole[name], atol=2e-3, err_msg=name)
    np.testing.assert_array_equal(first["conv0_weight"], pretrained["conv0_weight"].asnumpy())
    assert np.abs(first["conv1_weight"] - pretrained["conv1_weight"].asnumpy()).max() > 0.02
    losses = [float(value) for result in ("stored", "whole") for value in re.findall(
        r"Epoch\[1\] Validation-loss=([.\d]+)",
        (tmp_path / result / "train.log").read_text())]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.slow  # the next one holds it for int8
def test_a_resumed_run_on_stored_outputs_equals_an_undisturbed_one(
        tiny_network, small_demo, tmp_path):
    def train(name, **more):
        script("train_multilabel.py", *training_flags(
            tiny_network, small_demo, tmp_path / name, squash=True, freeze_stages=1,
            warm_head_epochs=1, **more))

    train("undisturbed")
    train("stopped", num_epoch=1)
    train("stopped", resume=True)
    one, other = (trained_params(tmp_path / name, 2) for name in ("undisturbed", "stopped"))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_a_run_in_int8_says_so_and_is_resumed_in_int8(tiny_network, small_demo, tmp_path):
    def flags(name, precision="int8", **more):
        return training_flags(
            tiny_network, small_demo, tmp_path / name, squash=True, freeze_stages=1,
            warm_head_epochs=1, frozen_precision=precision, **more)

    runs = [flags("undisturbed"), flags("stopped", num_epoch=1),
            flags("stopped", "float32", resume=True), flags("stopped", resume=True),
            flags("float32", "auto")]
    status, texts = zip(*train_all(runs))
    assert [bool(each) for each in status] == [False, False, True, False, False], texts
    assert "began in int8" in texts[2] and "--resume-anyway" in texts[2]
    one, other, plain = (trained_params(tmp_path / name, 2)
                         for name in ("undisturbed", "stopped", "float32"))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert not np.array_equal(one["fc_weight"], plain["fc_weight"])
    np.testing.assert_allclose(one["conv1_weight"], plain["conv1_weight"], atol=0.1)
    for name, precision in (("undisturbed", "int8"), ("stopped", "int8"), ("float32", "float32")):
        log = (tmp_path / name / "train.log").read_text()
        symbol, *_ = checkpoint.load(str(tmp_path / name / "tiny"), 2)
        assert f"frozen layers, in {precision}: " in log
        assert precision in checkpoint.get_attributes(symbol)["training"]["frozen layers"]
        # What validates and chooses thresholds is the checkpoint's float32.
        classifier = Classifier(str(tmp_path / name / "tiny"), 2)
        label, prob = predictions(classifier, small_demo / "val.lst", small_demo / "images")
        np.testing.assert_allclose(classifier.thresholds, choose_thresholds(label, prob), atol=1e-5)


def test_random_crops_pass_through_the_frozen_stages_in_each_epoch(
        tiny_network, small_demo, tmp_path):
    text = script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, freeze_stages=1, num_epoch=1))
    assert "once through" not in text
    after = trained_params(tmp_path, 1)
    pretrained = checkpoint.load(tiny_network, 0)
    for params in pretrained[1:]:
        for name, value in params.items():
            if re.match("(conv|bn)0", name):
                np.testing.assert_array_equal(after[name], value.asnumpy())


@pytest.mark.slow
def test_head_and_stages_are_chosen_by_the_network(tiny_network, small_demo, tmp_path):
    symbol, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    flat = mx.sym.Flatten(symbol.get_internals()["relu1_output"])
    flat = mx.sym.Activation(mx.sym.FullyConnected(flat, num_hidden=20, name="fc0"),
                             act_type="relu", name="relu2")
    flat = mx.sym.FullyConnected(flat, num_hidden=10, name="fc1")
    shapes = dict(zip(flat.list_arguments(), flat.infer_shape(data=(1, 3, 32, 32))[0]))
    arg_params.update({name: mx.nd.random.normal(shape=shapes[name]) / 10
                       for name in ("fc0_weight", "fc0_bias", "fc1_weight", "fc1_bias")})
    checkpoint.save(str(tmp_path / "flat"), 0, flat, arg_params, aux_params)
    for model, head in ((tiny_network, "attention"), (tmp_path / "flat", "linear")):
        script("train_multilabel.py", *training_flags(
            model, small_demo, tmp_path / head, head="auto", freeze_stages="auto", squash=True,
            warm_head_epochs=1, num_epoch=1))
        log = (tmp_path / head / "train.log").read_text()
        assert " freeze_stages=1 " in log and f" head={head} " in log
