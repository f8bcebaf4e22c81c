"""convert/onnx/importer.py: ONNX classifiers as networks to fine-tune."""
import os
import sys

import numpy as np
import pytest
from import_pretrained import main

from common.cli import InputError
from common.mx_compat import mx
from evaluation.classifier import class_maps
from network import checkpoint
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from network.fine_tune import get_fine_tune_model
from network.graph import Graph

importer = pytest.importorskip("convert.onnx.importer", reason="onnx is optional")
exporter = pytest.importorskip("convert.onnx.exporter", reason="onnxruntime is optional")


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime are optional")
    return pytest.importorskip("onnx", reason="onnx and onnxruntime are optional")


def save(onnx, path, nodes, weights, image=(1, 3, 32, 32), pixel="FLOAT", opset=13, outputs=("y",)):
    """An ONNX file of these nodes, which weigh in with numpy arrays by name."""
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", getattr(types, pixel), image)],
        [helper.make_tensor_value_info(name, types.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)],
                                 ir_version=8), path)
    return str(path)


def layers(onnx, **options):
    """Convolution, batch normalisation, pooling, ReLU6 and a classifier of 5 classes."""
    make, draw = onnx.helper.make_node, np.random.RandomState(0)
    weights = {"w": draw.normal(size=(8, 3, 3, 3)) / 5, "fc": draw.normal(size=(5, 8)),
               "fc_bias": draw.normal(size=5), "gamma": draw.uniform(0.5, 1, 8),
               "beta": draw.normal(size=8), "mean": draw.normal(size=8) / 5,
               "variance": draw.uniform(0.001, 0.01, 8), "low": np.array(0), "high": np.array(6)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    nodes = [
        make("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        make("BatchNormalization", ["a", "gamma", "beta", "mean", "variance"], ["b"],
             **options.get("norm", {})),
        make("Clip", ["b", "low", "high"], ["c"]),
        make("MaxPool", ["c"], ["d"], kernel_shape=[3, 3], strides=[2, 2],
             **options.get("pool", {"pads": [1, 1, 1, 1]})),
        make("Relu", ["d"], ["e"]), make("GlobalAveragePool", ["e"], ["f"]),
        make("Flatten", ["f"], ["g"]), make("Gemm", ["g", "fc", "fc_bias"], ["y"], transB=1)]
    return nodes, weights


def reference(path, pixels, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = (pixels - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    return np.concatenate([session.run(None, {"x": image[None].astype(np.float32)})[0]
                           for image in images])


def logits_of(prefix, pixels):
    sym, arg_params, aux_params = checkpoint.load(prefix, 0)
    executor = sym.get_internals()["logits_output"].bind(
        mx.cpu(), {**arg_params, "data": mx.nd.array(pixels, dtype="uint8")},
        aux_states=aux_params, grad_req="null")
    return executor.forward(is_train=False)[0].asnumpy()


@pytest.fixture
def pixels():
    return np.random.RandomState(1).randint(0, 256, (3, 3, 32, 32)).astype(np.uint8)


def test_the_checkpoint_computes_what_the_file_does(onnx, pixels, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    prefix = str(tmp_path / "net")
    main(["--onnx", path, "--prefix", prefix])
    expected = reference(path, pixels)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits_of(prefix, pixels), expected, atol=1e-4)
    sym = checkpoint.load(prefix, 0)[0]
    assert checkpoint.get_attributes(sym) == {
        "image_shape": [3, 32, 32], "resize": 37, "fit": "crop"}
    assert sym.list_outputs() == ["softmax_output"]


def test_mean_and_std_can_be_given(onnx, pixels, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    prefix = str(tmp_path / "net")
    main(["--onnx", path, "--prefix", prefix,
          "--rgb-mean", "127,127,127", "--rgb-std", "128,128,9"])
    np.testing.assert_allclose(logits_of(prefix, pixels), reference(
        path, pixels, (127, 127, 127), (128, 128, 9)), atol=1e-4)


@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid"])
def test_a_last_activation_is_replaced(operator, onnx, pixels, tmp_path):
    nodes, weights = layers(onnx)
    path = save(onnx, tmp_path / "net.onnx", nodes, weights)
    nodes.append(onnx.helper.make_node(operator, ["y"], ["p"]))
    ending = save(onnx, tmp_path / "ending.onnx", nodes, weights, outputs=["p"])
    main(["--onnx", ending, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels),
                               reference(path, pixels), atol=1e-4)


def test_a_model_of_uint8_pixels_normalises_by_itself(onnx, pixels, tmp_path):
    nodes, weights = layers(onnx)
    plain = save(onnx, tmp_path / "plain.onnx", nodes, weights)
    nodes[0].input[0] = "float"
    nodes.insert(0, onnx.helper.make_node("Cast", ["x"], ["float"], to=onnx.TensorProto.FLOAT))
    path = save(onnx, tmp_path / "net.onnx", nodes, weights, pixel="UINT8")
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), reference(
        plain, pixels, (0, 0, 0), (1, 1, 1)), rtol=1e-4)


def test_what_mxnet_exports_comes_back(onnx, pixels, tmp_path):
    net = mx.gluon.model_zoo.vision.get_model("mobilenetv2_0.25", classes=7)
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 32, 32)))
    params = {name: parameter.data() for name, parameter in net.collect_params().items()}
    path = str(tmp_path / "net.onnx")
    with exporter.mapping_for_mxnet():
        mx.onnx.export_model(net(mx.sym.Variable("x")), params, [(1, 3, 32, 32)], np.float32, path)
    # MXNet names onnx's newest operator set, which this onnxruntime may not read, and writes 13's.
    model = onnx.load(path)
    model.opset_import[0].version = 13
    onnx.save(model, path)
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    mean, std = (np.array(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = net(mx.nd.array((pixels - mean) / std)).asnumpy()
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), expected,
                               atol=1e-4 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_what_torch_exports_is_read(opset, onnx, pixels, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(8, 5)).eval()
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(net, torch.zeros(1, 3, 32, 32), path, opset_version=opset, dynamo=False)
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    mean, std = (np.array(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = net(torch.from_numpy((pixels - mean) / std).float()).detach().numpy()
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), expected, atol=1e-4)


def transformer(onnx, batch=1):
    """One layer of a vision transformer: patches, a class token, attention, GELU, two classes."""
    make, draw = onnx.helper.make_node, np.random.RandomState(0)
    shapes = {"w": (8, 3, 8, 8), "token": (1, 1, 8), "place": (1, 17, 8), "gamma": 8, "beta": 8,
              "qkv": (8, 24), "qkv_bias": 24, "mlp": (8, 8), "fc": (2, 8), "fc_bias": 2}
    weights = {name: draw.normal(size=shape).astype(np.float32) / 2
               for name, shape in shapes.items()}
    weights.update(
        patches=np.array([batch, 8, 16]), heads=np.array([batch, 17, 3, 2, 4]),
        joined=np.array([batch, 17, 8]), half=np.float32(0.5), first=np.array(0),
        axes=np.array([0]), **{name: np.array(i) for i, name in enumerate(("zero", "one", "two"))})
    weights["token"] = np.repeat(weights["token"], batch, 0)
    nodes = [
        make("Conv", ["x", "w"], ["a"], strides=[8, 8]), make("Reshape", ["a", "patches"], ["b"]),
        make("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        make("Concat", ["token", "c"], ["d"], axis=1), make("Add", ["d", "place"], ["e"]),
        make("LayerNormalization", ["e", "gamma", "beta"], ["f"]),
        make("MatMul", ["f", "qkv"], ["g"]), make("Add", ["qkv_bias", "g"], ["h"]),
        make("Reshape", ["h", "heads"], ["i"]),
        make("Transpose", ["i"], ["j"], perm=[2, 0, 3, 1, 4]),
        *(make("Gather", ["j", number], [name], axis=0)
          for number, name in (("zero", "q"), ("one", "k"), ("two", "v"))),
        make("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]), make("MatMul", ["q", "kt"], ["l"]),
        make("Mul", ["l", "half"], ["m"]), make("Softmax", ["m"], ["n"], axis=-1),
        make("MatMul", ["n", "v"], ["o"]), make("Transpose", ["o"], ["p"], perm=[0, 2, 1, 3]),
        make("Reshape", ["p", "joined"], ["r"]), make("Add", ["r", "e"], ["s"]),
        make("MatMul", ["s", "mlp"], ["t"]), make("Gelu", ["t"], ["u"]),
        make("Gather", ["u", "zero"], ["z"], axis=1),
        make("Gemm", ["z", "fc", "fc_bias"], ["y"], transB=1)]
    return nodes, weights


@pytest.mark.parametrize("batch", [1, 2])
def test_a_transformer_converts(batch, onnx, pixels, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *transformer(onnx, batch), opset=20,
                image=(batch, 3, 32, 32))
    plain = save(onnx, tmp_path / "plain.onnx", *transformer(onnx), opset=20)
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels),
                               reference(plain, pixels), atol=1e-4)


def test_a_network_of_images_with_channels_last_converts(onnx, pixels, tmp_path):
    nodes, weights = layers(onnx)
    expected = reference(save(onnx, tmp_path / "plain.onnx", nodes, weights), pixels)
    nodes[0].input[0] = "first"
    nodes.insert(0, onnx.helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]))
    path = save(onnx, tmp_path / "net.onnx", nodes, weights, image=(1, 32, 32, 3))
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), expected, atol=1e-4)
    sym = checkpoint.load(str(tmp_path / "net"), 0)[0]
    assert checkpoint.get_attributes(sym)["image_shape"] == [3, 32, 32]


