"""torchvision's networks, exported by PyTorch's exporters, become MXNet networks that train."""
import contextlib
import io

import numpy as np
import pytest
from conftest import training_flags
from export_onnx import main as export_main
from import_pretrained import main as import_main

import train_multilabel
from network import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZES = {
    "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "wide_resnet50_2": 64, "vgg11_bn": 224,
    "densenet121": 64, "inception_v3": 128, "googlenet": 64, "squeezenet1_1": 64,
    "shufflenet_v2_x1_0": 64, "mnasnet1_0": 64, "mobilenet_v2": 64, "mobilenet_v3_large": 64,
    "efficientnet_b0": 64, "efficientnet_v2_s": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64,
    "convnext_tiny": 64, "swin_t": 224, "vit": 64}


def network(name):
    """A network with random weights, and statistics that fit them."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    if name == "vit":
        net = models.VisionTransformer(64, 16, 2, 3, 96, 192)
        torch.nn.init.normal_(net.heads.head.weight)  # else all of its logits are 0
        return net.eval()
    more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    net = getattr(models, name)(weights=None, **more)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 3, SIZES[name], SIZES[name]))
    return net.eval()


def export(net, path, size, exporter):
    import torch
    image = torch.randn(1, 3, size, size)
    with contextlib.redirect_stdout(io.StringIO()):
        if exporter == "dynamo":
            pytest.importorskip("onnxscript")
            torch.onnx.export(net, (image,), path, dynamo=True, opset_version=18, verbose=False)
        else:
            torch.onnx.export(net, image, path, dynamo=False, opset_version=exporter)


@pytest.mark.parametrize("name", SIZES)
def test_a_network_of_torchvision_trains_and_is_exported_again(name, small_demo, tmp_path):
    prefix, size = str(tmp_path / "net"), SIZES[name]
    net = network(name)
    for exporter in (17, "dynamo"):
        export(net, str(tmp_path / "net.onnx"), size, exporter)
        # Compares logits, and computes gradients of all weights.
        import_main(["--onnx", str(tmp_path / "net.onnx"), "--prefix", prefix])
    before = checkpoint.load(prefix, 0)
    train_multilabel.main(training_flags(
        prefix, small_demo, tmp_path, image_shape=f"3,{size},{size}", num_epoch=1, lr=0.001))
    after = checkpoint.load(str(tmp_path / "tiny-best"), 0)
    changed = [name for name, value in before[1].items()
               if name in after[1] and name not in checkpoint.NORMALISATION
               and not np.array_equal(after[1][name].asnumpy(), value.asnumpy())]
    assert len(changed) >= len(before[1]) - 8  # all but the classifier, and masks
    export_main(["--model", str(tmp_path / "tiny-best"), "--out", str(tmp_path / "again.onnx"),
                 "--deploy", str(tmp_path / "deploy")])
