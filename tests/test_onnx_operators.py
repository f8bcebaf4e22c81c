"""The table of ONNX operators in convert/: each held to onnxruntime, over shapes and options."""
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx_files import assert_same, model_of, ours, theirs

from common.cli import InputError
from convert.onnx import graph_to_symbol

QUICK = settings(max_examples=15, deadline=None, derandomize=True,
                 suppress_health_check=list(HealthCheck))
draw = np.random.RandomState(1)


def weights(*shape):
    return draw.normal(size=shape).astype(np.float32)


def ints(*numbers):
    return np.array(numbers, np.int64)


def one(operator, inputs="x", **options):
    return [(operator, inputs, "y", options)]


UNARY = [
    ("Relu", 7, {}), ("LeakyRelu", 7, {"alpha": 0.2}), ("Sigmoid", 7, {}), ("Tanh", 7, {}),
    ("HardSigmoid", 7, {"alpha": 0.3, "beta": 0.4}), ("HardSwish", 14, {}), ("Mish", 18, {}),
    ("Elu", 7, {"alpha": 0.7}), ("Softplus", 7, {}), ("Softsign", 7, {}), ("Erf", 9, {}),
    ("Gelu", 20, {}), ("Gelu", 20, {"approximate": "tanh"}), ("Exp", 7, {}), ("Neg", 7, {}),
    ("Abs", 7, {}), ("Identity", 7, {}), ("Cast", 9, {"to": 1}), ("Dropout", 13, {}),
    ("Clip", 7, {"min": -1.0, "max": 2.0}), ("Clip", 7, {"min": 0.0}), ("GlobalMaxPool", 7, {}),
    ("GlobalAveragePool", 7, {}), ("Softmax", 7, {"axis": 1}), ("Softmax", 7, {"axis": 2}),
    ("Softmax", 13, {}), ("LogSoftmax", 13, {"axis": 1}), ("LRN", 7, {"size": 3, "alpha": 0.1}),
    ("Flatten", 7, {}), ("Transpose", 7, {"perm": [0, 3, 1, 2]}),
    ("DepthToSpace", 13, {"blocksize": 2}), ("DepthToSpace", 13, {"blocksize": 2, "mode": "CRD"}),
]


@pytest.mark.parametrize("operator, opset, options", UNARY,
                         ids=[f"{name}-{i}" for i, (name, *_) in enumerate(UNARY)])
def test_operators_of_one_input(operator, opset, options):
    assert_same(one(operator, **options), opset=opset)


@pytest.mark.parametrize("operator", ["Sqrt", "Log", "Reciprocal"])
def test_operators_of_positive_numbers(operator):
    assert_same(one(operator), low=0.1)


def test_space_to_depth():
    assert_same(one("SpaceToDepth", blocksize=2), shape=(3, 4, 6))


@pytest.mark.parametrize("low, high", [(-1, 2), (0, 6), (0, None), (None, 1)])
def test_clip_with_inputs(low, high):
    limits = {name: np.float32(value) for name, value in (("low", low), ("high", high))
              if value is not None}
    inputs = f"x {'low' if low is not None else ''} {'high' if high is not None else ''}".rstrip()
    assert_same(one("Clip", inputs), limits)


@QUICK
@given(st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"]), st.booleans(),
       st.sampled_from([(), (1,), (5,), (6, 1), (4, 1, 1), (1, 4, 1, 1), (1, 4, 6, 5)]))
def test_arithmetic_broadcasts(operator, turned, shape):
    assume(operator != "Pow" or not turned)
    number = np.float32(np.abs(weights(*shape)) + 0.5)
    assert_same(one(operator, "c x" if turned else "x c"), {"c": number}, low=0.5)


def test_arithmetic_of_two_values_of_the_image():
    for operator in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow"):
        assert_same([("GlobalAveragePool", "x", "a", {}), (operator, "x a", "y", {})], low=0.1)
        assert_same([("Sigmoid", "x", "a", {}), (operator, "x a", "y", {})], low=0.1)