def test_a_network_as_tf2onnx_writes_it_converts(onnx, pixels, tmp_path):
    make, draw = onnx.helper.make_node, np.random.RandomState(0)
    weights = {"w": draw.normal(size=(8, 3, 3, 3)), "depthwise": draw.normal(size=(8, 1, 3, 3)),
               "scale": draw.uniform(0.5, 1, (1, 8, 1, 1)), "bias": draw.normal(size=(1, 8, 1, 1)),
               "matrix": draw.normal(size=(8, 5)), "offset": draw.normal(size=5),
               "zero": np.array(0), "six": np.array(6)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    nodes = [
        make("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        make("Conv", ["a", "w"], ["b"], strides=[2, 2], auto_pad="SAME_UPPER"),
        make("Mul", ["b", "scale"], ["c"]), make("Add", ["c", "bias"], ["d"]),
        make("Min", ["d", "six"], ["e"]), make("Max", ["e", "zero"], ["f"]),
        make("Conv", ["f", "depthwise"], ["g"], group=8, auto_pad="SAME_UPPER"),
        make("Transpose", ["g"], ["h"], perm=[0, 2, 3, 1]),
        make("Sigmoid", ["h"], ["i"]), make("Mul", ["h", "i"], ["j"]),
        make("ReduceMean", ["j"], ["k"], axes=[1, 2], keepdims=0),
        make("MatMul", ["k", "matrix"], ["l"]), make("Add", ["l", "offset"], ["m"]),
        make("Softmax", ["m"], ["y"])]
    path = save(onnx, tmp_path / "net.onnx", nodes, weights, image=("n", 32, 32, 3))
    logits = save(onnx, tmp_path / "logits.onnx", nodes[:-1], weights, image=("n", 32, 32, 3),
                  outputs=("m",))
    main(["--onnx", path, "--prefix", str(tmp_path / "net"), "--rgb-mean", "127.5,127.5,127.5",
          "--rgb-std", "127.5,127.5,127.5"])
    expected = reference(logits, pixels.transpose(0, 2, 3, 1), (127.5,), (127.5,))
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), expected, atol=1e-4)


