"""Groups of ONNX nodes as the one node that newer operator sets have for them.

Exporters write LayerNormalization before operator set 17 and Gelu before 20 as several nodes each.
MXNet has a layer for each, which is faster. A bias after a MatMul becomes its third input, and a
transposition before one its attribute transB, neither of which ONNX has.
"""
import collections

import numpy as np
import onnx

from convert.onnx.operators.values import Constant, attributes_of, ints, numbers

# Templates of what a group computes: an operator and its inputs. A text names an input of the
# group, the same one wherever it stands; a number is a constant of that value. Mean is ReduceMean
# over the last axis, which is kept.
ERF_PLUS_ONE = [("Add", ("Erf", scaled), 1)
                for scaled in (("Div", "x", 2**0.5), ("Mul", "x", 0.5**0.5))]
GELU = [template for erf in ERF_PLUS_ONE for template in (
    ("Mul", ("Mul", erf, "x"), 0.5), ("Mul", ("Mul", erf, 0.5), "x"),
    ("Mul", erf, ("Mul", "x", 0.5)))]
CENTRED = ("Sub", "x", ("Mean", "x"))
LAYER_NORMALIZATION = [
    ("Add", ("Mul", ("Div", CENTRED, ("Sqrt", ("Add", ("Mean", square), "epsilon"))), "gamma"),
     "beta")
    for square in (("Pow", CENTRED, 2), ("Mul", CENTRED, CENTRED))]


def simplified(nodes, output, constants):
    """The nodes that the value `output` needs, in their order, with patterns replaced.

    `constants` has the stored weights, as Constants, by name.
    """
    graph = _Graph(nodes, output, constants)
    for node in graph.nodes:
        if node.op_type == "Mul":
            _gelu(graph, node)
        elif node.op_type == "Add":
            _layer_normalization(graph, node)
        elif node.op_type == "Transpose":
            _one_transposition(graph, node)
    for node in graph.nodes:
        if node.op_type == "MatMul":
            _transposed_factor(graph, node)
            _bias(graph, node)
    return graph.needed(output)


class _Graph:
    """Nodes by what they compute and by what they take."""

    def __init__(self, nodes, output, constants):
        self.nodes, self._output, self._constants = list(nodes), output, constants
        self._producers = {name: node for node in nodes for name in node.output}
        self._users = collections.defaultdict(list)
        for node in nodes:
            for name in node.input:
                self._users[name].append(node)

    def producer(self, name, operator):
        """The node that computes a value, if it is this operator."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type == operator else None

    def user(self, name, operator):
        """The only node that takes a value, if it is this operator."""
        users = self._users[name]
        alone = len(users) == 1 and name != self._output and users[0].op_type == operator
        return users[0] if alone else None

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
        return numbers(value)[0] if value is not None and value.value.size == 1 else None

    def match(self, templates, name):
        """The names of a group's inputs, where one of the templates computes the value `name`."""
        found = (self._match(template, name, {}) for template in templates)
        return next((names for names in found if names is not None), None)

    def _match(self, template, name, names):
        """`names` with what this part of a template adds to them, or None."""
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
                found = None if found is None else self._match(part, value, found)
            if found is not None:
                return found
        return None

    def _keeps_last_axis(self, node):
        """Whether a reduction is over the last axis, which it keeps."""
        options = attributes_of(node)
        axes = options.get("axes")
        if axes is None and len(node.input) > 1:
            axes = ints(self.constant(node.input[1]))
        return list(axes or ()) == [-1] and bool(options.get("keepdims", 1))

    def replace(self, node, operator, inputs, **options):
        """Turn a node into another one of the same output."""
        for name in node.input:
            self._users[name].remove(node)
        for name in inputs:
            self._users[name].append(node)
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
    names = graph.match(GELU, product.output[0])
    if names and graph.number(names["x"]) is None:
        graph.replace(product, "Gelu", [names["x"]])


def _layer_normalization(graph, total):
    """(x - mean) / sqrt(mean((x - mean)**2) + epsilon) * gamma + beta over the last axis."""
    names = graph.match(LAYER_NORMALIZATION, total.output[0])
    if names and graph.number(names["epsilon"]) is not None and all(
            graph.constant(names[role]) is not None
            and graph.constant(names[role]).value.ndim == 1 for role in ("gamma", "beta")):
        graph.replace(total, "LayerNormalization", [names[key] for key in ("x", "gamma", "beta")],
                      epsilon=graph.number(names["epsilon"]))


def _one_transposition(graph, node):
    """Two transpositions, one after the other, as one."""
    first = graph.producer(node.input[0], "Transpose")
    order = first and attributes_of(first).get("perm")
    after = attributes_of(node).get("perm")
    if order and after:
        graph.replace(node, "Transpose", list(first.input), perm=[order[axis] for axis in after])


def _transposed_factor(graph, node):
    """A transposition of the last two axes of a product's second factor."""
    swap = graph.producer(node.input[1], "Transpose")
    order = swap and attributes_of(swap).get("perm")
    rank = len(order or ())
    if rank > 2 and list(order) == [*range(rank - 2), rank - 1, rank - 2]:
        graph.replace(node, "MatMul", [node.input[0], *swap.input], transB=1)


def _bias(graph, node):
    """A bias that is added to the product with a weight."""
    total = graph.user(node.output[0], "Add")
    weight = graph.constant(node.input[1])
    if total is None or weight is None or weight.value.ndim != 2:
        return
    for name in total.input:
        bias = graph.constant(name)
        if bias is not None and bias.value.shape == weight.value.shape[1:]:
            graph.replace(total, "MatMul", [*node.input, name])
            total.name = node.name
            return
