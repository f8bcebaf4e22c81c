"""The graph of a symbol, as layers that can be looked at, changed, and made a symbol again."""
from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Sequence

import numpy as np

from common.mx_compat import mx, mxnet_errors


class Node:
    """A layer, or a variable, whose `op` is "null".

    `attrs` are the attributes, of str to str; `inputs` lists the node of each input, the number of
    the output that it takes, and MXNet's version of it.
    """

    def __init__(self, op, name, inputs=(), /, **attrs):
        self.op, self.name = op, name
        self.inputs = [entry if isinstance(entry, tuple) else (entry, 0, 0) for entry in inputs]
        self.attrs = {key: str(value) for key, value in attrs.items()}

    @property
    def is_variable(self) -> bool:
        """Whether it is an input or a parameter of the network."""
        return self.op == "null"

    def input(self, number: int = 0) -> Node:
        """The node of an input."""
        return self.inputs[number][0]

    def flag(self, key: str, default: str = "False") -> bool:
        """Whether an attribute says yes."""
        return self.attrs.get(key, default) in ("True", "true", "1")

    def integers(self, key: str) -> list[int]:
        """The integers in an attribute such as "(3, 3)"; empty without it."""
        return integers(self.attrs.get(key, ""))


class Graph:
    """All nodes of a symbol, in an order in which each comes after its inputs.

    `outputs` are the symbol's, in the form of a node's inputs.
    """

    def __init__(self, symbol):
        graph = json.loads(symbol.tojson())
        self.nodes = []
        for each in graph["nodes"]:
            self.nodes.append(Node(each["op"], each["name"], self._entries(each["inputs"]),
                                   **each.get("attrs", {})))
        self.outputs = self._entries(graph["heads"])
        self._attrs = graph["attrs"]

    def _entries(self, entries):
        return [(self.nodes[number], *rest) for number, *rest in entries]

    def __getitem__(self, name: str) -> Node:
        """The first node of this name; KeyError without one."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def output(self) -> Node:
        """The node of the first output."""
        return self.outputs[0][0]

    def users(self) -> dict[Node, list[Node]]:
        """The nodes that take an output of each node, by node."""
        users = defaultdict(list)
        for node in self.nodes:
            for source, *_ in node.inputs:
                users[source].append(node)
        return users

    def substitute(self, nodes: dict[Node, Node]) -> None:
        """Let each user of a node take another one in its place: `nodes`, a dict of old to new."""
        waiting, seen = [*self.nodes, *nodes.values()], set()
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                node.inputs = [(nodes.get(source, source), *rest) for source, *rest in node.inputs]
                waiting += [source for source, *_ in node.inputs]
        self.outputs = [(nodes.get(node, node), *rest) for node, *rest in self.outputs]

    def symbol(self) -> mx.sym.Symbol:
        """The symbol of what the outputs depend on."""
        numbers, waiting = {}, [node for node, *_ in reversed(self.outputs)]
        while waiting:
            node = waiting.pop()
            missing = [source for source, *_ in node.inputs if source not in numbers]
            if missing:
                waiting += [node, *reversed(missing)]
            else:
                numbers.setdefault(node, len(numbers))
        nodes = [{"op": node.op, "name": node.name, "attrs": node.attrs,
                  "inputs": [[numbers[source], *rest] for source, *rest in node.inputs]}
                 for node in numbers]
        return mx.sym.load_json(json.dumps({
            "nodes": nodes, "attrs": self._attrs,
            "arg_nodes": [number for node, number in numbers.items() if node.is_variable],
            "heads": [[numbers[node], *rest] for node, *rest in self.outputs]}))


def replaced(symbol: mx.sym.Symbol, name: str, layer: mx.sym.Symbol) -> mx.sym.Symbol:
    """The network with the symbol `layer` in place of what layer `name` gives."""
    graph = Graph(symbol)
    node = graph[name]
    node.op, node.inputs, node.attrs = "null", [], {}
    return graph.symbol()(**{name: layer})


def layers_up_to(symbol: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
    """The network up to layer `name`."""
    return symbol.get_internals()[name + "_output"]


def params_of(symbol: mx.sym.Symbol, arg_params: dict, aux_params: dict) -> tuple[dict, ...]:
    """Those of some arg_params and aux_params that the network has."""
    names = symbol.list_arguments(), symbol.list_auxiliary_states()
    return tuple({name: given[name] for name in own if name in given}
                 for own, given in zip(names, (arg_params, aux_params)))


def layer_shapes(symbol: mx.sym.Symbol, image_shape: Sequence[int], batch_size: int = 1,
                 data: str = "data") -> dict[str, tuple[int, ...]]:
    """Shapes of a network's layers and parameters for a batch, by the names of their outputs.

    An InputError says that it does not work on images of `image_shape`, (3, height, width). `data`
    is the name of the input.
    """
    layers = symbol.get_internals()
    with mxnet_errors(f"the network does not work on images of {list(image_shape)}"):
        _, shapes, _ = layers.infer_shape_partial(**{data: (batch_size, *image_shape)})
    return dict(zip(layers.list_outputs(), shapes))


def output_of(symbol: mx.sym.Symbol, arg_params: dict, aux_params: dict,
              pixels: np.ndarray) -> np.ndarray:
    """The first output of a network for pixels, uint8 (batch, 3, height, width), on the CPU."""
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=pixels.shape,
                                  type_dict={"data": "uint8"})
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    pixels = mx.nd.array(pixels, dtype="uint8")
    return executor.forward(is_train=False, data=pixels)[0].asnumpy()


def integers(text: str) -> list[int]:
    """The integers in a text such as "(3, 3)"."""
    return [int(number) for number in re.findall(r"-?\d+", text)]
