"""Networks that normalise their pixels themselves, or say nothing of how it was done."""
import logging
import shutil

import cv2
import numpy as np
import pytest

from common.cli import InputError
from common.mx_compat import mx
from network import checkpoint
from network.fine_tune import find_own_normalisation, load_pretrained, variance_ratio
from network.forward_pass import ForwardPass
from network.graph import layers_up_to
from reading.lst_file import SampleList, read_lst
from reading.read_options import ReadOptions
from training.data import check_normalisation

RAW, UNIT, SIGNED, IMAGENET = ((0,) * 3, (1,) * 3), ((0,) * 3, (255,) * 3), ((127.5,) * 3,) * 2, (
    checkpoint.IMAGENET_MEAN, checkpoint.IMAGENET_STD)
DATA = mx.sym.Variable("data")
CONSTANTS = {"mean_constant": [[[123.7]], [[116.3]], [[103.5]]], "scale_constant": [[[0.017]]] * 3}


def network(begin):
    """A small trained-looking network after these first layers, and its parameters."""
    layer = mx.sym.Convolution(begin, num_filter=8, kernel=(3, 3), stride=(2, 2), name="conv0")
    layer = mx.sym.Activation(mx.sym.BatchNorm(layer, name="bn0"), act_type="relu")
    layer = mx.sym.Pooling(layer, global_pool=True, kernel=(1, 1), pool_type="avg")
    layer = mx.sym.FullyConnected(layer, num_hidden=4, name="fc1")
    symbol = mx.sym.SoftmaxOutput(layer, name="softmax")
    arg_shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 32, 32))
    random = np.random.RandomState(0)
    args = {name: mx.nd.array(CONSTANTS.get(name, random.uniform(-1, 1, shape)))
            for name, shape in zip(symbol.list_arguments(), arg_shapes)
            if name not in ("data", "softmax_label")}
    aux = {name: mx.nd.array(random.uniform(0.5, 2, shape))
           for name, shape in zip(symbol.list_auxiliary_states(), aux_shapes)}
    return symbol, args, aux


def batch_norm_on_data(mean, deviation):
    symbol, args, aux = network(mx.sym.BatchNorm(mx.sym.Cast(DATA, dtype="float32"), eps=2e-5,
                                                 name="bn_data"))
    aux["bn_data_moving_mean"][:] = np.array(mean)
    aux["bn_data_moving_var"][:] = np.array(deviation) ** 2
    return symbol, args, aux


def with_constants():
    mean, scale = (mx.sym.Variable(name, shape=(1, 3, 1, 1)) for name in (
        "mean_constant", "scale_constant"))
    symbol, args, aux = network(mx.sym.broadcast_mul(mx.sym.broadcast_sub(DATA, mean), scale))
    return symbol, {**args, **{name: mx.nd.array([CONSTANTS[name]]) for name in CONSTANTS}}, aux


@pytest.mark.parametrize(("network", "expected"), [
    (batch_norm_on_data([124, 117, 104], [58, 57, 57]), RAW),
    (batch_norm_on_data([20, 18, 15], [40, 38, 44]), RAW),  # microscopy: dark
    (batch_norm_on_data([0.49, 0.46, 0.4], [0.23, 0.22, 0.22]), UNIT),
    (batch_norm_on_data([0.01, -0.05, -0.1], [0.47, 0.45, 0.45]), SIGNED),
    (batch_norm_on_data([0.01, -0.05, -0.1], [1.02, 0.98, 1.1]), None),  # as Gluon's ResNet v2
    (network((DATA - 127.5) * 0.0078125), RAW), (network(DATA * 0.0078125 - 1), RAW),
    (network(DATA / 255), RAW), (network((DATA / 255 - 0.449) / 0.226), RAW),
    (network((DATA - 0.449) / 0.226), UNIT), (network(DATA * 2 - 1), UNIT),
    (with_constants(), RAW), (network(DATA), None), (network(mx.sym.relu(DATA)), None)])
def test_what_a_network_begins_with_tells_which_pixels_it_takes(network, expected):
    found = find_own_normalisation(*network)
    assert (found and tuple(map(tuple, found[:2]))) == expected


def test_what_a_network_begins_with_is_not_computed_where_it_is_too_large():
    tall, wide = (mx.sym.Variable(name, shape=shape) for name, shape in (
        ("tall", (1, 3, 40_000, 1)), ("wide", (1, 1, 1, 40_000))))
    symbol = mx.sym.relu(mx.sym.broadcast_add(mx.sym.broadcast_add(DATA, tall), wide))
    args = {"tall": mx.nd.ones((1, 3, 40_000, 1)), "wide": mx.nd.ones((1, 1, 1, 40_000))}
    with pytest.raises(InputError, match="values per image"):
        find_own_normalisation(symbol, args, {}, "bomb-symbol.json")


@pytest.mark.parametrize("network", [batch_norm_on_data([124, 117, 104], [58, 57, 57]),
                                     network((DATA - 127.5) * 0.0078125)])