def test_a_convolutional_network_takes_images_of_another_size(onnx, tmp_path):
    nodes, weights = layers(onnx)
    weights["shape"] = np.array([1, 8])
    nodes[6] = onnx.helper.make_node("Reshape", ["f", "shape"], ["g"])
    path = save(onnx, tmp_path / "net.onnx", nodes, weights)
    free = save(onnx, tmp_path / "free.onnx", *layers(onnx), image=(1, 3, "h", "w"))
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    pixels = np.random.RandomState(1).randint(0, 256, (3, 3, 48, 40)).astype(np.uint8)
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels),
                               reference(free, pixels), atol=1e-4)


def test_the_size_can_be_given_where_the_file_leaves_it_free(onnx, tmp_path, capsys):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx), image=("n", 3, "h", "w"))
    main(["--onnx", path, "--prefix", str(tmp_path / "net"), "--image-shape", "3,48,64"])
    sym = checkpoint.load(str(tmp_path / "net"), 0)[0]
    assert checkpoint.get_attributes(sym)["image_shape"] == [3, 48, 64]
    assert "logits differ from onnxruntime's by" in capsys.readouterr().out
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    with pytest.raises(InputError, match="images of 32x32 pixels") as error:
        main(["--onnx", path, "--prefix", str(tmp_path / "net"), "--image-shape", "3,48,64"])
    assert (error.value.file, error.value.flag) == (path, "--image-shape")