def test_a_layer_scale_is_a_convolution():
    nodes = [("Conv", "x w", "a", {}), ("Mul", "scale a", "y", {})]
    for shape in ((4, 1, 1), (1, 4, 1, 1)):
        operators = assert_same(nodes, {"w": weights(4, 4, 1, 1), "scale": weights(*shape)})
        assert operators == ["Convolution", "Convolution"]


def test_squeeze_and_excitation_broadcasts_before_it_multiplies():
    nodes = [("GlobalAveragePool", "x", "a", {}), ("Sigmoid", "a", "b", {}),
             ("Mul", "b x", "y", {})]
    assert assert_same(nodes)[-2:] == ["broadcast_like", "elemwise_mul"]


@pytest.mark.parametrize("operator", ["Max", "Min", "Sum"])
def test_three_inputs(operator):
    assert_same([("Neg", "x", "a", {}), (operator, "x a c", "y", {})], {"c": weights(4, 1, 1)})


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (1, 1, 1)])
def test_prelu(shape):
    assert_same(one("PRelu", "x slope"), {"slope": weights(*shape)})


@QUICK
@given(kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)), stride=st.integers(1, 3),
       dilation=st.integers(1, 2), groups=st.sampled_from([1, 2, 4]), bias=st.booleans(),
       pads=st.one_of(st.lists(st.integers(0, 3), min_size=4, max_size=4),
                      st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])))
