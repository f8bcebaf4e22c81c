"""The attention head: its logits, its class maps, and where they are shown."""
import base64
import json
import math
import re

import cv2
import numpy as np
import pytest
from conftest import script, training_flags

from common.cli import InputError
from common.mx_compat import mx
from evaluation import classifier as classifier_module
from evaluation.classifier import Classifier
from evaluation.pictures import COLOURS, OPACITY, Photos, draw, intensities
from lst_iter import LstIter
from network import checkpoint
from network.fine_tune import find_feature_map, get_fine_tune_model
from network.forward_pass import ForwardPass
from predict_multilabel import main
from reading.read_options import ReadOptions


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
    batch = next(LstIter(batch_size=8, data_shape=(3, 64, 64), path_root=str(small_demo / "images"),
                         path_imglist=str(small_demo / "val.lst")))
    batch.pad, batch.bad = 0, {}
    return batch


class Batches(list):
    provide_data = [mx.io.DataDesc("data", (8, 3, 64, 64), np.uint8)]
    batch_size = 8


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
    (_, prob, _), = Classifier(str(trained), 0).predict(Batches([batch]), [mx.cpu()])
    np.testing.assert_allclose(prob, 1 / (1 + np.exp(-logit)), atol=1e-5)
    assert np.ptp(maps, axis=(2, 3)).min() > 0


def test_a_position_is_the_image_that_looks_like_it_everywhere(trained, batch):
    expected = 1 / (1 + np.exp(-1.5 * class_maps(trained, batch)))
    (_, prob, maps), = Classifier(str(trained), 0).predict(Batches([batch]), [mx.cpu()],
                                                           with_maps=True)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert (maps.max(axis=(2, 3)) >= prob - 1e-6).all()
    assert (maps.min(axis=(2, 3)) <= prob + 1e-6).all()


@pytest.mark.parametrize("mirror", [False, True])
def test_one_pass_gives_the_maps_and_the_very_same_probabilities(trained, batch, mirror,
                                                                 monkeypatch):
    networks = []

    class Recorded(ForwardPass):
        def __init__(self, network, *args):
            networks.append(json.loads(network.tojson())["nodes"])
            super().__init__(network, *args)

    monkeypatch.setattr(classifier_module, "ForwardPass", Recorded)
    classifier, batches = Classifier(str(trained), 0), Batches([batch, batch])
    alone = [prob for _, prob, _ in classifier.predict(batches, [mx.cpu()], mirror)]
    with_maps = [prob for _, prob, _ in classifier.predict(batches, [mx.cpu()], mirror, True)]
    np.testing.assert_array_equal(alone, with_maps)
    assert [sum(node["op"] == "Convolution" for node in nodes) for nodes in networks] == [3, 3]


def test_the_scale_begins_at_the_threshold_and_ends_at_one():
    maps = np.broadcast_to(np.float32([[0.1, 0.4], [0.75, 1]]), (3, 2, 2))
    np.testing.assert_array_equal(intensities(maps, [0.4, 0.05, 1.0]), [
        [[0, 0], [math.ceil(255 * 0.35 / 0.6), 255]],
        [[math.ceil(255 * part / 0.95) for part in row] for row in ([0.05, 0.35], [0.7, 0.95])],
        [[0, 0], [0, 0]]])


def test_what_is_above_the_threshold_is_never_black():
    assert intensities(np.full((1, 1, 1), 0.501, np.float32), [0.5]) == 1


def test_colours_are_read_by_their_lightness_alone():
    lightness = cv2.cvtColor(COLOURS[None], cv2.COLOR_BGR2LAB)[0, :, 0].astype(int)
    assert lightness[0] <= 2 and lightness[-1] >= 240 and (np.diff(lightness) >= -1).all()


def test_a_picture_has_the_colours_of_the_map_over_the_image_in_grey():
    image = np.random.RandomState(0).randint(0, 256, (66, 99, 3)).astype(np.uint8)
    grid = np.uint8([[255, 0, 0], [0, 0, 90]])
    picture = draw(image, grid)
    grey = image @ [0.114, 0.587, 0.299]
    for (row, column), value in np.ndenumerate(grid):
        middle = 33 * row + 16, 33 * column + 16
        expected = (1 - OPACITY) * grey[middle] + OPACITY * COLOURS[value]
        np.testing.assert_allclose(picture[middle], expected, atol=1)


