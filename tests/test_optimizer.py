"""The optimizers: their updates do not depend on what MXNet did with the weights before."""
import numpy as np
import pytest

from common.mx_compat import mx
from training.module import optimizer_params
from training.train_flags import parse_args

NEEDED = ["--model", "m", "--data-train", "t.lst", "--image-train", ".", "--mom", "0.9"]


@pytest.mark.parametrize("name", sorted({*mx.optimizer.Optimizer.opt_registry} - {"groupadagrad"}))
def test_an_update_is_the_same_after_a_validation(name):
    # Which leaves the weights in oneDNN's memory layout.
    random = np.random.RandomState(0)
    start, *gradients = random.normal(size=(3, 64, 32, 3, 3)).astype(np.float32)
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=64, kernel=(3, 3), no_bias=True)
    net = mx.sym.Flatten(net)
    updated = []
    for validates in (False, True):
        flags = parse_args([*NEEDED, "--optimizer", name, "--wd", "0.01"])
        optimizer = mx.optimizer.create(name, **optimizer_params(flags, 10))
        module = mx.mod.Module(net, label_names=None)
        module.bind([("data", (2, 32, 16, 16))])
        module.init_params()
        weight = module._exec_group.execs[0].arg_arrays[1]
        weight[:] = mx.nd.array(start)
        state = optimizer.create_state_multi_precision(0, weight)
        for gradient in gradients:
            if validates:
                module.forward(mx.io.DataBatch([mx.nd.ones((2, 32, 16, 16))]), is_train=False)
                mx.nd.waitall()
            mx.random.seed(3)
            optimizer.update_multi_precision(0, weight, mx.nd.array(gradient), state)
        updated.append(weight.asnumpy())
    assert np.array_equal(*updated)
    assert not np.array_equal(updated[0], start)
