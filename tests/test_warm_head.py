"""The warm head: what it stores, what it trains, and the checkpoint that it leaves."""
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import script, training_flags
from sklearn.linear_model import LogisticRegression

from common.mx_compat import mx
from lst_iter import LstIter
from multilabel_metric import Loss, MeanAveragePrecision
from network import checkpoint
from network.fine_tune import split_head
from network.forward_pass import ForwardPass
from train_multilabel import get_fine_tune_model
from training.frozen_stages import FeatureIter, extract, train_head
from training.settings import Network


@pytest.fixture(scope="module")
def network(tiny_network):
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    sym, constants = checkpoint.with_normalisation(sym, checkpoint.IMAGENET_MEAN,
                                                   checkpoint.IMAGENET_STD)
    net, arg_params = get_fine_tune_model(sym, {**arg_params, **constants}, 8)
    return net, arg_params, aux_params


def images(folder, name="train", **options):
    return LstIter(batch_size=16, data_shape=(3, 32, 32), path_root=str(folder / "images"),
                   path_imglist=str(folder / f"{name}.lst"), **options)


def head_flags(epochs):
    return SimpleNamespace(warm_head_epochs=epochs, seed=0)


def measures():
    return mx.metric.CompositeEvalMetric([Loss(), MeanAveragePrecision()])


def backbone(network, iterator):
    net, arg_params, aux_params = network
    return ForwardPass(split_head(net)[0], arg_params, aux_params, iterator.provide_data[0],
                       [mx.cpu()])


def plain_backbone(network, iterator):
    """The same by a Module, without anything of the code under test."""
    net, arg_params, aux_params = network
    features, _ = split_head(net)
    module = mx.mod.Module(features, label_names=None)
    module.bind(iterator.provide_data, for_training=False)
    needed = {k: v for k, v in arg_params.items() if k in features.list_arguments()}
    module.set_params(needed, aux_params)
    return module


def test_features_are_those_of_each_image_and_its_mirror_image(network, small_demo, tmp_path):
    with images(small_demo) as iterator:
        features, labels = extract(backbone(network, iterator), iterator, {0: True}, tmp_path,
                                   1e9)[0]
        module = plain_backbone(network, iterator)
        iterator.reset()
        batch = next(iterator)
    assert features.shape == (140, 16) and labels.shape == (140, 8) and (labels >= 0).all()
    module.forward(batch, is_train=False)
    np.testing.assert_array_equal(features[:32:2], module.get_outputs()[0].asnumpy())
    mirrored = mx.nd.array(batch.data[0].asnumpy()[:, :, :, ::-1], dtype="uint8")
    module.forward(mx.io.DataBatch([mirrored]), is_train=False)
    np.testing.assert_array_equal(features[1:32:2], module.get_outputs()[0].asnumpy())
    np.testing.assert_array_equal(labels[::2], labels[1::2])


def test_features_above_the_limit_are_mapped_and_leave_no_file(network, small_demo, tmp_path):
    with images(small_demo) as iterator:
        forward = backbone(network, iterator)
        kept, _ = extract(forward, iterator, {0: False}, tmp_path, 1e9)[0]
        iterator.reset()
        mapped, _ = extract(forward, iterator, {0: False}, tmp_path, 1)[0]
    assert isinstance(mapped, np.memmap) and not isinstance(kept, np.memmap)
    np.testing.assert_array_equal(mapped, kept)
    assert not list(tmp_path.iterdir())


def test_feature_batches_show_every_row_once_an_epoch():
    features, labels = np.arange(10, dtype=np.float32)[:, None], np.ones((10, 2), np.float32)
    batches = FeatureIter(features, labels, 4, seed=0)
    epochs = []
    for _ in range(2):
        rows = [(b.data[0].asnumpy().ravel(), b.label[0].asnumpy()[:, 0]) for b in batches]
        known = np.concatenate([data[label >= 0] for data, label in rows])
        assert len(rows) == 3 and sorted(known) == list(range(10))
        epochs.append(known.tolist())
        batches.reset()
    assert epochs[0] != epochs[1]


def test_the_head_is_regularised_logistic_regression(
        network, small_demo, tmp_path, monkeypatch):
    monkeypatch.setattr("training.frozen_stages.BATCH_SIZE", 35)  # divides the 70 images
    monkeypatch.setattr("training.frozen_stages.INVERSE_PENALTY", 0.01)
    with images(small_demo) as train:
        stored = extract(backbone(network, train), train, {0: False}, tmp_path, 1e9)[0]
    features, labels = stored
    head, scores = train_head(Network(*network), (stored, stored), (measures(), measures()),
                              mx.cpu(), head_flags(200))
    assert set(head) == {"fc_weight", "fc_bias"}
    logit = features @ head["fc_weight"].T + head["fc_bias"]
    ours = np.mean(np.sum(np.log1p(np.exp(-logit * (2 * labels - 1))), axis=1))
    assert scores["loss"] == pytest.approx(ours, rel=1e-3)
    deviation = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.maximum(deviation, np.median(deviation))
    for column, values in zip(labels.T, logit.T):
        model = LogisticRegression(C=0.01, max_iter=5000).fit(features, column)
        np.testing.assert_allclose(values, model.decision_function(features), atol=0.03)
        assert np.ptp(values) > 0.3


