"""network/forward_pass.py: the outputs do not depend on how a batch is divided into pieces."""
import numpy as np
import pytest

from common.mx_compat import mx
from network import checkpoint, forward_pass
from network.forward_pass import ForwardPass

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
