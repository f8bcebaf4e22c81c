"""convert/torch_networks.py: ResNets of PyTorch, held to a forward pass in numpy and to torch."""
import numpy as np
import pytest
import torch_bytes
from import_pretrained import main
from numpy_network import convolve, max_pool, normalise, relu

from common.cli import InputError
from common.mx_compat import mx
from convert.torch_networks import import_resnet
from network import checkpoint
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}


def random_state(depth, classes=10, seed=0):
    """A state dict as torchvision names it, with weights that keep the signal's size."""
    draw = np.random.default_rng(seed)
    state = {}

    def convolution(name, out, into, kernel):
        scale = np.float32(np.sqrt(2 / (into * kernel * kernel)))
        shape = (out, into, kernel, kernel)
        state[f"{name}.weight"] = draw.standard_normal(shape, np.float32) * scale

    def norm(name, channels):
        state[f"{name}.weight"] = draw.uniform(0.3, 0.7, channels)
        state[f"{name}.bias"] = draw.normal(0, 0.1, channels)
        state[f"{name}.running_mean"] = draw.normal(0, 0.1, channels)
        state[f"{name}.running_var"] = draw.uniform(0.5, 1.5, channels)
        state[f"{name}.num_batches_tracked"] = np.array(100)

    convolution("conv1", 64, 3, 7)
    norm("bn1", 64)
    into = 64
    for layer, blocks in enumerate(DEPTHS[depth], 1):
        width = 32 * 2**layer
        plan = [(width, 3), (width, 3)] if depth < 50 else [(width, 1), (width, 3), (4 * width, 1)]
        for index in range(blocks):
            block, start = f"layer{layer}.{index}", into
            for number, (out, kernel) in enumerate(plan, 1):
                convolution(f"{block}.conv{number}", out, into, kernel)
                norm(f"{block}.bn{number}", out)
                into = out
            if index == 0 and (layer > 1 or depth >= 50):
                convolution(f"{block}.downsample.0", into, start, 1)
                norm(f"{block}.downsample.1", into)
    state["fc.weight"] = draw.normal(0, 0.1, (classes, into))
    state["fc.bias"] = draw.normal(0, 0.1, classes)
    return {name: array.astype(np.float32 if array.ndim else np.int64, copy=False)
            for name, array in state.items()}