def test_the_attention_head_trains_on_feature_maps(network, small_demo, tmp_path):
    net, arg_params, aux_params = network
    maps, arg_params = get_fine_tune_model(net, arg_params, 8, attention=0.3)
    network = Network(maps, arg_params, aux_params)
    with images(small_demo) as again:
        mirrored, stored = (extract(backbone(network, again), again, {0: mirror}, tmp_path, 1)[0]
                            for mirror in (True, False))
        features, labels = stored
        head, scores = train_head(network, (mirrored, stored), (measures(), measures()),
                                  mx.cpu(), head_flags(40))
        assert features.dtype == np.float16 and features.ndim == 4
        # The trained head gives in the whole network what it reached on stored features.
        again.reset()
        module = mx.mod.Module(maps, label_names=["softmax_label"])
        module.bind(again.provide_data, again.provide_label, for_training=False)
        module.set_params({**arg_params, **{k: mx.nd.array(v) for k, v in head.items()}},
                          aux_params)
        reached = dict(module.score(again, measures()))
    assert reached["loss"] == pytest.approx(scores["loss"], rel=1e-3)
    rates = labels.mean(axis=0)
    constant = -np.sum(rates * np.log(rates) + (1 - rates) * np.log(1 - rates))
    assert reached["loss"] < 0.99 * constant
    values = np.einsum("ncyx,kc->nkyx", features.astype(np.float32),
                       head["fc_weight"][:, :, 0, 0])
    values += head["fc_bias"][:, None, None]
    logit = values.mean(axis=(2, 3)) + 0.3 * values.max(axis=(2, 3))
    loss = np.mean(np.sum(np.log1p(np.exp(-logit * (2 * labels - 1))), axis=1))
    assert reached["loss"] == pytest.approx(loss, rel=1e-3)


def test_stops_after_the_warm_head_with_an_ordinary_checkpoint(
        tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, num_epoch=0, warm_head_epochs=5,
                           warm_head_mirror=True)
    script("train_multilabel.py", *flags)
    text = (tmp_path / "train.log").read_text()
    assert re.search(r"Warm head\[4\] Validation-mAP=0\.\d+", text)
    assert not re.search(r"Epoch\[", text)
    sym, arg_params, aux_params = checkpoint.load(str(tmp_path / "tiny"), 0)
    before = checkpoint.load(tiny_network, 0)[1]
    assert np.array_equal(arg_params["conv1_weight"].asnumpy(), before["conv1_weight"].asnumpy())
    assert len(checkpoint.get_attributes(sym)["class_names"]) == 8
    # Its measure is that of the whole network on the images.
    with images(small_demo, "val") as val:
        module = mx.mod.Module(sym, label_names=["softmax_label"])
        module.bind(val.provide_data, val.provide_label, for_training=False)
        module.set_params(arg_params, aux_params)
        score = dict(module.score(val, MeanAveragePrecision()))["mAP"]
    logged = float(re.findall(r"Warm head\[4\] Validation-mAP=([.\d]+)", text)[0])
    assert score == pytest.approx(logged, abs=1e-4)


def test_fine_tuning_starts_from_the_warm_head(tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, warm_head_epochs=20, num_epoch=1,
                           lr=1e-9)
    script("train_multilabel.py", *flags)
    head, tuned = (checkpoint.load(str(tmp_path / "tiny"), n)[1]["fc_weight"].asnumpy()
                   for n in (0, 1))
    np.testing.assert_allclose(tuned, head, atol=1e-6)


@pytest.mark.slow
def test_a_killed_run_does_not_warm_its_head_again(tiny_network, small_demo, tmp_path):
    flags = training_flags(tiny_network, small_demo, tmp_path, warm_head_epochs=3)
    stopped = training_flags(tiny_network, small_demo, tmp_path, warm_head_epochs=3, num_epoch=0)
    script("train_multilabel.py", *stopped)
    text = script("train_multilabel.py", *flags, "--resume")
    assert "Resuming at epoch 1, batch 0" in text and "Warm head" not in text
    assert (tmp_path / "tiny-0002.params").exists()
