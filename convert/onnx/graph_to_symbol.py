"""An ONNX graph as an MXNet symbol with its parameters.

Exporters write LayerNormalization before operator set 17 and Gelu before 20 as several nodes each.
MXNet has a layer for each, which is faster: such groups become one node first. A bias after a
MatMul becomes its third input, which ONNX does not have. Nodes of constants, and those that only
compute with shapes, are folded. Each other node becomes layers by its function in the table of
operators.
"""
import collections
import contextlib
import io
import json
import math

import numpy as np
import onnx
import onnx.inliner
from onnx.reference import ReferenceEvaluator

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from convert.onnx.operators import OPERATORS
from convert.onnx.operators.values import BATCH, Constant, Layer, Tensor, attributes_of
from network.untrusted import checked_graph

OLDEST_OPSET = 7
MOST_NODES = 100_000  # of which most are folded
MOST_LAYERS = 5000  # that are not; a checkpoint may have 10,000 nodes, with parameters
MOST_FOLDED = 1 << 28  # values that all folded constants may have together
# Operators that are folded where all of their inputs are constants.
FOLDED_NAMES = """
    Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape Cos Div Equal Exp Expand
    Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual
    Log MatMul Max Min Mod Mul Neg Not Or Pow Range Reciprocal ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum Reshape Resize Round ScatterElements ScatterND Sigmoid Sign Sin Size Slice
    Softmax Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where Xor"""
FOLDED = frozenset(FOLDED_NAMES.split())
SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}  # number of the input

# Templates of what a group computes: an operator and its inputs, or a list of alternatives. A text
# names an input of the group, the same one wherever it stands; a number is a constant of that
# value. Mean is ReduceMean over the last axis, which is kept.
ERF = ("Add", ("Erf", [("Div", "x", 2**0.5), ("Mul", "x", 0.5**0.5)]), 1)
GELU = [("Mul", ("Mul", ERF, "x"), 0.5), ("Mul", ("Mul", ERF, 0.5), "x"),
        ("Mul", ERF, ("Mul", "x", 0.5))]
CENTRED = ("Sub", "x", ("Mean", "x"))
VARIANCE = ("Mean", [("Pow", CENTRED, 2), ("Mul", CENTRED, CENTRED)])
NORMALISED = ("Div", CENTRED, ("Sqrt", ("Add", VARIANCE, "epsilon")))
LAYER_NORMALIZATION = ("Add", ("Mul", NORMALISED, "gamma"), "beta")


def convert_graph(model, tensors, batch):
    """The symbol of a model's only output, arg_params and aux_params.

    `model`, an onnx.ModelProto, is changed; functions of its own are inlined. `tensors` has the
    image input, a Tensor, by its name. `batch` is the batch size that the exporter wrote into the
    graph; 1 where it left it free. An InputError names the node and the operator that are not
    understood.
    """
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if opset < OLDEST_OPSET:
        raise InputError(f"it has operator set {opset}; those from {OLDEST_OPSET} on are read")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if len(model.graph.node) > MOST_NODES:
        raise InputError(f"{len(model.graph.node)} nodes; at most {MOST_NODES} are read")
    converter = _Converter(opset, batch)
    converter.values.update(tensors)
    for tensor in model.graph.initializer:
        converter.add_weight(tensor)
    name = model.graph.output[0].name
    for node in _simplified(model.graph.node, name, converter.values):
        converter.convert(node)
    result = converter.values.get(name)
    if not isinstance(result, Tensor):
        raise InputError(f"its output {name!r:.100} does not depend on the image")
    return result, *({name: mx.nd.array(value) for name, value in params.items()}
                     for params in (converter.arg_params, converter.aux_params))