def test_maps_of_the_predicted_classes_are_written(trained, small_demo, tmp_path):
    table = script("predict_multilabel.py", "--model", trained, "--epoch", 0, "--data",
                   small_demo / "val.lst", "--image", small_demo / "images", "--maps",
                   tmp_path / "maps", "--above", 0.5, "--format", "jsonl")
    predicted = sum(len(re.findall(r'"[^"]+": [01]?\.\d+', line)) for line in table.splitlines())
    pictures = sorted((tmp_path / "maps").iterdir())
    assert len(pictures) == predicted > 0
    assert all(re.fullmatch(r"\d{6}-[\w.]+-\w+\.jpg", picture.name) for picture in pictures)
    assert cv2.imread(str(pictures[0])).shape == (64, 64, 3)


def page_data(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))


def grid_of(maps, c):
    return np.frombuffer(base64.b64decode(maps["classes"][str(c)]), np.uint8).reshape(maps["shape"])


def test_a_linear_head_has_no_maps(tiny_network, small_demo, tmp_path):
    script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, warm_head_epochs=1, num_epoch=0))
    flags = ["--model", str(tmp_path / "tiny"), "--epoch", "0", "--data",
             str(small_demo / "val.lst"), "--image", str(small_demo / "images")]
    with pytest.raises(InputError, match="has no class maps: only networks trained with --head "
                                         "attention have"):
        main([*flags, "--maps", str(tmp_path / "maps")])
    assert not (tmp_path / "maps").exists()
    main([*flags, "--report", str(tmp_path / "report")])
    data = page_data(tmp_path / "report")
    assert "mapColours" not in data and not any("maps" in photo for photo in data["photos"])


def test_the_report_has_the_maps_of_the_classes_that_a_photo_lists(trained, small_demo, tmp_path):
    main(["--model", str(trained), "--epoch", "0", "--data", str(small_demo / "val.lst"), "--image",
          str(small_demo / "images"), "--report", str(tmp_path)])
    data = page_data(tmp_path)
    assert len(data["photos"]) == 20 and len(data["mapColours"]["scale"]) == 256
    samples = LstIter(20, (3, 64, 64), str(small_demo / "val.lst"), str(small_demo / "images"),
                      read_options=ReadOptions(fit="squash"))
    batch, place = samples.next(), {samples.lst.name(row): row for row in range(20)}
    prob = 1 / (1 + np.exp(-1.5 * class_maps(trained, batch)))
    thresholds = Classifier(str(trained), 0).thresholds.reshape(-1, 1, 1)
    expected = 255 * ((prob - thresholds) / (1 - thresholds)).clip(0, 1)
    listed = 0
    for photo in data["photos"]:
        classes = [c for kind in ("true_positives", "false_positives", "false_negatives", "unknown")
                   for c, _ in photo[kind]]
        assert sorted(map(int, photo.get("maps", {"classes": []})["classes"])) == sorted(classes)
        for c in classes:
            rest = grid_of(photo["maps"], c) - expected[place[photo["name"]], c]
            assert (rest >= -0.02).all() and (rest < 1).all()
        listed += len(classes)
    assert listed > 20


