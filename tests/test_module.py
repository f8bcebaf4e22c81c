"""FineTuningModule.fit, held to mx.mod.Module.fit itself."""
import contextlib
import itertools
import logging
import re
import time

import numpy as np
import pytest

from common.mx_compat import mx
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision
from network.fine_tune import get_fine_tune_model, load_pretrained
from training.module import FineTuningModule, Uninterrupted
from training.run import Stopped

SGD = "sgd", {"learning_rate": 0.05, "momentum": 0.9, "wd": 1e-3}
ADAM = "adam", {"learning_rate": 0.01}


@pytest.fixture(scope="module")
def network(tiny_network):
    """A network with a BatchNorm and a Dropout, and its parameters."""
    symbol, arg_params, aux_params, _ = load_pretrained(tiny_network, 0)
    flat = symbol.get_internals()["flatten0_output"]
    symbol = mx.sym.FullyConnected(mx.sym.Dropout(flat, p=0.3), num_hidden=9, name="fc1")
    return (*get_fine_tune_model(symbol, arg_params, 4), aux_params)


def batches(rows=36):
    random = np.random.RandomState(rows)
    pixels = random.randint(0, 256, (rows, 3, 32, 32)).astype(np.uint8)
    labels = random.randint(0, 2, (rows, 4)).astype(np.float32)
    return mx.io.NDArrayIter(mx.nd.array(pixels, dtype=np.uint8), mx.nd.array(labels), 8,
                             label_name="softmax_label")


def fitted(kind, network, optimizer, contexts, caplog):
    """Parameters, what was logged, and what each callback got, after three epochs."""
    symbol, arg_params, aux_params = network
    told = []

    def note(name):
        return lambda param: told.append((name, param.epoch, param.nbatch,
                                          param.eval_metric.get_name_value()))

    module = kind(symbol, context=contexts)
    mx.random.seed(5)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        module.fit(
            batches(), batches(20), mx.metric.CompositeEvalMetric([Loss(), Accuracy()]),
            batch_end_callback=(note("batch"), mx.callback.Speedometer(8, 2)),
            epoch_end_callback=lambda epoch, symbol, arg_params, aux_params: told.append(
                (epoch, symbol.name, sorted(arg_params), sorted(aux_params))),
            eval_batch_end_callback=note("validation batch"), eval_end_callback=note("validated"),
            kvstore="device", optimizer=optimizer[0], optimizer_params=dict(optimizer[1]),
            initializer=mx.init.Xavier(), arg_params=arg_params, aux_params=aux_params,
            allow_missing=True, num_epoch=3, validation_metric=MeanAveragePrecision())
    params = {name: value.asnumpy() for part in module.get_params() for name, value in part.items()}
    lines = [record.getMessage().partition("\tSpeed")[0] for record in caplog.records]
    return params, told, [line for line in lines if "Time cost" not in line]


@pytest.mark.parametrize("contexts", [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]], ids=len)
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=lambda optimizer: optimizer[0])
def test_fit_is_mxnets_own_bit_for_bit(network, optimizer, contexts, caplog, monkeypatch):
    # MXNet's own loop may read the running statistics before the last batch has updated them.
    get_params = mx.mod.Module.get_params
    monkeypatch.setattr(mx.mod.Module, "get_params",
                        lambda self: mx.nd.waitall() or get_params(self))
    mxnets = fitted(mx.mod.Module, network, optimizer, contexts, caplog)
    params, told, lines = fitted(FineTuningModule, network, optimizer, contexts, caplog)
    before = {**network[1], **network[2]}
    assert not np.array_equal(params["conv1_weight"], before["conv1_weight"].asnumpy())
    assert set(params) == set(mxnets[0])
    for name, value in params.items():
        assert np.array_equal(value, mxnets[0][name]), name
    assert told == mxnets[1] and len(told) == 3 * (5 + 1 + 3 + 1)
    assert lines == mxnets[2] and len(lines) == 3 * (2 + 2 + 1)


def test_a_clock_that_is_set_back_makes_no_time_negative(network, caplog, monkeypatch):
    now, days = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: now - 86400 * next(days))
    fitted(FineTuningModule, network, SGD, [mx.cpu()], caplog)
    numbers = [float(number) for record in caplog.records for number in re.findall(
        r"(?:Time cost=|Speed: )(\S+)", record.getMessage())]
    assert len(numbers) == 3 * (2 + 1) and min(numbers) > 0


class Stopping(Uninterrupted):
    """Notes what fit calls, and stops at the first call of this name."""

    def __init__(self, name):
        self.name, self.asked = name, []

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if not name.startswith("after_"):
            return value
        def called(*args):
            self.asked.append(name)
            if name == self.name != "after_epoch":
                raise Stopped(1)
            return name == self.name
        return called


@pytest.mark.parametrize("name,count", [
    ("after_batch", 1), ("after_training", 6), ("after_validation_batch", 7), ("after_epoch", 10)])
def test_fit_ends_where_the_run_says_so(network, name, count):
    run = Stopping(name)
    symbol, arg_params, aux_params = network
    with contextlib.suppress(Stopped):
        FineTuningModule(symbol).fit(
            batches(), batches(20), Loss(), arg_params=arg_params, aux_params=aux_params,
            allow_missing=True, num_epoch=2, run=run)
    assert run.asked[-1] == name and len(run.asked) == count