class _Converter:
    """Values by their names, as one node after the other adds them."""

    def __init__(self, opset, batch):
        self._opset, self._batch = opset, batch
        self.values, self.arg_params, self.aux_params = {}, {}, {}
        self._names, self._variables = {}, {}
        self._num_layers = self._num_folded = 0

    def add_weight(self, tensor):
        """Add a stored weight to the values."""
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise InputError(f"its weight {tensor.name!r:.100} cannot be read: {error!s:.200}"
                             ) from None
        self.values[tensor.name] = Constant(array, tensor.name)

    def convert(self, node):
        """Add the outputs of a node to the values."""
        layer = Layer(node, self._opset, self._batch, self._names)
        absent = [name for name in node.input if name and name not in self.values]
        if absent:
            raise layer.error(f"its input {absent[0]!r:.100} is not there")
        inputs = [self.values[name] if name else None for name in node.input]
        if node.domain not in ("", "ai.onnx"):
            raise layer.error(f"the domain {node.domain!r:.50} is not known")
        if node.op_type == "Shape":
            options = attributes_of(node)
            sides = inputs[0].shape[options.get("start"):options.get("end")]
            results = [Constant(np.array(sides, np.int64))]
        elif node.op_type in FOLDED and not any(isinstance(v, Tensor) for v in inputs):
            results = self._fold(layer, node, inputs)
        else:
            results = self._layers(layer, node, inputs)
        self.values.update(zip(node.output, results))

    def _layers(self, layer, node, inputs):
        """What the operator's function makes of a node: Tensors."""
        self._num_layers += 1
        if self._num_layers > MOST_LAYERS:
            raise layer.error(f"the network has more than {MOST_LAYERS} layers")
        placeholders = [
            value._replace(symbol=mx.sym.Variable(f"input{number}"))
            if isinstance(value, Tensor) else value for number, value in enumerate(inputs)]
        if node.op_type not in OPERATORS:
            raise layer.error("this operator is not known")
        with mxnet_errors(f"node {layer.label!r:.100} ({layer.op:.50})"), \
                mx.name.Prefix(f"{layer.name}_"):
            results = OPERATORS[node.op_type](layer, placeholders, attributes_of(node))
            results = results if isinstance(results, list) else [results]
            for value, placeholder in zip(inputs, placeholders):
                if results[0] is placeholder:  # nothing to do
                    return [value]
            inner = [v.inner for v in results if isinstance(v, Tensor)]
            group = mx.sym.Group([v.symbol if isinstance(v, Tensor) else v for v in results])
            checked_graph(json.loads(group.tojson()))  # MXNet would divide by a stride of 0
            known = group.list_inputs()
            used = {f"input{number}": value for number, value in enumerate(inputs)
                    if isinstance(value, Tensor) and f"input{number}" in known}
            with contextlib.redirect_stdout(io.StringIO()):  # it prints the shapes before it raises
                _, shapes, _ = group.infer_shape(**{name: v.shape for name, v in used.items()})
            # A weight that several nodes take is one variable.
            weights = {name: self._variables.setdefault(name, variable)
                       for name, variable in layer.variables.items() if name in known}
            group = group(**{name: v.symbol for name, v in used.items()}, **weights)
        self.arg_params.update(layer.parameters)
        self.aux_params.update(layer.statistics)
        trained = bool(layer.parameters) or any(value.trained for value in used.values())
        inner = inner[0] if inner else any(value.inner for value in used.values())
        # Where the batch shares an axis with another number.
        shared = [any(side > BATCH and side % BATCH == 0 for side in shape) for shape in shapes]
        return [Tensor(group[i], shape, trained, inner and shared[i])
                for i, shape in enumerate(shapes)]

    def _fold(self, layer, node, inputs):
        """Constants that a node of constants computes."""
        number = SHAPE_INPUT.get(node.op_type)
        arrays = [value and value.value for value in inputs]
        if number is not None and number < len(arrays):
            # A constant that is repeated for each image need not be: it is broadcast where used.
            shape = np.array(arrays[number])
            arrays[number] = np.where(shape % BATCH == 0, shape // BATCH, shape)
        weights = {name: array for name, array in zip(node.input, arrays) if name}
        graph = onnx.helper.make_graph(
            [node], "constants", [], [onnx.ValueInfoProto(name=name) for name in node.output],
            [onnx.numpy_helper.from_array(np.asarray(array), name)
             for name, array in weights.items()])
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)])
        self._count_values(layer, model)
        try:
            results = ReferenceEvaluator(model).run(None, {})
        except Exception as error:  # of any kind: each operator of the evaluator raises its own
            raise layer.error(f"its constants cannot be computed: {error!s:.200}") from None
        # The scales of a Resize are no weights.
        origins = {value.origin for value in (inputs[:1] if node.op_type == "Resize" else inputs)
                   if value and value.origin and value.value.dtype.kind == "f"}
        origin = origins.pop() if len(origins) == 1 else ""
        return [Constant(np.asarray(result), origin) for result in results]

    def _count_values(self, layer, model):
        """Refuse constants that would fill the memory, before they are computed."""
        try:
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise layer.error(f"its constants do not fit together: {error!s:.200}") from None
        for value in graph.output:
            tensor = value.type.tensor_type
            if not tensor.HasField("shape") or not all(
                    dim.HasField("dim_value") for dim in tensor.shape.dim):
                raise layer.error("the shape of its constants cannot be found")
            self._num_folded += math.prod(dim.dim_value for dim in tensor.shape.dim)
        if self._num_folded > MOST_FOLDED:
            raise layer.error("its constants would fill the memory")