def test_convolution(kernel, stride, dilation, groups, bias, pads):
    padding = {"auto_pad": pads} if isinstance(pads, str) else {"pads": pads}
    assume(dilation == 1 or not isinstance(pads, str))
    assert_same(one("Conv", "x w b" if bias else "x w", strides=[stride, stride],
                    dilations=[dilation] * 2, group=groups, kernel_shape=kernel, **padding),
                {"w": weights(4, 4 // groups, *kernel), "b": weights(4)}, shape=(4, 9, 8))


@settings(QUICK, max_examples=40)
@given(operator=st.sampled_from(["MaxPool", "AveragePool"]),
       kernel=st.tuples(*[st.integers(1, 4)] * 2),
       stride=st.integers(1, 3), ceil_mode=st.integers(0, 1), count=st.integers(0, 1),
       pads=st.one_of(st.lists(st.integers(0, 2), min_size=4, max_size=4),
                      st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])))
def test_pooling(operator, kernel, stride, ceil_mode, count, pads):
    options = {"kernel_shape": kernel, "strides": [stride, stride]}
    if isinstance(pads, str):
        assume(stride <= min(kernel))  # else onnxruntime refuses
        options["auto_pad"] = pads
    else:
        assume(all(pad < side for pad, side in zip(pads, kernel * 2)))
        options.update(pads=pads, ceil_mode=ceil_mode)
        for i, side in enumerate((9, 8)):
            last = -(-(side + pads[i] + pads[i + 2] - kernel[i]) // stride) * stride
            # A window that begins in the padding is none; earlier onnxruntimes took it for one.
            assume(not ceil_mode or last < side + pads[i])
    if operator == "AveragePool":
        options["count_include_pad"] = count
        # onnxruntime divides by another number of pixels when it rounds up and counts padding.
        assume(not (ceil_mode and count))
    assert_same(one(operator, **options), shape=(2, 9, 8), opset=11)


@QUICK
@given(operator=st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"]),
       axes=st.lists(st.sampled_from([-1, -2, 1, 2]), min_size=1, max_size=2, unique=True),
       keepdims=st.integers(0, 1), as_input=st.booleans())
def test_reductions(operator, axes, keepdims, as_input):
    assume(not {-2, 2} <= set(axes))
    if as_input:
        assert_same(one(operator, "x axes", keepdims=keepdims), {"axes": ints(*axes)}, opset=18)
    else:
        assert_same(one(operator, axes=axes, keepdims=keepdims), opset=11)


@QUICK
@given(alpha=st.sampled_from([1.0, 0.5]), beta=st.sampled_from([1.0, 2.0]),
       turned=st.booleans(), bias=st.sampled_from([None, (3,), (1,), (1, 3), ()]))
def test_gemm(alpha, beta, turned, bias):
    values = {"w": weights(3, 120) if turned else weights(120, 3)}
    if bias is not None:
        values["b"] = weights(*bias)
    assert_same([("Flatten", "x", "a", {}), (
        "Gemm", "a w b" if bias is not None else "a w", "y",
        {"alpha": alpha, "beta": beta, "transB": int(turned)})], values)


@pytest.mark.parametrize("right", [(5, 3), (4, 5, 3), (1, 4, 5, 3)])
def test_products_with_weights(right):
    assert_same(one("MatMul", "x w"), {"w": weights(*right)})
    assert_same([("MatMul", "x w", "a", {}), ("Add", "b a", "y", {})],
                {"w": weights(*right), "b": weights(3)})


def test_products_of_two_values_of_the_image():
    for perm in ([0, 1, 3, 2], [0, 3, 2, 1]):
        shape = (4, 6, 5) if perm[1] == 1 else (5, 5, 5)
        nodes = [("Sigmoid", "x", "a", {}), ("Transpose", "a", "t", {"perm": perm}),
                 ("MatMul", "x t", "y", {})]
        assert_same(nodes, shape=shape)


def test_a_class_token_is_repeated_for_each_image():
    nodes = [("Reshape", "x shape", "a", {}), ("Concat", "token a", "y", {"axis": 1})]
    assert_same(nodes, {"shape": ints(0, 4, 30), "token": weights(1, 1, 30)})
    for batch in (1, 2):
        token = np.repeat(weights(1, 1, 30), batch, 0)
        assert_same(nodes, {"shape": ints(batch, 4, 30), "token": token}, batch=batch)


@pytest.mark.parametrize("operator, opset, size", [
    ("BatchNormalization", 9, 4), ("InstanceNormalization", 7, 4), ("GroupNormalization", 18, 2),
    ("GroupNormalization", 21, 4), ("LayerNormalization", 17, 5)])
def test_normalisation(operator, opset, size):
    values = {"scale": weights(size), "bias": weights(size), "mean": weights(4),
              "var": np.abs(weights(4)) + 0.1}
    inputs = "x scale bias mean var" if operator == "BatchNormalization" else "x scale bias"
    options = {"num_groups": 2} if operator == "GroupNormalization" else {}
    assert_same(one(operator, inputs, epsilon=0.01, **options), values, opset=opset)


def test_layer_normalization_over_several_axes():
    assert_same(one("LayerNormalization", "x scale bias", axis=2),
                {"scale": weights(6, 5), "bias": weights(6, 5)})


@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize("target", [
    (0, -1), (0, 2, 2, 6, 5), (0, 0, 30), (0, 8, 15), (0, 4, 1, 6, 5), (0, 0, 0, 5, 1), (0, 20, 6),
    (-1, 120), (-1, 30), (-1, 6, 5)])
def test_reshape_keeps_the_batch_free(target, batch):
    if batch and target[0] == 0:
        target = (batch, *target[1:])
    assert_same(one("Reshape", "x shape"), {"shape": ints(*target)}, batch=batch)


def test_windows_and_back():
    """Swin's partition of an image into windows, with the exporter's batch size in each shape."""
    for batch in (1, 2):
        nodes = [
            ("Reshape", "x s1", "a", {}), ("Transpose", "a", "b", {"perm": [0, 1, 3, 2, 4, 5]}),
            ("Reshape", "b s2", "c", {}), ("MatMul", "c w", "d", {}), ("Reshape", "d s1", "e", {}),
            ("Transpose", "e", "f", {"perm": [0, 1, 3, 2, 4, 5]}), ("Reshape", "f s3", "y", {})]
        assert_same(nodes, {"s1": ints(batch, 2, 3, 3, 2, 4), "s2": ints(batch * 6, 6, 4),
                            "w": weights(4, 4), "s3": ints(batch, 6, 6, 4)}, shape=(6, 6, 4),
                    batch=batch)


def test_attention_with_the_batch_in_the_second_axis():
    """PyTorch's MultiheadAttention joins the batch with the tokens, and with the heads."""
    for batch in (1, 2):
        nodes = [
            ("Reshape", "x s1", "a", {}), ("Transpose", "a", "b", {"perm": [1, 0, 2]}),
            ("Reshape", "b s2", "c", {}), ("Gemm", "c w", "d", {}), ("Reshape", "d s3", "e", {}),
            ("Transpose", "e", "f", {"perm": [1, 0, 2]}), ("Softmax", "f", "g", {}),
            ("Transpose", "g", "h", {"perm": [1, 0, 2]}), ("Reshape", "h s4", "i", {}),
            ("Transpose", "i", "y", {"perm": [1, 0, 2]})]
        assert_same(nodes, {"s1": ints(batch, 10, 12), "s2": ints(10 * batch, 12),
                            "w": weights(12, 12), "s3": ints(10, batch * 3, 4),
                            "s4": ints(10, batch, 12)}, batch=batch)


def test_squeeze_and_unsqueeze():
    for axes in ([1], [-1], [1, 4]):
        assert_same([("Unsqueeze", "x", "a", {"axes": axes}),
                     ("Squeeze", "a", "y", {"axes": axes})], opset=11)
        assert_same([("Unsqueeze", "x axes", "a", {}), ("Relu", "a", "y", {})],
                    {"axes": ints(*axes)}, opset=13)
    assert_same([("GlobalAveragePool", "x", "a", {}), ("Squeeze", "a axes", "y", {})],
                {"axes": ints(2, 3)})


@QUICK
@given(axis=st.integers(1, 3), start=st.integers(-7, 6), end=st.integers(-8, 7),
       step=st.sampled_from([1, 2, 3, -1, -2]))
def test_slice(axis, start, end, step):
    assume(range((4, 6, 5)[axis - 1])[start:end:step])
    values = {"s": ints(start), "e": ints(end), "a": ints(axis), "t": ints(step)}
    assert_same(one("Slice", "x s e a t"), values)
    if step == 1:
        assert_same(one("Slice", starts=[start], ends=[end], axes=[axis]), opset=9)


def test_slice_of_some_channels_of_a_convolution():
    nodes = [("Conv", "x w", "maps", {"kernel_shape": [3, 3]}), *one("Slice", "maps s e a")]
    assert_same(nodes, {"w": weights(16, 4, 3, 3), "s": ints(4), "e": ints(7), "a": ints(1)})


@pytest.mark.parametrize("index", [2, -1, [0], [1, 2], [3, 0, 1], [[0, 1], [2, 2]]])
def test_gather(index):
    assert_same(one("Gather", "x i", axis=1), {"i": np.array(index)})


@pytest.mark.parametrize("opset, sizes", [(11, None), (11, [1, 3]), (13, [2, 2]), (18, None)])
def test_split(opset, sizes):
    options = {"num_outputs": 2} if opset == 18 else {"split": sizes} if opset == 11 and sizes \
        else {}
    nodes = [("Split", "x sizes" if opset == 13 else "x", "a b", {"axis": 1, **options}),
             ("Concat", "b a", "y", {"axis": 1})]
    assert_same(nodes, {"sizes": ints(*sizes or [])}, opset=opset)


def test_expand_tile_and_where():
    assert_same([("GlobalAveragePool", "x", "a", {}), ("Expand", "a shape", "y", {})],
                {"shape": ints(1, 4, 3, 2)})
    assert_same(one("Tile", "x repeats"), {"repeats": ints(1, 2, 1, 3)})
    mask = draw.uniform(size=(4, 1, 5)) > 0.5
    assert_same(one("Where", "c x n"), {"c": mask, "n": np.float32(-2)})
    assert_same([("Neg", "x", "a", {}), ("Where", "c a x", "y", {})], {"c": mask})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 3, 0], [0, 0, 0, 2, 0, 0, 0, 1],
                                  [0, 1, 0, 0, 0, 2, 0, 0], [0, 1, 2, 0, 0, 0, 1, 0]])