def forward(state, x):
    """Logits in numpy; x is normalised."""
    def layer(name, x, stride=1):
        weight = state[f"{name}.weight"]
        x = convolve(x, weight, stride, (weight.shape[-1] // 2,) * 2)
        norm = name.replace("conv", "bn") if "conv" in name else name[:-1] + "1"
        return normalise(x, state, norm, 1e-5)

    x = max_pool(relu(layer("conv1", x, 2)))
    for stage in range(1, 5):
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in state:
            block = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            if f"{block}.conv3.weight" in state:
                out = relu(layer(f"{block}.conv1", x))
                out = relu(layer(f"{block}.conv2", out, stride))
                out = layer(f"{block}.conv3", out)
            else:
                out = layer(f"{block}.conv2", relu(layer(f"{block}.conv1", x, stride)))
            if f"{block}.downsample.0.weight" in state:
                x = layer(f"{block}.downsample.0", x, stride)
            x = relu(out + x)
            index += 1
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def mxnet_logits(sym, arg_params, aux_params, pixels):
    logits = sym.get_internals()["fc1_output"]
    executor = logits.bind(mx.cpu(), {**arg_params, "data": mx.nd.array(pixels, dtype="uint8")},
                           aux_states=aux_params, grad_req="null")
    return executor.forward(is_train=False)[0].asnumpy()


@pytest.fixture
def pixels():
    return np.random.RandomState(1).randint(0, 256, (2, 3, 64, 64)).astype(np.uint8)


def normalised(pixels):
    mean, std = (np.array(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


@pytest.mark.parametrize("depth, write, ending", [
    (18, torch_bytes.old_format, ".pth"), (34, torch_bytes.zip_format, ".pth"),
    pytest.param(50, torch_bytes.safetensors, ".safetensors", marks=pytest.mark.slow)])
def test_the_checkpoint_computes_what_the_file_does(depth, write, ending, pixels, tmp_path):
    state = random_state(depth)
    (tmp_path / f"net{ending}").write_bytes(write(state))
    prefix = str(tmp_path / "out" / "net")
    main(["--torch-resnet", str(tmp_path / f"net{ending}"), "--prefix", prefix])
    sym, arg_params, aux_params = checkpoint.load(prefix, 0)
    expected = forward(state, normalised(pixels))
    assert expected.std() > 0.1
    np.testing.assert_allclose(mxnet_logits(sym, arg_params, aux_params, pixels), expected,
                               atol=1e-3 * np.abs(expected).max())
    assert checkpoint.get_attributes(sym) == {
        "image_shape": [3, 224, 224], "resize": 256, "fit": "crop"}
    assert "flatten0_output" in sym.get_internals().list_outputs()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [101, 152])
def test_the_deep_ones_too(depth, pixels):
    state = random_state(depth)
    result = import_resnet(state, IMAGENET_MEAN, IMAGENET_STD)
    expected = forward(state, normalised(pixels))
    np.testing.assert_allclose(mxnet_logits(*result, pixels), expected,
                               atol=1e-3 * np.abs(expected).max())


def test_names_of_a_data_parallel_model_are_understood(pixels):
    state = random_state(18)
    plain = import_resnet(state, IMAGENET_MEAN, IMAGENET_STD)
    parallel = import_resnet({f"module.{k}": v for k, v in state.items()},
                             IMAGENET_MEAN, IMAGENET_STD)
    np.testing.assert_array_equal(mxnet_logits(*parallel, pixels), mxnet_logits(*plain, pixels))


@pytest.mark.parametrize("change, says", [
    (lambda s: s.pop("layer3.1.bn2.running_var"), "layer3.1.bn2.running_var is missing"),
    (lambda s: s.pop("fc.weight"), "fc.weight is missing"),
    (lambda s: s.update({"extra.weight": np.ones(3)}), "no place for extra.weight"),
    (lambda s: s.update({"conv1.weight": np.ones((64, 3, 3, 3))}),
     r"conv1.weight has shape \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)"),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer4.1")],
     r"its layers have \[2, 2, 2, 1\] blocks"),
    (lambda s: s.update({"conv1.0.weight": s.pop("conv1.weight")}), "conv1.weight is missing"),
    (lambda s: s.update({"layer1.0.se.fc1.weight": np.ones((4, 64, 1, 1))}),
     "no place for layer1.0.se.fc1.weight"),
    (lambda s: s.update({"fc.weight": np.ones(())}), r"fc.weight has shape \(\)"),
    (lambda s: s.clear() or s.update({"conv1.weight": np.ones(3)}), "not a ResNet: no layer1"),
])
def test_another_state_dict_is_an_error(change, says):
    state = random_state(18)
    change(state)
    with pytest.raises(InputError, match=says):
        import_resnet(state, IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("depth", [18, 50])
def test_torch_agrees(depth, pixels):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    state = random_state(depth)
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}

    def layer(name, norm, x, stride=1):
        weight = tensors[f"{name}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return functional.batch_norm(x, *(tensors[f"{norm}.{part}"] for part in (
            "running_mean", "running_var", "weight", "bias")))

    x = torch.from_numpy(normalised(pixels)).float()
    x = functional.max_pool2d(layer("conv1", "bn1", x, 2).relu(), 3, 2, 1)
    for stage, blocks in enumerate(DEPTHS[depth], 1):
        for index in range(blocks):
            block, step = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            strides = (step, 1) if depth < 50 else (1, step, 1)
            out = x
            for number, stride in enumerate(strides, 1):
                out = layer(f"{block}.conv{number}", f"{block}.bn{number}", out, stride)
                out = out.relu() if number < len(strides) else out
            if f"{block}.downsample.0.weight" in tensors:
                x = layer(f"{block}.downsample.0", f"{block}.downsample.1", x, step)
            x = (out + x).relu()
    expected = functional.linear(x.mean((2, 3)), tensors["fc.weight"], tensors["fc.bias"]).numpy()
    result = import_resnet(state, IMAGENET_MEAN, IMAGENET_STD)
    np.testing.assert_allclose(mxnet_logits(*result, pixels), expected,
                               atol=1e-4 * np.abs(expected).max())