def _simplified(nodes, output, constants):
    """The nodes that the value `output` needs, in their order, with patterns replaced.

    `constants` has the stored weights, as Constants, by name.
    """
    graph = _Graph(nodes, output, constants)
    for node in graph.nodes:
        if node.op_type == "Mul":
            _gelu(graph, node)
        elif node.op_type == "Add":
            _layer_normalization(graph, node)
        if node.op_type == "Add":
            _bias(graph, node)
    return graph.needed(output)


class _Graph:
    """Nodes by what they compute and by what they take."""

    def __init__(self, nodes, output, constants):
        self.nodes, self._constants = list(nodes), constants
        self._producers = {name: node for node in nodes for name in node.output}
        self.uses = collections.Counter(name for node in nodes for name in node.input)
        self.uses[output] += 1

    def producer(self, name, operator):
        """The node that computes a value, if it is this operator."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type == operator else None

    def constant(self, name):
        """A stored constant, or that of a Constant node, or None."""
        node = self.producer(name, "Constant")
        if node is not None:
            value = attributes_of(node).get("value")
            return Constant(onnx.numpy_helper.to_array(value)) if value is not None else None
        value = self._constants.get(name)
        return value if isinstance(value, Constant) else None

    def number(self, name):
        """The value of a constant of one number, or None."""
        value = self.constant(name)
        return value.value.item() if value is not None and value.value.size == 1 else None

    def match(self, template, name, names):
        """`names` and those of the inputs of a group that computes the value `name`, or None."""
        if isinstance(template, list):
            found = (self.match(each, name, names) for each in template)
            return next((each for each in found if each is not None), None)
        if isinstance(template, str):
            return {**names, template: name} if names.get(template, name) == name else None
        if not isinstance(template, tuple):
            number = self.number(name)
            same = number is not None and np.isclose(number, template, rtol=1e-3, atol=0)
            return names if same else None
        operator, *parts = template
        node = self.producer(name, "ReduceMean" if operator == "Mean" else operator)
        if node is None or (operator == "Mean" and not self._keeps_last_axis(node)):
            return None
        inputs = list(node.input[:1] if operator == "Mean" else node.input)
        orders = [inputs, inputs[::-1]] if operator in ("Add", "Mul") else [inputs]
        for order in orders:
            found = names if len(order) == len(parts) else None
            for part, value in zip(parts, order):
                found = None if found is None else self.match(part, value, found)
            if found is not None:
                return found
        return None

    def _keeps_last_axis(self, node):
        """Whether a reduction is over the last axis, which it keeps."""
        options = attributes_of(node)
        axes = self.constant(node.input[1]) if len(node.input) > 1 else None
        axes = axes.value.tolist() if axes else options.get("axes")
        return axes == [-1] and bool(options.get("keepdims", 1))

    def replace(self, node, operator, inputs, **options):
        """Turn a node into another one of the same output."""
        self.uses.subtract(node.input)
        self.uses.update(inputs)
        node.op_type = operator
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)
        node.attribute.extend(onnx.helper.make_attribute(*item) for item in options.items())

    def needed(self, output):
        waiting, names = [output], set()
        while waiting:
            name = waiting.pop()
            if name and name not in names and name in self._producers:
                node = self._producers[name]
                names.update(node.output)
                waiting.extend(node.input)
        return [node for node in self.nodes if names & set(node.output)]


def _gelu(graph, product):
    """x * (1 + erf(x / sqrt(2))) * 0.5, multiplied in any order."""
    names = graph.match(GELU, product.output[0], {})
    if names and graph.number(names["x"]) is None:
        graph.replace(product, "Gelu", [names["x"]])


def _layer_normalization(graph, total):
    """(x - mean) / sqrt(mean((x - mean)**2) + epsilon) * gamma + beta over the last axis."""
    names = graph.match(LAYER_NORMALIZATION, total.output[0], {})
    if names and graph.number(names["epsilon"]) is not None and all(
            graph.constant(names[role]) is not None
            and graph.constant(names[role]).value.ndim == 1 for role in ("gamma", "beta")):
        graph.replace(total, "LayerNormalization", [names[key] for key in ("x", "gamma", "beta")],
                      epsilon=graph.number(names["epsilon"]))


def _bias(graph, total):
    """A bias that is added to the product with a weight."""
    for place, name in enumerate(total.input):
        product, bias = graph.producer(name, "MatMul"), graph.constant(total.input[1 - place])
        weight = product and graph.constant(product.input[1])
        if weight and bias and graph.uses[name] == 1 and weight.value.ndim == 2 \
                and bias.value.shape == weight.value.shape[1:]:
            graph.replace(total, "MatMul", [*product.input, total.input[1 - place]])
            total.name = product.name
            return