def test_mean_and_std_may_be_of_the_scale_of_0_to_1(onnx, pixels, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    main(["--onnx", path, "--prefix", str(tmp_path / "net"), "--rgb-mean", "0.5,0.5,0.5",
          "--rgb-std", "0.5,0.5,0.25"])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), reference(
        path, pixels, (127.5,) * 3, (127.5, 127.5, 63.75)), atol=1e-4)


@pytest.mark.parametrize("says, mean, std", [
    ({"Image.NominalPixelRange": "Normalized_0_1"}, 0, 255),
    ({"Image.NominalPixelRange": "Normalized_1_1"}, 127.5, 127.5)])
def test_what_the_file_says_of_its_normalisation_is_used(says, mean, std, onnx, pixels, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    model = onnx.load(path)
    onnx.helper.set_model_props(model, says)
    onnx.save(model, path)
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels),
                               reference(path, pixels, (mean,) * 3, (std,) * 3), atol=1e-4)


def test_what_was_assumed_of_the_normalisation_is_told(onnx, tmp_path, capsys):
    nodes, weights = layers(onnx)
    path = save(onnx, tmp_path / "net.onnx", nodes, weights)
    convert_as_told = ["--onnx", path, "--prefix", str(tmp_path / "net")]
    main(convert_as_told)
    assert ("normalisation ImageNet's, assumed: neither flags nor metadata say it; red, green, "
            "blue: mean 123.675, 116.28, 103.53, standard deviation 58.395, 57.12, 57.375; it sees "
            "them as rgb\n" in capsys.readouterr().out)
    main([*convert_as_told, "--rgb-mean", "0,0,0", "--rgb-std", "1,1,2"])
    assert "normalisation as given; red, green, blue: mean 0, 0, 0, s" in capsys.readouterr().out
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"Image.NominalPixelRange": "Normalized_0_1"})
    onnx.save(model, path)
    main(convert_as_told)
    assert "normalisation as its metadata says; red" in capsys.readouterr().out


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_a_network_that_sees_blue_first_gets_blue_first(last, onnx, pixels, tmp_path):
    nodes, weights = layers(onnx)
    plain = save(onnx, tmp_path / "plain.onnx", nodes, weights)
    if last:
        nodes[0].input[0] = "first"
        nodes.insert(0, onnx.helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]))
    path = save(onnx, tmp_path / "net.onnx", nodes, weights,
                image=(1, 32, 32, 3) if last else (1, 3, 32, 32))
    prefix = str(tmp_path / "net")
    main(["--onnx", path, "--prefix", prefix, "--channels", "bgr",
          "--rgb-mean", "10,20,30", "--rgb-std", "40,50,60"])
    expected = reference(plain, pixels[:, ::-1], (30, 20, 10), (60, 50, 40))
    np.testing.assert_allclose(logits_of(prefix, pixels), expected, atol=1e-4)
    sym, arg_params, _ = checkpoint.load(prefix, 0)
    net, _ = get_fine_tune_model(sym, arg_params, 4, attention=0.2)
    maps, _ = class_maps(net)
    assert [node.op for node in Graph(maps).nodes][-1] == "Convolution"  # and not turned back


@pytest.mark.parametrize("says, channels", [("Bgr8", "rgb"), ("Rgba8", "bgr"), ("Gray8", "rgb")])
def test_another_order_of_colours_than_the_file_says_is_refused(says, channels, onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"Image.BitmapPixelFormat": says})
    onnx.save(model, path)
    with pytest.raises(InputError, match=f"its images are '{says}'") as error:
        importer.convert(path, channels=channels)
    assert error.value.flag == "--channels"


