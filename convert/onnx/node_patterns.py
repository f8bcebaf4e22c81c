"""Groups of ONNX nodes as the one node that newer operator sets have for them.

    nodes = simplified(graph.node, "logits", constants)

Exporters write LayerNormalization before operator set 17 and Gelu before 20 as several nodes each.
MXNet has a layer for each, which is faster. A bias after a MatMul becomes its third input, and a
transposition before one its attribute transB, neither of which ONNX has.
"""
import collections

import numpy as np

from convert.onnx.operators.table import Constant, ints, one_float


def simplified(nodes, output, constants):
    """The nodes that the value `output` needs, in their order, with patterns replaced.

    `constants` has the stored weights, as Constants, by name.
    """
    graph = _Graph(nodes, output, constants)
    for node in list(graph.nodes):
        if node.op_type == "Erf":
            _gelu(graph, node)
        elif node.op_type == "Div":
            _layer_normalization(graph, node)
        elif node.op_type == "Transpose":
            _one_transposition(graph, node)
    for node in list(graph.nodes):
        if node.op_type == "MatMul":
            _transposed_factor(graph, node)
            _bias(graph, node)
    return graph.needed(output)


class _Graph:
    """Nodes by what they compute and by what they take."""

    def __init__(self, nodes, output, constants):
        import onnx

        self.helper, self.array = onnx.helper, onnx.numpy_helper.to_array
        self.nodes, self._output, self._constants = list(nodes), output, constants
        self._producers = {name: node for node in nodes for name in node.output}
        self._users = collections.defaultdict(list)
        for node in nodes:
            for name in node.input:
                self._users[name].append(node)

    def producer(self, name, *operators):
        """The node that computes a value, if it is one of these operators."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type in operators else None

    def user(self, name, *operators):
        """The only node that takes a value, if it is one of these operators."""
        users = self._users[name]
        alone = len(users) == 1 and name != self._output and users[0].op_type in operators
        return users[0] if alone else None

    def users(self, name):
        return self._users[name]

    def option(self, node, name, default=None):
        found = [a for a in node.attribute if a.name == name]
        return self.helper.get_attribute_value(found[0]) if found else default

    def constant(self, name):
        """A stored constant, or that of a Constant node, or None."""
        node = self.producer(name, "Constant")
        if node is not None:
            value = self.option(node, "value")
            return Constant(self.array(value)) if value is not None else None
        value = self._constants.get(name)
        return value if isinstance(value, Constant) else None

    def number(self, name):
        """The value of a constant of one number, or None."""
        value = self.constant(name)
        return one_float(value) if value is not None and value.value.size == 1 else None

    def is_number(self, name, wanted):
        number = self.number(name)
        return number is not None and bool(np.isclose(number, wanted, rtol=1e-3, atol=0))

    def other(self, node, name):
        """The other one of a node's two inputs, or None."""
        pair = list(node.input)
        if len(pair) != 2 or name not in pair:
            return None
        pair.remove(name)
        return pair[0]

    def replace(self, node, operator, inputs, **options):
        """Turn a node into another one of the same output."""
        for name in node.input:
            self._users[name].remove(node)
        for name in inputs:
            self._users[name].append(node)
        node.op_type = operator
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)
        node.attribute.extend(self.helper.make_attribute(*item) for item in options.items())

    def needed(self, output):
        waiting, names = [output], set()
        while waiting:
            name = waiting.pop()
            if name and name not in names and name in self._producers:
                node = self._producers[name]
                names.update(node.output)
                waiting.extend(node.input)
        return [node for node in self.nodes if names & set(node.output)]


