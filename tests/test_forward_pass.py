"""network/forward_pass.py: the outputs do not depend on how a batch is divided into pieces."""
import numpy as np
import pytest

from common.mx_compat import mx
from network import checkpoint, forward_pass
from network.forward_pass import ForwardPass, choose_forward_pass

BATCH, SIDE = 7, 32


@pytest.fixture(scope="module")
def network(tiny_network):
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    sym, constants = checkpoint.with_normalisation(sym, (10, 120, 200), (50, 60, 70))
    return sym.get_internals()["fc1_output"], {**arg_params, **constants}, aux_params


@pytest.fixture(scope="module")
def pixels():
    return np.random.RandomState(0).randint(0, 256, (BATCH, 3, SIDE, SIDE)).astype(np.uint8)


def by_module(network, pixels):
    """Outputs of the whole batch at once, by MXNet's Module."""
    net, arg_params, aux_params = network
    module = mx.mod.Module(net, label_names=None)
    module.bind([mx.io.DataDesc("data", pixels.shape, np.uint8)], for_training=False)
    module.set_params(arg_params, aux_params)
    module.forward(mx.io.DataBatch([mx.nd.array(pixels, dtype="uint8")]), is_train=False)
    return module.get_outputs()[0].asnumpy()


@pytest.mark.parametrize("most", [1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize("devices", [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]])
def test_pieces_give_what_the_whole_batch_gives(most, devices, network, pixels, monkeypatch):
    monkeypatch.setattr(forward_pass, "PIECE_PIXELS", most * SIDE * SIDE)
    forward = ForwardPass(*network, mx.io.DataDesc("data", pixels.shape, np.uint8), devices)
    for count in (0, 1, 4, BATCH):
        got = forward(mx.nd.array(pixels, dtype="uint8"), count).values()
        assert got.shape == (count, 10)
        np.testing.assert_allclose(got, by_module(network, pixels)[:count], rtol=0, atol=1e-5)
    mirrored = forward(mx.nd.array(pixels, dtype="uint8"), mirror=True).values()
    np.testing.assert_allclose(mirrored, by_module(network, pixels[..., ::-1]), rtol=0, atol=1e-5)


def test_the_next_batch_does_not_overwrite_outputs_that_wait(network, pixels):
    forward = ForwardPass(*network, mx.io.DataDesc("data", pixels.shape, np.uint8), [mx.cpu()])
    first = forward(mx.nd.array(pixels, dtype="uint8"))
    second = forward(mx.nd.array(255 - pixels, dtype="uint8"))
    np.testing.assert_allclose(second.values(), by_module(network, 255 - pixels), atol=1e-5)
    np.testing.assert_allclose(first.values(), by_module(network, pixels), atol=1e-5)


def photos(seed):
    """Smooth images, (8, 3, SIDE, SIDE)."""
    rng = np.random.RandomState(seed)
    cells = rng.rand(8, 3, 4, 4).repeat(SIDE // 4, 2).repeat(SIDE // 4, 3)
    return mx.nd.array(cells * 200 + rng.rand(8, 3, SIDE, SIDE) * 55, dtype="uint8")


def test_int8_gives_nearly_what_float32_gives(network):
    description = mx.io.DataDesc("data", (8, 3, SIDE, SIDE), np.uint8)
    plain, forward = (ForwardPass(*network, description, [mx.cpu()], *more)
                      for more in ((), (photos(1),)))
    assert (plain.precision, forward.precision) == ("float32", "int8")
    for images in (photos(1), photos(2)):
        one, other = plain(images).values(), forward(images).values()
        assert not np.array_equal(one, other)
        np.testing.assert_allclose(other, one, atol=0.1 * np.abs(one).max())
        np.testing.assert_array_equal(forward(images).values(), other)


@pytest.mark.parametrize("speed_up, cosine, chosen", [
    (0, -1, "int8"), (1000, -1, "float32"), (0, 1.1, "float32")])
def test_int8_is_chosen_where_it_is_faster_and_as_good(
        speed_up, cosine, chosen, network, monkeypatch):
    for name, value in (("LEAST_SPEED_UP", speed_up), ("LEAST_COSINE", cosine),
                        ("multiplies_exactly", lambda: True)):
        monkeypatch.setattr(forward_pass, name, value)
    description = mx.io.DataDesc("data", (8, 3, SIDE, SIDE), np.uint8)

    def choose(precision, num_images, read_sample=lambda: photos(1)):
        forward, reason = choose_forward_pass(network, description, [mx.cpu()], precision,
                                              num_images, read_sample)
        return forward.precision, reason

    many = 10 ** 9
    assert choose("auto", many)[0] == chosen
    assert choose("int8", 1)[0] == "int8"
    # None of these reads images.
    assert choose("auto", 1, None) == ("float32", "too few images for trying int8 to pay off")
    assert choose("float32", many, None)[0] == "float32"
    monkeypatch.setattr(forward_pass, "multiplies_exactly", lambda: False)
    precision, reason = choose("auto", many, None)
    assert precision == "float32" and "saturates" in reason


def test_what_mxnet_cannot_quantise_stays_in_float32(network):
    symbol, arg_params, aux_params = network
    normalised = symbol.get_internals()["rgb_normalised_output"]
    forward, reason = choose_forward_pass(
        (mx.sym.sigmoid(normalised), arg_params, aux_params),
        mx.io.DataDesc("data", (8, 3, SIDE, SIDE), np.uint8), [mx.cpu()], "int8", 1,
        lambda: photos(1))
    assert forward.precision == "float32" and "MXNet cannot compute" in reason