@pytest.mark.parametrize("image, given, shape", [
    ((-1, 3, -1, -1), "3,40,48", [3, 40, 48]), ((-1, 3, -7, -2), None, [3, 224, 224]),
    ((1, -1, 32, 48), None, [3, 32, 48]), ((2, 3, 32, -1), None, [3, 32, 32]),
    ((-1, 3, 32, -1), "3,32,64", [3, 32, 64]), ((1, 3, 48, 32), "3,48,32", [3, 48, 32])])
def test_negative_sides_are_free_and_fixed_ones_stay(image, given, shape, onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx), image=image)
    prefix = str(tmp_path / "net")
    main(["--onnx", path, "--prefix", prefix, *(["--image-shape", given] if given else [])])
    assert checkpoint.get_attributes(checkpoint.load(prefix, 0)[0])["image_shape"] == shape
    pixels = np.random.RandomState(1).randint(0, 256, (3, *shape)).astype(np.uint8)
    free = save(onnx, tmp_path / "free.onnx", *layers(onnx), image=("n", 3, "h", "w"))
    np.testing.assert_allclose(logits_of(prefix, pixels), reference(free, pixels), atol=1e-4)


def test_a_size_that_is_not_the_files_is_an_error(onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx), image=(1, 3, 32, -1))
    with pytest.raises(InputError, match="images of 32xany pixels"):
        importer.convert(path, image_shape=(3, 48, 48))


@pytest.mark.parametrize("ending", ["Gemm", "MatMul and Add", "1x1 Conv", "MatMul"])
def test_the_classifier_is_found(ending, onnx, tmp_path):
    make = onnx.helper.make_node
    nodes, weights = layers(onnx)
    weights["matrix"] = weights["fc"].T.copy()
    weights["filters"] = weights["fc"][:, :, None, None]
    nodes[7:] = {
        "Gemm": nodes[7:],
        "MatMul": [make("MatMul", ["g", "matrix"], ["y"])],
        "MatMul and Add": [make("MatMul", ["g", "matrix"], ["h"]),
                           make("Add", ["fc_bias", "h"], ["i"]), make("Softmax", ["i"], ["y"])],
        "1x1 Conv": [make("Conv", ["f", "filters", "fc_bias"], ["h"]),
                     make("Flatten", ["h"], ["y"])]
    }[ending]
    sym, arg_params, aux_params, _ = convert(save(onnx, tmp_path / "net.onnx", nodes, weights))
    net, kept = get_fine_tune_model(sym, arg_params, 3)
    assert set(kept) == {"rgb_mean", "rgb_std", "w_weight", "gamma_gamma", "beta_beta"}
    assert net.infer_shape(data=(2, 3, 32, 32))[1] == [(2, 3)]


def test_weights_have_names_by_which_they_decay_and_freeze(onnx, tmp_path):
    nodes, weights = layers(onnx)
    nodes[0].input[1], weights["layer1.0.conv.weight"] = "layer1.0.conv.weight", weights.pop("w")
    nodes[7].input[1], weights["onnx::Gemm_7"] = "onnx::Gemm_7", weights.pop("fc")
    nodes[7].name = "/classifier/classifier.1/Gemm"
    _, arg_params, aux_params, _ = convert(save(onnx, tmp_path / "net.onnx", nodes, weights))
    assert {"layer1.0.conv_weight", "classifier.1_weight", "gamma_gamma"} <= set(arg_params)
    assert sorted(aux_params) == ["mean_moving_mean", "variance_moving_var"]


def test_weights_without_a_gradient_are_told(onnx, tmp_path, capsys):
    nodes, weights = layers(onnx)
    convert(save(onnx, tmp_path / "net.onnx", nodes, weights))
    assert "no gradient" not in capsys.readouterr().out
    weights["low"], weights["high"] = np.float32(5), np.float32(5)
    convert(save(onnx, tmp_path / "net.onnx", nodes, weights))
    assert ("3 of 5 weights have no gradient on random pixels: w_weight, gamma_gamma, beta_beta"
            in capsys.readouterr().out)


