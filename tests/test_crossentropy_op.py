"""CrossEntropyLoss against central differences and against MXNet's own logistic output."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crossentropy_op
from common.mx_compat import mx

OPTIONS = {
    "plain": {},
    "pos_weight": {"pos_weight": 2.5},
    "pos_weight per class": {"pos_weight": "0.5,1.0,4.0"},
    "focal": {"gamma_pos": 2, "gamma_neg": 2},
    "gammas below 1": {"gamma_pos": 0.5, "gamma_neg": 0.5},
    "asymmetric": {"gamma_pos": 1, "gamma_neg": 4, "clip": 0.05},
    "clip alone": {"clip": 0.2},
    "label_smoothing": {"label_smoothing": 0.1},
    "grad_scale": {"grad_scale": 3},
    "all": {"pos_weight": 2, "gamma_pos": 1.5, "gamma_neg": 3, "clip": 0.1,
            "label_smoothing": 0.2, "grad_scale": 0.5},
}


def run(values, label, sigmoid=True, dtype="float32", grad_req="write", times=1, **options):
    """Gradient at the logits (or at the probabilities without sigmoid), and the output."""
    data = mx.sym.Variable("data")
    net = mx.sym.sigmoid(data, name="sig") if sigmoid else data
    net = mx.sym.Custom(net, name="softmax", op_type="CrossEntropyLoss",
                        **{k: str(v) for k, v in options.items()})
    values = np.asarray(values)
    executor = net.simple_bind(mx.cpu(), data=values.shape, type_dict={"data": dtype},
                               grad_req={"data": grad_req, "softmax_label": "null"})
    executor.arg_dict["data"][:] = values
    executor.arg_dict["softmax_label"][:] = label
    executor.grad_dict["data"][:] = 0
    for _ in range(times):
        executor.forward(is_train=True)
        executor.backward()
    return executor.grad_dict["data"].asnumpy(), executor.outputs[0].asnumpy()


@pytest.mark.smoke
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradient_equals_central_differences_of_the_loss(options):
    rng = np.random.RandomState(0)
    p = rng.uniform(0.02, 0.98, (40, 3))
    p[np.abs(p - options.get("clip", 0)) < 1e-3] += 0.01  # the loss has a kink at the clip
    label = rng.choice([0, 1, -1, 0.3], p.shape)
    h = 1e-6
    expected = (crossentropy_op.cross_entropy(p + h, label, **options)
                - crossentropy_op.cross_entropy(p - h, label, **options)) / (2 * h)
    gradient, _ = run(p, label, sigmoid=False, dtype="float64", **options)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)
    gradient, _ = run(p, label, sigmoid=False, **options)
    np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.floats(-16, 16), st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(0, 1)),
       st.floats(0.1, 10), st.floats(0, 4), st.floats(0, 4),
       # Next to a smaller clip than 0.001, what float32 loses of 1 - p counts: 3e-8 / clip.
       st.one_of(st.just(0.0), st.floats(0.001, 0.5)), st.floats(0, 0.5))
def test_gradient_at_the_logit_over_all_options(logit, label, weight, pos, neg, clip, smoothing):
    options = {"pos_weight": weight, "gamma_pos": pos, "gamma_neg": neg, "clip": clip,
               "label_smoothing": smoothing}
    h = 1e-5
    at, above, below = 1 / (1 + np.exp(-np.array([logit, logit + h, logit - h])))
    if (above > clip) != (below > clip):
        return
    expected = (crossentropy_op.cross_entropy(above, label, **options)
                - crossentropy_op.cross_entropy(below, label, **options)) / (2 * h)
    gradient, output = run([[logit]], [[label]], **options)
    assert abs(output[0, 0] - at) < 1e-6
    assert abs(gradient[0, 0] - expected) < 2e-4 * max(1, weight)


def test_plain_gradient_is_p_minus_y_up_to_logits_of_16():
    logit = np.linspace(-16, 16, 801)[:, None]
    for label in (0, 1, 0.25):
        gradient, _ = run(logit, label)
        np.testing.assert_allclose(gradient, 1 / (1 + np.exp(-logit)) - label, rtol=0, atol=1e-5)


@pytest.mark.smoke
def test_equals_logistic_regression_output():
    rng = np.random.RandomState(1)
    logit = rng.uniform(-15, 15, (64, 80)).astype(np.float32)
    label = rng.randint(0, 2, logit.shape)
    data = mx.sym.Variable("data")
    theirs = mx.sym.LogisticRegressionOutput(data, name="softmax", grad_scale=80)
    executor = theirs.simple_bind(mx.cpu(), data=logit.shape, softmax_label=logit.shape)
    executor.arg_dict["data"][:] = logit
    executor.arg_dict["softmax_label"][:] = label
    executor.forward(is_train=True)
    executor.backward()
    gradient, output = run(logit, label)
    np.testing.assert_allclose(output, executor.outputs[0].asnumpy(), atol=1e-7)
    np.testing.assert_allclose(gradient, executor.grad_dict["data"].asnumpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_saturated_logits_are_finite_and_of_the_right_sign(dtype, options):
    logit = np.concatenate([-np.logspace(3, 1, 50), np.logspace(1, 3, 50)])[:, None]
    logit = np.repeat(logit, 3, axis=1)
    present, _ = run(logit, 1, dtype=dtype, **options)
    absent, _ = run(logit, 0, dtype=dtype, **options)
    assert np.isfinite(present).all() and np.isfinite(absent).all()
    if not options.get("label_smoothing"):
        assert (present <= 0).all() and (absent >= 0).all()


def test_float16_is_right_to_its_precision():
    logit = np.linspace(-8, 7, 61)[:, None].astype(np.float16)
    for label in (0, 1):
        gradient, output = run(logit, label, dtype="float16")
        assert gradient.dtype == output.dtype == np.float16
        expected = 1 / (1 + np.exp(-logit.astype(np.float64))) - label
        np.testing.assert_allclose(gradient, expected, rtol=5e-3, atol=1e-3)


def test_unknown_labels_add_nothing():
    p = np.array([[0.1, 0.9, 1.0, 0.0]])
    gradient, _ = run(p, -1, sigmoid=False, gamma_neg=1)
    assert (gradient == 0).all()
    assert (crossentropy_op.cross_entropy(p, [[-1] * 4]) == 0).all()


def test_grad_req_add_adds_and_write_overwrites():
    logit, label = [[0.5, -2.0]], [[1, 0]]
    once, _ = run(logit, label)
    assert np.array_equal(run(logit, label, times=3)[0], once)
    np.testing.assert_allclose(run(logit, label, grad_req="add", times=3)[0], 3 * once, rtol=1e-6)


def test_output_is_the_probabilities_bit_for_bit():
    p = np.random.RandomState(2).uniform(0, 1, (5, 4)).astype(np.float32)
    assert np.array_equal(run(p, 1, sigmoid=False)[1], p)


def test_different_shapes_are_an_error_that_names_both():
    net = mx.sym.Custom(mx.sym.Variable("data"), name="softmax", op_type="CrossEntropyLoss")
    with pytest.raises(mx.MXNetError, match=r"\[4,7\].*\[4,8\]"):
        net.infer_shape(data=(4, 8), softmax_label=(4, 7))


def test_label_shape_and_type_follow_the_data():
    net = mx.sym.Custom(mx.sym.Variable("data"), name="softmax", op_type="CrossEntropyLoss")
    assert net.infer_shape(data=(4, 8)) == ([(4, 8), (4, 8)], [(4, 8)], [])
    assert net.infer_type(data="float16")[0] == [np.float16, np.float16]
    assert net.infer_type(data="float16", softmax_label="float32")[0] == [np.float16, np.float32]


@pytest.mark.parametrize("options", [
    {"gamma_pos": -1}, {"gamma_neg": "x"}, {"clip": 1}, {"clip": "nan"}, {"pos_weight": 0},
    {"pos_weight": ""}, {"label_smoothing": -0.1}, {"grad_scale": 0}, {"pos_weight": "1,2"},
    {"gama": 1}], ids=str)
def test_wrong_options_are_an_error_and_not_a_crash(options):
    with pytest.raises((mx.MXNetError, RuntimeError)):
        run(np.zeros((2, 3)), 0, **options)


def test_loss_of_nan_is_nan():
    assert np.isnan(crossentropy_op.cross_entropy([[np.nan]], [[1]])).all()


def classifier(classes):
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=classes, name="fc")
    net = mx.sym.sigmoid(net, name="sig")
    return mx.sym.Custom(net, name="softmax", op_type="CrossEntropyLoss")


def fitted(contexts, epochs):
    rng = np.random.RandomState(3)
    data = rng.randn(256, 5).astype(np.float32)
    label = (data @ rng.randn(5, 4) > 0).astype(np.float32)
    module = mx.mod.Module(classifier(4), context=contexts)
    batches = mx.io.NDArrayIter(data, label, batch_size=32, label_name="softmax_label")
    mx.random.seed(0)
    module.fit(batches, num_epoch=epochs, initializer=mx.init.Zero(), optimizer="sgd",
               optimizer_params={"learning_rate": 0.5, "momentum": 0.9}, eval_metric="mse")
    return module, batches, label


def test_a_module_learns_a_separable_problem():
    module, batches, label = fitted(mx.cpu(), epochs=30)
    probability = module.predict(batches).asnumpy()
    assert ((probability > 0.5) == label).mean() > 0.98
    assert crossentropy_op.cross_entropy(probability, label).mean() < 0.1


def test_two_devices_in_one_module_give_what_one_gives():
    one = fitted(mx.cpu(), epochs=2)[0].get_params()[0]
    two = fitted([mx.cpu(0), mx.cpu(1)], epochs=2)[0].get_params()[0]
    for name in one:
        np.testing.assert_allclose(two[name].asnumpy(), one[name].asnumpy(), atol=1e-5)


def test_the_example_in_the_docstring():
    import doctest
    assert doctest.testmod(crossentropy_op).failed == 0