def test_such_a_network_gets_raw_pixels(network, tmp_path):
    symbol, args, aux = network
    prefix = str(tmp_path / "net")
    checkpoint.save(prefix, 0, *network)
    loaded, *params, text = load_pretrained(prefix, 0)
    assert "the network itself" in text
    pixels = np.random.RandomState(1).randint(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    # MXNet by itself, with the pixels as they are.
    executor = layers_up_to(symbol, "fc1").bind(
        mx.cpu(), {**args, "data": mx.nd.array(pixels.astype(np.float32))}, aux_states=aux)
    expected = executor.forward(is_train=False)[0].asnumpy()
    data = mx.io.DataDesc("data", pixels.shape, np.uint8)
    forward = ForwardPass(layers_up_to(loaded, "fc1"), *params, data, [mx.cpu()])
    found = forward(mx.nd.array(pixels, dtype="uint8")).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    *_, text = load_pretrained(prefix, 0, (1, 2, 3), (4, 5, 6))
    assert "1/2/3" in text and "--rgb-mean" in text  # what is given wins


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures like photos, as a SampleList."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(20):
        random = np.random.RandomState(number)
        picture = cv2.resize(random.randint(0, 256, (6, 6, 3)).astype(np.uint8), (64, 64))
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    lst = folder / "train.lst"
    lst.write_text("".join(f"{n}\t{n % 2}\t{1 - n % 2}\t{n}.png\n" for n in range(20)))
    return SampleList(read_lst(lst), str(folder))


@pytest.mark.parametrize(("normalised", "warns"), [
    (IMAGENET, False), (SIGNED, False), (UNIT, True), (RAW, True)])
def test_images_that_vary_otherwise_than_in_the_networks_training_are_told(photos, normalised,
                                                                           warns, tmp_path):
    symbol, args, aux = network(DATA)
    pixels = np.stack([cv2.imread(f"{photos.folder}/{number}.png")[..., ::-1].transpose(2, 0, 1)
                       for number in range(20)]).astype(np.uint8)
    # The statistics as training on ImageNet's normalisation would store them.
    sym, constants = checkpoint.with_normalisation(symbol, *IMAGENET)
    executor = sym.get_internals()["conv0_output"].bind(mx.cpu(), {
        **args, **constants, "data": mx.nd.array(pixels, dtype="uint8")})
    aux["bn0_moving_var"][:] = executor.forward()[0].asnumpy().var(axis=(0, 2, 3))
    sym, constants = checkpoint.with_normalisation(symbol, *normalised)
    found = check_normalisation((sym, {**args, **constants}, aux), photos, [3, 64, 64],
                                ReadOptions())
    assert bool(found) == warns
    assert all("bn0" in line and "--rgb-mean" in line for line in found)
    if normalised == IMAGENET:
        assert abs(variance_ratio(sym, {**args, **constants}, aux, pixels)[1] - 1) < 1e-4
    broken = shutil.copytree(photos.folder, tmp_path / "broken")
    (broken / "0.png").write_bytes(b"no image")  # the others are enough
    assert bool(check_normalisation((sym, {**args, **constants}, aux),
                                    SampleList(photos.lst, str(broken)), [3, 64, 64],
                                    ReadOptions())) == warns
    aux["bn0_moving_var"][:] = 1  # untrained: nothing is known
    assert not check_normalisation((sym, {**args, **constants}, aux), photos, [3, 64, 64],
                                   ReadOptions())


def test_the_log_and_the_checkpoint_say_which_normalisation_is_used(photos, tmp_path, caplog):
    import train_multilabel

    prefix, result = str(tmp_path / "net"), tmp_path / "result"
    checkpoint.save(prefix, 0, *network(DATA))
    with caplog.at_level(logging.INFO):
        train_multilabel.main([
            "--model", prefix, "--data-train", photos.lst.path, "--image-train", photos.folder,
            "--image-shape", "3,32,32", "--num-epoch", "1", "--batch-size", "10", "--gpus", "",
            "--save-result", str(result), "--save-name", "net"])
    log = (result / "train.log").read_text()
    assert "123.7/116.3/103.5" in log and "--rgb-mean" in log
    symbol = mx.sym.load(str(result / "net-symbol.json"))
    assert "ImageNet" in checkpoint.get_attributes(symbol)["training"]["normalisation"]


@pytest.mark.parametrize("middle", [
    lambda x: x, lambda x: mx.sym.Activation(x, act_type="relu"),
    lambda x: mx.sym.Dropout(mx.sym.BatchNorm(x, name="bn9"))])
def test_a_fully_connected_layer_on_a_map_gets_a_flatten(middle, tmp_path):
    layer = mx.sym.Convolution(DATA, num_filter=16, kernel=(3, 3), name="conv")
    layer = mx.sym.Pooling(layer, global_pool=True, kernel=(1, 1), pool_type="avg")
    symbol = mx.sym.FullyConnected(middle(layer), num_hidden=4, name="fc")
    symbol = mx.sym.FullyConnected(symbol, num_hidden=3, name="fc2")
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (2, 3, 16, 16))], for_training=False)
    module.init_params(mx.init.Uniform(1))
    checkpoint.save(str(tmp_path / "net"), 0, symbol, *module.get_params())
    loaded, *params = checkpoint.load(str(tmp_path / "net"), 0)
    nodes = checkpoint.Graph(loaded)
    assert nodes["fc"].input().op == "Flatten" and nodes["fc2"].input().op == "FullyConnected"
    batch = mx.io.DataBatch([mx.nd.random.uniform(shape=(2, 3, 16, 16))])
    module.forward(batch)
    expected = module.get_outputs()[0].asnumpy()
    executor = loaded.bind(mx.cpu(), {**params[0], "data": batch.data[0]}, aux_states=params[1])
    for _ in range(3):
        np.testing.assert_allclose(executor.forward()[0].asnumpy(), expected, rtol=1e-5, atol=1e-6)