def test_a_network_without_gradients_is_refused(onnx, tmp_path):
    nodes, weights = layers(onnx)
    nodes[6:] = [onnx.helper.make_node("Clip", ["f", "high", "high"], ["z"]),
                 onnx.helper.make_node("Flatten", ["z"], ["y"])]
    with pytest.raises(InputError, match="its weight beta_beta has no finite gradient"):
        convert(save(onnx, tmp_path / "net.onnx", nodes, weights))


def test_constants_that_would_fill_the_memory_are_refused(onnx, tmp_path):
    make = onnx.helper.make_node
    nodes, weights = layers(onnx)
    weights["huge"] = np.array([2**40, 5])
    nodes += [make("Expand", ["fc_bias", "huge"], ["e1"]), make("ReduceMax", ["e1"], ["m"]),
              make("Add", ["y", "m"], ["z"])]
    path = save(onnx, tmp_path / "net.onnx", nodes, weights, outputs=("z",))
    with pytest.raises(InputError, match=r"\(Expand\): its constants"):
        convert(path)


def convert(path):
    return importer.convert(path, IMAGENET_MEAN, IMAGENET_STD)


def test_padding_that_an_average_does_not_count_is_not_counted(onnx, pixels, tmp_path):
    nodes, weights = layers(onnx)
    nodes[3] = onnx.helper.make_node("AveragePool", ["c"], ["d"], kernel_shape=[3, 3],
                                     strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=0)
    assert_converts(onnx, pixels, tmp_path, nodes, weights)


def assert_converts(onnx, pixels, tmp_path, nodes, weights, **options):
    path = save(onnx, tmp_path / "net.onnx", nodes, weights, **options)
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels),
                               reference(path, pixels), atol=1e-4)


def test_an_unknown_operator_is_named(onnx, tmp_path):
    nodes, weights = layers(onnx)
    nodes[4] = onnx.helper.make_node("Celu", ["d"], ["e"], name="activation")
    path = save(onnx, tmp_path / "net.onnx", nodes, weights, opset=14)
    with pytest.raises(InputError, match=r"node 'activation' \(Celu\): this operator is not known"):
        convert(path)


def test_axes_that_are_an_input_are_read(onnx, pixels, tmp_path):
    nodes, weights = layers(onnx)
    weights["axes"] = np.array([2, 3])
    nodes[5] = onnx.helper.make_node("ReduceMean", ["e", "axes"], ["f"])
    assert_converts(onnx, pixels, tmp_path, nodes, weights, opset=18)


@pytest.mark.parametrize("options, says", [
    ({"image": (1, 1, 32, 32)}, "wanted is"),
    ({"image": (1, 3, 200_000, 200_000)}, "images of 200000x200000 pixels"),
    ({"image": (1, 3)}, "wanted is"), ({"pixel": "DOUBLE"}, "wanted is"),
    ({"outputs": ("y", "g")}, "1 inputs and 2 outputs")])
def test_what_is_no_image_classifier_is_told(options, says, onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx), **options)
    with pytest.raises(InputError, match=says):
        convert(path)


def test_a_model_exported_for_training_is_refused(onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx, norm={"training_mode": 1}), opset=14)
    with pytest.raises(InputError, match="onnxruntime does not read it"):
        convert(path)


def test_a_fixed_batch_becomes_free(onnx, pixels, tmp_path):
    nodes, weights = layers(onnx)
    expected = reference(save(onnx, tmp_path / "plain.onnx", nodes, weights), pixels)
    nodes[6] = onnx.helper.make_node("Reshape", ["f", "shape"], ["g"])
    for batch in (1, 2):
        weights["shape"] = np.array([batch, 8])
        path = save(onnx, tmp_path / "net.onnx", nodes, weights, image=(batch, 3, 32, 32))
        main(["--onnx", path, "--prefix", str(tmp_path / "net")])
        np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), expected, atol=1e-4)


@pytest.mark.parametrize("batch", [2, 4])
def test_a_batch_that_is_only_declared_does_not_matter(batch, onnx, pixels, tmp_path):
    plain = save(onnx, tmp_path / "plain.onnx", *layers(onnx))
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx), image=(batch, 3, 32, 32))
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels),
                               reference(plain, pixels), atol=1e-4)


