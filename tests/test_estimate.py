"""The estimate of a run's time: what it counts, and that runs tell it."""
import logging
import re
from types import SimpleNamespace

import pytest
from conftest import train_all, training_flags

from common.mx_compat import mx
from network.fine_tune import get_fine_tune_model
from training import estimate
from training.data import Data, Devices, Network
from training.optimization import Recipe
from training.workers import Workers


class Fixed:
    """Measurements without a clock: passing an image takes 0.1 s, a step 1 s an image."""

    reading = 0.01

    def __init__(self, *_):
        pass

    def shape(self, _):
        return (16, 4, 4)

    def together(self, computing, reading):
        return computing + reading

    def forward(self, _, rows, passes, val_rows):
        return 0.1 * (rows * passes + val_rows)

    def step(self, _, frozen, shape):
        return 0.01 if shape == (16, 4, 4) else 1


@pytest.mark.parametrize(("flags", "expected"), [
    ({}, "4 min here: 25 s for the new classifier, 2 epochs of 2 min"),
    ({"num_epoch": 0}, "25 s here: 25 s for the new classifier"),
    ({"warm_head_epochs": 0}, "4 min here: 2 epochs of 2 min"),
    ({"warm_head_epochs": 0, "freeze_stages": 1, "random_crop": 0},
     "25 s here: 23 s for the frozen stages, 2 epochs of 1 s")])
def test_the_parts_add_up(monkeypatch, caplog, tiny_network, flags, expected):
    monkeypatch.setattr(estimate, "Measurement", Fixed)
    args = SimpleNamespace(**{
        "warm_head_epochs": 1, "warm_head_mirror": True, "num_epoch": 2, "freeze_stages": 0,
        "random_mirror": 1, "random_crop": 1, "squash": False, **flags})
    monkeypatch.setattr(estimate, "can_be_stored", lambda args, _: bool(args.freeze_stages))
    symbol = mx.sym.load(f"{tiny_network}-symbol.json")
    network = Network(get_fine_tune_model(symbol, {}, 3)[0], {}, {})
    rows = [SimpleNamespace(num_rows=100), SimpleNamespace(num_rows=30)]
    with caplog.at_level(logging.INFO, "train_multilabel"):
        estimate.log_estimate(args, network, Recipe([], "relu0", {}), Data(*rows, None, None, None),
                              Devices([mx.cpu()], None, Workers()), None)
    assert caplog.messages == [f"This run takes about {expected}"]


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "under 1 s"), (7.4, "7 s"), (99.4, "99 s"), (149, "2 min"), (5900, "98 min"),
    (7860, "2 h 11 min")])
def test_duration(seconds, text):
    assert estimate.duration(seconds) == text


def test_only_a_new_run_tells_it(tiny_network, small_demo, tmp_path):
    flags = {"squash": True, "warm_head_epochs": 1, "freeze_stages": 1, "num_epoch": 1}
    (status, first), (again, second) = train_all([
        training_flags(tiny_network, small_demo, tmp_path, **flags),
        training_flags(tiny_network, small_demo, tmp_path, **{**flags, "num_epoch": 2},
                       resume=True)])
    assert status == again == 0
    assert re.search(r"This run takes (about .*|under 1) s here: .* for the new classifier, "
                     r".* for the frozen stages, 1 epoch of .* s\n.*Warm head: passing", first)
    assert "This run takes" not in second