def test_pad(mode, pads):
    assert_same(one("Pad", "x pads value", mode=mode),
                {"pads": ints(*pads), "value": np.float32(0.5)})
    assert_same(one("Pad", pads=pads, mode=mode, value=0.5), opset=10)


@pytest.mark.parametrize("options", [
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"}])
@pytest.mark.parametrize("factor", [2.0, 3.0, 0.5])
def test_resize(options, factor):
    values = {"scales": np.array([1, 1, factor, 2], np.float32), "none": np.zeros(0, np.float32),
              "sizes": ints(1, 4, int(8 * factor), 12)}
    assert_same(one("Resize", "x none scales", **options), values, shape=(4, 8, 6), opset=13)
    assert_same(one("Resize", "x   sizes", **options), values, shape=(4, 8, 6), opset=13, batch=1)


def test_upsample():
    assert_same(one("Upsample", "x s"), {"s": np.array([1, 1, 2, 3], np.float32)}, opset=9)


def test_arithmetic_with_shapes_is_folded():
    nodes = [("Shape", "x", "a", {}), ("Gather", "a zero", "b", {}),
             ("Unsqueeze", "b axes", "c", {}), ("Div", "side two", "d", {}),
             ("Concat", "c d rest", "e", {"axis": 0}), ("Reshape", "x e", "y", {})]
    assert assert_same(nodes, {"zero": np.array(0), "axes": ints(0), "side": ints(8),
                               "two": ints(2), "rest": ints(-1)}) == ["Reshape"]


@pytest.mark.parametrize("mode", ["cubic", "linear", "nearest"])
def test_a_resized_table_of_positions_is_folded(mode):
    table = weights(1, 4, 7, 7)
    nodes = [("Conv", "x w", "a", {}), ("Resize", "table  scales", "b", {"mode": mode}),
             ("Add", "a b", "y", {})]
    values = {"w": weights(4, 4, 1, 1), "table": table,
              "scales": np.array([1, 1, 6.1 / 7, 5.1 / 7], np.float32)}
    assert assert_same(nodes, values) == ["Convolution", "broadcast_add"]


def gelu(scaled, *products):
    scalars = {"root": np.float32(2**0.5), "inverse": np.float32(0.5**0.5), "one": np.float32(1),
               "half": np.float32(0.5)}
    nodes = [(*scaled, "e", {}), ("Erf", "e", "f", {}), ("Add", "f one", "a", {})]
    return nodes + [("Mul", *names, {}) for names in products], scalars


@pytest.mark.parametrize("opset, scaled", [(11, ("Div", "x root")), (13, ("Mul", "inverse x"))])
@pytest.mark.parametrize("products", [
    (("x a", "m"), ("m half", "y")), (("a x", "m"), ("half m", "y")),
    (("a half", "m"), ("x m", "y")), (("x half", "m"), ("m a", "y"))])
def test_gelu_of_older_operator_sets_is_one_layer(opset, scaled, products):
    assert assert_same(*gelu(scaled, *products), opset=opset) == ["LeakyReLU"]


@pytest.mark.parametrize("scaled, products", [
    (("Mul", "x root"), (("x a", "m"), ("m half", "y"))),  # another factor
    (("Div", "x root"), (("e a", "m"), ("m half", "y"))),  # times another value
    (("Div", "x root"), (("x a", "m"), ("m one", "y")))])
def test_what_is_nearly_gelu_is_not_taken_for_it(scaled, products):
    assert "LeakyReLU" not in assert_same(*gelu(scaled, *products))


def layer_normalization(epsilon="epsilon", axes=(-1,), square=("Pow", "d two")):
    return [("ReduceMean", "x", "m", {"axes": axes}), ("Sub", "x m", "d", {}),
            (*square, "q", {}), ("ReduceMean", "q", "v", {"axes": [-1]}),
            ("Add", f"v {epsilon}", "w", {}), ("Sqrt", "w", "s", {}), ("Div", "d s", "n", {}),
            ("Mul", "n gamma", "g", {}), ("Add", "g beta", "y", {})]


def test_layer_normalization_of_older_operator_sets_is_one_layer():
    values = {"two": np.float32(2), "epsilon": np.float32(0.1), "gamma": weights(5),
              "beta": weights(5)}
    for square in (("Pow", "d two"), ("Mul", "d d")):
        nodes = layer_normalization(square=square)
        assert assert_same(nodes, values, opset=11) == ["LayerNorm"]
    assert "LayerNorm" not in assert_same(layer_normalization(axes=(-2,)), values, opset=11)


def test_functions_of_the_model_are_inlined():
    import onnx
    node = onnx.helper.make_node
    function = onnx.helper.make_function(
        "own", "Silu", ["a"], ["c"],
        [node("Sigmoid", ["a"], ["b"]), node("Mul", ["a", "b"], ["c"])],
        [onnx.helper.make_opsetid("", 17)])
    model = model_of([("Silu", "x", "y", {"domain": "own"})], functions=[function])
    images = weights(3, 4, 6, 5)
    np.testing.assert_allclose(ours(model, images)[0], theirs(model, images), rtol=1e-5)


@pytest.mark.parametrize("node, says", [
    (("Celu", "x", "y", {}), "this operator is not known"),
    (("Erf", "x", "y", {"domain": "com.microsoft"}), "the domain 'com.microsoft' is not known"),
    (("Relu", "x", "y", {"negative": 1}), "its option 'negative' is not known"),
    (("MaxPool", "x", "y", {"kernel_shape": [2, 2], "storage_order": 1}), "storage_order"),
    (("MaxPool", "x", "y", {"kernel_shape": [2, 2], "dilations": [2, 2]}), "dilations"),
    (("AveragePool", "x", "y", {"kernel_shape": [2, 2], "extra": 2}), "option 'extra'"),
    (("Resize", "x  scales", "y", {"mode": "cubic"}), "mode 'cubic'"),
    (("Resize", "x  scales", "y", {"antialias": 1}), "antialias"),
    (("Cast", "x", "y", {"to": 7}), "cast to type 7"),
    (("BatchNormalization", "x c c c c", "y", {"training_mode": 1}), "training_mode"),
    (("Reshape", "x shape", "y", {}), r"shape \['batch', 4, 6, 5\] does not fit"),
    (("Conv", "x x", "y", {}), "weight is computed from the image"),
    (("Conv", "x line", "y", {}), "only images are read"),
    (("Flatten", "x", "y", {"axis": 2**40}), "axis 1099511627776"),
    (("Relu", "absent", "y", {}), "input 'absent' is not there"),
    (("Relu", "x c c", "y", {}), "node 'y'"),
    (("Expand", "c huge", "y", {}), "would fill the memory"),
    (("Resize", "square   huge", "y", {}), "would fill the memory"),
    (("Resize", "x  tiny", "y", {}), "or to nothing"),
    (("Gather", "x x", "y", {}), "indices are computed from the image")])
def test_what_is_not_understood_names_the_node(node, says):
    model = model_of([node], {"scales": np.ones(4, np.float32), "c": weights(4),
                              "line": weights(4, 4, 3), "shape": ints(2, 59),
                              "huge": ints(2**40, 4), "square": weights(2, 2),
                              "tiny": np.array([1, 1, 0.01, 1], np.float32)})
    with pytest.raises(InputError, match=says) as error:
        ours(model, weights(2, 4, 6, 5))
    assert str(error.value).startswith("node 'y' (")
    assert "\n" not in str(error.value)


def test_an_old_operator_set_is_told():
    with pytest.raises(InputError, match="it has operator set 6"):
        ours(model_of(one("Relu"), opset=6), weights(1, 4, 6, 5))


def test_a_network_of_too_many_layers_is_told(monkeypatch):
    monkeypatch.setattr(graph_to_symbol, "MOST_LAYERS", 2)
    nodes = [("Relu", "x", "a", {}), ("Neg", "a", "b", {}), ("Abs", "b", "y", {})]
    with pytest.raises(InputError, match=r"node 'y' \(Abs\): the network has more than 2 layers"):
        ours(model_of(nodes), weights(1, 4, 6, 5))


@pytest.mark.parametrize("options, says", [
    ({"strides": [0, 1]}, "stride of node"), ({"pads": [2**40] * 4}, "pad of node"),
    ({"dilations": [-1, 1]}, "dilate of node"), ({"group": 0}, "num_group of node")])
def test_options_by_which_mxnet_would_divide_or_allocate_are_checked(options, says):
    with pytest.raises(InputError, match=says):
        ours(model_of(one("Conv", "x w", **options), {"w": weights(4, 4, 2, 2)}),
             weights(1, 4, 6, 5))