def brightness_network(prefix, turned, **attributes):
    """A network whose one class is the brightness of 16x16 pixels."""
    net = mx.sym.Variable("data")
    if turned:
        net = mx.sym.slice(net, begin=(None,) * 4, end=(None,) * 4, step=(1, 1, -1, -1))
    net = mx.sym.Pooling(net, kernel=(16, 16), stride=(16, 16), pool_type="avg", name="features")
    net = mx.sym.FullyConnected(mx.sym.Flatten(net), num_hidden=2, name="last")
    net, constants = checkpoint.with_normalisation(net, (127, 127, 127), (128, 128, 128))
    net = checkpoint.set_attributes(net, image_shape=attributes["image_shape"])
    net, _ = get_fine_tune_model(net, {}, 1, layer_name="features", attention=0.3)
    parameters = {"fc_weight": mx.nd.full((1, 3, 1, 1), 4), "fc_bias": mx.nd.zeros((1,))}
    net = checkpoint.set_attributes(net, **attributes)
    checkpoint.save(str(prefix), 0, net, {**constants, **parameters}, {})
    return Classifier(str(prefix), 0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("attributes, shape, square, cell", [
    # The centre crop of 400x240 pixels is 240x240 from x = 80 on: cells of 60 pixels.
    ({"fit": "crop"}, (64, 64), (80, 0, 60, 60), (0, 0)),
    ({"fit": "crop"}, (64, 64), (260, 120, 60, 60), (2, 3)),
    # Of 240 pixels resized to 128 the crop's 64 are 120, in the middle: cells of 30 pixels.
    ({"fit": "crop", "resize": 128}, (64, 64), (140, 150, 30, 30), (3, 0)),
    # 400x200 pixels from y = 20 on, as 64x32: cells of 100 pixels.
    ({"fit": "crop"}, (32, 64), (300, 20, 100, 100), (0, 3)),
    ({"fit": "squash"}, (64, 64), (300, 180, 100, 60), (3, 3)),
    ({"fit": "squash"}, (48, 32), (0, 160, 200, 80), (2, 0)),
    # 400x240 as 64x38 under 13 rows of padding: 38 rows of 64 hold the image.
    ({"fit": "pad"}, (64, 64), (100, 19, 100, 101), (1, 1)),
    # 400x240 as 160x96 beside 16 columns of padding.
    ({"fit": "pad"}, (96, 192), (0, 40, 40, 40), (1, 1)),
])
def test_a_map_lies_over_what_was_seen(tmp_path, turned, attributes, shape, square, cell):
    classifier = brightness_network(tmp_path / "net", turned, image_shape=[3, *shape], **attributes)
    photo, (x, y, width, height) = np.zeros((240, 400, 3), np.uint8), square
    photo[y:y + height, x:x + width] = 255
    path = str(tmp_path / "photo.png")
    cv2.imwrite(path, photo)
    photos = Photos(classifier, [mx.cpu()], batch_size=1)
    (grids,) = photos.maps([path], [np.array([0])], 1000)
    assert grids[0].shape == (shape[0] // 16, shape[1] // 16)
    assert np.unravel_index(grids[0].argmax(), grids[0].shape) == cell
    assert np.sort(grids[0], axis=None)[-2] < 50 < grids[0].max()
    left, top, across, down = photos.area((400, 240))
    rows, columns = grids[0].shape
    np.testing.assert_allclose(
        [(left + across * cell[1] / columns) * 400, (top + down * cell[0] / rows) * 240,
         across / columns * 400, down / rows * 240], square, atol=1.1)


def test_images_that_are_gone_and_maps_beyond_the_limit_are_left_out(tmp_path):
    classifier = brightness_network(tmp_path / "net", False, image_shape=[3, 64, 64])
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    paths, maps = [str(tmp_path / name) for name in ("gone.png", "a.png")], Photos(
        classifier, [mx.cpu()], batch_size=8).maps
    classes = [np.array([0])] * 2
    assert [list(grids) for grids in maps(paths, classes, 16)] == [[], [0]]
    assert maps(paths, classes, 15) == [{}, {}]


def test_features_without_positions_are_refused():
    data = mx.sym.Variable("data")
    net = mx.sym.FullyConnected(mx.sym.Flatten(data), num_hidden=16, name="hidden")
    net = mx.sym.Activation(net, act_type="relu", name="relu")
    net = mx.sym.FullyConnected(net, num_hidden=10, name="last")
    with pytest.raises(InputError, match="--head attention wants features with positions"):
        get_fine_tune_model(net, {}, 8, attention=0.3)


@pytest.mark.parametrize("layer, found", [
    ("features", "features"), ("features_output", "features"), (None, "features"), ("last", None),
    ("absent", None)])
def test_whether_a_layer_has_a_feature_map_is_asked_of_any_name(layer, found):
    net = mx.sym.Pooling(mx.sym.Variable("data"), kernel=(16, 16), stride=(16, 16), name="features")
    net = mx.sym.FullyConnected(net, num_hidden=2, name="last")
    assert find_feature_map(net, layer, (3, 64, 64)) == found


def test_an_attention_network_can_be_fine_tuned_to_other_classes(trained):
    symbol, arg_params, _ = checkpoint.load(str(trained), 0)
    for attention in (None, 0.3):
        net, kept = get_fine_tune_model(symbol, arg_params, 3, attention=attention)
        assert net.infer_shape(data=(2, 3, 64, 64))[1] == [(2, 3)]
        assert "fc_weight" not in kept and "conv1_weight" in kept