@pytest.mark.parametrize("name", ["name", "self", "data", "image"])
def test_an_input_may_have_any_name(name, onnx, pixels, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    expected = reference(path, pixels)
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, path)
    main(["--onnx", path, "--prefix", str(tmp_path / "net")])
    np.testing.assert_allclose(logits_of(str(tmp_path / "net"), pixels), expected, atol=1e-4)


@pytest.mark.parametrize("value, says", [(0, "nothing but 0"), (np.nan, "no numbers")])
def test_a_network_that_computes_nothing_is_told(value, says, onnx, tmp_path):
    nodes, weights = layers(onnx)
    weights["fc"][:] = weights["fc_bias"][:] = value
    with pytest.raises(InputError, match=says):
        convert(save(onnx, tmp_path / "net.onnx", nodes, weights))


def test_weights_in_another_file_that_is_missing_are_told(onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights",
              size_threshold=0)
    convert(path)
    (tmp_path / "weights").unlink()
    with pytest.raises(InputError, match="weights in another file, which cannot be read"):
        convert(path)


def shape(*sides):
    def change(weight):
        del weight.dims[:]
        weight.dims.extend(sides)
        weight.raw_data = b""
    return change


def external(**places):
    def change(weight):
        weight.ClearField("raw_data")
        weight.data_location = 1
        for key, value in places.items():
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
    return change


@pytest.mark.parametrize("change, says", [
    (shape(2**62, 0), "impossible shape of 2 dimensions"),
    (shape(0, 2**62, 2**62), "impossible shape of 3 dimensions"),
    (shape(*[1] * 70), "impossible shape of 70 dimensions"),
    (shape(-1, 216), "impossible shape"),
    (external(location="weights", length=str(2**62)), f"has {2**62} bytes from byte 0"),
    (external(location="weights", offset=str(2**62)), f"from byte {2**62} of another file"),
    (external(location="weights", length="1" * 10**6), "which has 864"),
    (external(location="weights", offset="1" * 10**6), "which has 864"),
    (external(location="weights", length="-5"), "has -5 bytes"),
    (external(location="large"), "4 GB at most are read"),
    (external(location="pipe"), "which cannot be read"),
    (external(location="/dev/zero"), "which cannot be read: '/dev/zero'"),
    (external(location="../" * 20 + "etc/passwd"), "another file"),
])
def test_a_hostile_weight_is_an_error_of_one_line(change, says, onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    (tmp_path / "weights").write_bytes(bytes(864))
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    model = onnx.load(path)
    change(next(tensor for tensor in model.graph.initializer if tensor.name == "w"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=says) as error:
        convert(path)
    assert error.value.file == path
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_batch_that_would_fill_the_memory_is_an_error(onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx), image=(2**40, 3, 32, 32))
    with pytest.raises(InputError, match="batches of 1099511627776 images"):
        convert(path)


@pytest.mark.parametrize("change", [
    lambda model: model.ClearField("opset_import"),
    lambda model: setattr(model.graph.node[4], "op_type", "X" * 10**6),
    lambda model: setattr(model.graph.node[0], "name", "a\nb" * 10**5)], ids=[
        "no operator set", "an operator's name", "a node's name"])
def test_what_another_package_says_is_told_in_one_line(change, onnx, tmp_path):
    path = save(onnx, tmp_path / "net.onnx", *layers(onnx))
    model = onnx.load(path)
    change(model)
    model.graph.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("pads", [2**40] * 4))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as error:
        convert(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("content", [b"", b"a letter", bytes(range(256))])
def test_another_file_is_an_error(content, onnx, tmp_path):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InputError) as error:
        convert(str(tmp_path / "net.onnx"))
    assert error.value.file == str(tmp_path / "net.onnx")


def test_an_absent_file_is_an_error(onnx):
    with pytest.raises(InputError, match="No such file") as error:
        convert("absent.onnx")
    assert error.value.file == "absent.onnx"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_packages_it_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match="pip install -r requirements-export.txt") as error:
        main(["--onnx", "net.onnx", "--prefix", "net"])
    assert error.value.flag == "--onnx"
