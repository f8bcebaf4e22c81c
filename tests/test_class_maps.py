"""The attention head: its logits, its class maps, and the pictures of them."""
import re

import cv2
import numpy as np
import pytest
from conftest import script, training_flags

from common.cli import InputError
from common.mx_compat import mx
from evaluation.class_maps import ClassMaps
from evaluation.classifier import Classifier
from lst_iter import LstIter
from network import checkpoint
from network.fine_tune import get_fine_tune_model


@pytest.fixture(scope="module")
def trained(tiny_network, small_demo, tmp_path_factory):
    """Prefix of an attention network after its warm head."""
    result = tmp_path_factory.mktemp("attention")
    script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, result, image_shape="3,64,64", squash=True, head="attention",
        attention=0.5, warm_head_epochs=20, num_epoch=0))
    return result / "tiny"


@pytest.fixture(scope="module")
def batch(small_demo):
    return next(LstIter(batch_size=8, data_shape=(3, 64, 64), path_root=str(small_demo / "images"),
                        path_imglist=str(small_demo / "val.lst")))


def class_maps(prefix, batch):
    """The maps, (batch, classes, height, width), by MXNet's Module for the backbone and NumPy."""
    symbol, arg_params, aux_params = checkpoint.load(str(prefix), 0)
    module = mx.mod.Module(symbol.get_internals()["relu1_output"], label_names=None)
    module.bind([mx.io.DataDesc("data", batch.data[0].shape, np.uint8)], for_training=False)
    module.set_params(arg_params, aux_params, allow_extra=True)
    module.forward(mx.io.DataBatch(batch.data), is_train=False)
    features = module.get_outputs()[0].asnumpy()
    weight = arg_params["fc_weight"].asnumpy()[:, :, 0, 0]
    return (np.einsum("kc,ncyx->nkyx", weight, features)
            + arg_params["fc_bias"].asnumpy()[:, None, None])


def test_logits_are_the_mean_and_a_share_of_the_maximum_of_the_maps(trained, batch):
    maps = class_maps(trained, batch)
    logit = maps.mean(axis=(2, 3)) + 0.5 * maps.max(axis=(2, 3))
    classifier = Classifier(str(trained), 0)
    batch.pad, batch.bad = 0, {}

    class Batches(list):
        provide_data = [mx.io.DataDesc("data", batch.data[0].shape, np.uint8)]
        batch_size = 8

    (_, prob), = classifier.predict(Batches([batch]), [mx.cpu()])
    np.testing.assert_allclose(prob, 1 / (1 + np.exp(-logit)), atol=1e-5)
    assert np.ptp(maps, axis=(2, 3)).min() > 0


def test_pictures_are_red_where_the_map_is_highest(trained, batch):
    maps = class_maps(trained, batch)
    data = mx.io.DataDesc("data", batch.data[0].shape, np.uint8)
    drawn = ClassMaps(Classifier(str(trained), 0), data, [mx.cpu()])
    side = 64 / maps.shape[3]
    for slot in range(4):
        for one, picture in enumerate(drawn.draw(batch, slot, range(8))):
            image = batch.data[0][slot].asnumpy().transpose(1, 2, 0)[:, :, ::-1]
            redness = (picture - 0.55 * image) @ [-1, 0, 1]
            y, x = np.unravel_index(maps[slot, one].argmax(), maps.shape[2:])
            here = redness[int((y + 0.5) * side), int((x + 0.5) * side)]
            assert here > redness.mean()


def test_maps_of_the_predicted_classes_are_written(trained, small_demo, tmp_path):
    table = script("predict_multilabel.py", "--model", trained, "--epoch", 0, "--data",
                   small_demo / "val.lst", "--image", small_demo / "images", "--maps",
                   tmp_path / "maps", "--above", 0.5, "--format", "jsonl")
    predicted = sum(len(re.findall(r'"[^"]+": [01]?\.\d+', line)) for line in table.splitlines())
    pictures = sorted((tmp_path / "maps").iterdir())
    assert len(pictures) == predicted > 0
    assert all(re.fullmatch(r"\d{6}-[\w.]+-\w+\.jpg", picture.name) for picture in pictures)
    assert cv2.imread(str(pictures[0])).shape == (64, 64, 3)


def test_a_linear_head_has_no_maps(tiny_network, small_demo, tmp_path):
    script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, warm_head_epochs=1, num_epoch=0))
    text = script("predict_multilabel.py", "--model", tmp_path / "tiny", "--epoch", 0, "--maps",
                  tmp_path / "maps", small_demo / "images", status=2)
    assert "has no class maps: only networks trained with --head attention have" in text


def test_features_without_positions_are_refused():
    data = mx.sym.Variable("data")
    net = mx.sym.FullyConnected(mx.sym.Flatten(data), num_hidden=16, name="hidden")
    net = mx.sym.Activation(net, act_type="relu", name="relu")
    net = mx.sym.FullyConnected(net, num_hidden=10, name="last")
    with pytest.raises(InputError, match="--head attention wants features with positions"):
        get_fine_tune_model(net, {}, 8, attention=0.3)


def test_an_attention_network_can_be_fine_tuned_to_other_classes(trained):
    symbol, arg_params, _ = checkpoint.load(str(trained), 0)
    for attention in (None, 0.3):
        net, kept = get_fine_tune_model(symbol, arg_params, 3, attention=attention)
        assert net.infer_shape(data=(2, 3, 64, 64))[1] == [(2, 3)]
        assert "fc_weight" not in kept and "conv1_weight" in kept
