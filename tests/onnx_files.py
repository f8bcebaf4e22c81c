"""Small ONNX models for tests, and what our network and onnxruntime compute of them."""
import json
import tempfile

import numpy as np
import pytest

from common.mx_compat import mx
from network import checkpoint
from network.graph import output_of
from network.untrusted import checked_symbol

exporter = pytest.importorskip("convert.onnx.exporter", reason="onnx and onnxruntime are optional")
graph_to_symbol = pytest.importorskip("convert.onnx.graph_to_symbol")
BATCH, Tensor = graph_to_symbol.BATCH, graph_to_symbol.Tensor

OPSET = 17


def model_of(nodes, weights=None, shape=(4, 6, 5), opset=OPSET, batch=None, functions=()):
    """A model of nodes (operator, inputs, outputs, options) from the image `x` to `y`."""
    import onnx
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, inputs.split(" "), outputs.split(), **options)
         for operator, inputs, outputs, options in nodes], "net",
        [helper.make_tensor_value_info("x", real, (batch or "n", *shape))],
        [helper.make_tensor_value_info("y", real, None)],
        [onnx.numpy_helper.from_array(np.asarray(array), name)
         for name, array in (weights or {}).items()])
    model = helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid("own", 1)], functions=functions)
    model.ir_version = 8
    return model


def theirs(model, images):
    """What onnxruntime computes, image by image."""
    import onnxruntime
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    return np.stack([session.run(None, {"x": np.repeat(image[None], batch, 0)})[0]
                     .reshape(batch, -1)[0] for image in images])


def ours(model, images):
    """What the converted network computes of all images in one batch, and its symbol."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    x = Tensor(mx.sym.Variable("data"), (BATCH, *images.shape[1:]), trained=False)
    result, arg_params, aux_params = graph_to_symbol.convert_graph(model, {"x": x}, batch)
    with tempfile.NamedTemporaryFile("w", suffix="-symbol.json") as file:
        file.write(result.symbol.tojson())
        file.flush()
        checked_symbol(file.name)  # what a checkpoint may contain
    executor = result.symbol.bind(mx.cpu(), {**arg_params, "data": mx.nd.array(images)},
                                  aux_states=aux_params, grad_req="null")
    out = executor.forward(is_train=False)[0].asnumpy()
    expected = tuple(side // BATCH * len(images) if side % BATCH == 0 else side
                     for side in result.shape)
    assert out.shape == expected
    return out.reshape(len(images), -1), result.symbol


def exported(model, shape):
    """The converted network of a model, on the pixels of an image, exported to ONNX again."""
    pixels = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32") / 64 - 1
    channels = mx.sym.Concat(*[pixels * (1 - 0.1 * i) for i in range(3)], dim=1)
    x = mx.sym.slice_axis(channels, axis=1, begin=0, end=shape[0])
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    tensors = {"x": Tensor(x, (BATCH, *shape), trained=False)}
    result, arg_params, aux_params = graph_to_symbol.convert_graph(model, tensors, batch)
    # A result whose first axis is not the batch becomes one column of numbers.
    net = checkpoint.set_attributes(mx.sym.Flatten(result.symbol) if result.shape[0] == BATCH
                                    else mx.sym.reshape(result.symbol, shape=(-1, 1)),
                                    image_shape=[3, *shape[1:]])
    params = arg_params, aux_params
    images = np.random.RandomState(0).randint(0, 256, (3, 3, *shape[1:])).astype(np.uint8)
    content = exporter.to_onnx(net, *params).SerializeToString()
    return exporter.onnx_predictor(content)(images), output_of(net, *params, images)


def assert_same(nodes, weights=None, shape=(4, 6, 5), opset=OPSET, batch=None, low=-3, back=True):
    """Hold our network to onnxruntime's on three images; returns the symbol's operators.

    With `back` the network is exported to ONNX again, and compared once more.
    """
    model = model_of(nodes, weights, shape, opset, batch)
    images = np.random.RandomState(0).uniform(low, 3, (3, *shape)).astype(np.float32)
    expected = theirs(model, images)
    got, symbol = ours(model, images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * max(1, np.abs(expected).max()))
    if back:
        again, once = exported(model_of(nodes, weights, shape, opset, batch), shape)
        np.testing.assert_allclose(again, once, rtol=1e-4, atol=1e-5 * max(1, np.abs(once).max()))
    return [node["op"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]