def _gelu(graph, erf):
    """x * (1 + erf(x / sqrt(2))) * 0.5, multiplied in any order."""
    scaled = graph.producer(erf.input[0], "Div", "Mul")
    if scaled is None:
        return
    x = next((name for name in scaled.input if graph.number(name) is None), None)
    scale = graph.other(scaled, x)
    if scale is None or not (
            graph.is_number(scale, 2**0.5 if scaled.op_type == "Div" else 0.5**0.5)
            and (scaled.op_type == "Mul" or scaled.input[1] == scale)):
        return
    last = graph.user(erf.output[0], "Add")
    if last is None or not graph.is_number(graph.other(last, erf.output[0]), 1):
        return
    wanted = {"x", "half"}
    while wanted:
        product = graph.user(last.output[0], "Mul")
        factor = product and graph.other(product, last.output[0])
        halved = factor and graph.producer(factor, "Mul")
        if factor is None:
            return
        if factor == x:
            found = {"x"}
        elif graph.is_number(factor, 0.5):
            found = {"half"}
        elif halved is not None and x in halved.input \
                and graph.is_number(graph.other(halved, x), 0.5):
            found = {"x", "half"}
        else:
            return
        if not found <= wanted:
            return
        wanted, last = wanted - found, product
    graph.replace(last, "Gelu", [x])


def _layer_normalization(graph, quotient):
    """(x - mean) / sqrt(mean((x - mean)**2) + epsilon) * gamma + beta over the last axis."""
    centred = graph.producer(quotient.input[0], "Sub")
    root = graph.producer(quotient.input[1], "Sqrt")
    total = root and graph.producer(root.input[0], "Add")
    if centred is None or total is None:
        return
    x = centred.input[0]
    variance, epsilon = total.input
    if graph.number(epsilon) is None:
        variance, epsilon = epsilon, variance
    if graph.number(epsilon) is None or not _is_mean(graph, centred.input[1], x):
        return
    deviation = graph.producer(variance, "ReduceMean")
    square = deviation and graph.producer(deviation.input[0], "Pow", "Mul")
    if square is None or not _is_mean(graph, variance, square.output[0]):
        return
    base = graph.producer(square.input[0], "Sub")
    if base is None or list(base.input) != list(centred.input) or not (
            graph.is_number(square.input[1], 2) if square.op_type == "Pow"
            else square.input[0] == square.input[1]):
        return
    scaled = graph.user(quotient.output[0], "Mul")
    gamma = scaled and graph.other(scaled, quotient.output[0])
    shifted = gamma and graph.user(scaled.output[0], "Add")
    beta = shifted and graph.other(shifted, scaled.output[0])
    if beta and all(graph.constant(name) is not None and graph.constant(name).value.ndim == 1
                    for name in (gamma, beta)):
        graph.replace(shifted, "LayerNormalization", [x, gamma, beta],
                      epsilon=graph.number(epsilon))


def _is_mean(graph, name, x):
    """Whether a value is the mean of x over its last axis, which is kept."""
    node = graph.producer(name, "ReduceMean")
    if node is None or node.input[0] != x or not graph.option(node, "keepdims", 1):
        return False
    axes = graph.option(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = ints(graph.constant(node.input[1]))
    return list(axes or ()) == [-1]


def _one_transposition(graph, node):
    """Two transpositions, one after the other, as one."""
    first = graph.producer(node.input[0], "Transpose")
    order = first and graph.option(first, "perm")
    after = graph.option(node, "perm")
    if order and after:
        graph.replace(node, "Transpose", list(first.input), perm=[order[axis] for axis in after])


def _transposed_factor(graph, node):
    """A transposition of the last two axes of a product's second factor."""
    swap = graph.producer(node.input[1], "Transpose")
    order = swap and graph.option(swap, "perm")
    if order:
        rank = len(order)
        if rank > 2 and list(order) == [*range(rank - 2), rank - 1, rank - 2]:
            graph.replace(node, "MatMul", [node.input[0], *swap.input], transB=1)


def _bias(graph, node):
    """A bias that is added to the product with a weight."""
    total = graph.user(node.output[0], "Add")
    weight, bias = graph.constant(node.input[1]), total and graph.other(total, node.output[0])
    value = bias and graph.constant(bias)
    if weight is not None and value and weight.value.ndim == 2 \
            and value.value.shape == weight.value.shape[1:]:
        graph.replace(total, "MatMul", [*node.input, bias])
        total.name = node.name
