"""The same network in operators that MXNet trains faster on CPUs.

    faster = faster_training(symbol, batches.provide_data[0], batches.provide_label[0], devices)

What oneDNN, MXNet's library for CPUs, has no operator for, MXNet computes in a plain memory layout,
and converts to and from oneDNN's blocked one before and after; and for some shapes oneDNN has no
good kernel. Only training knows the new network. Its parameters have the same names, shapes and
gradients, so that checkpoints keep the original one.

- BatchNorm and the relu after it become one operator.
- BatchNorm and the clip to [0, c] after it become two such operators. With -gamma and c - beta in
  place of gamma and beta, the first gives relu(c - x), which is c - min(x, c); the second changes
  the sign and adds c, which gives relu(min(x, c)). A clip right after a convolution does, too:
  files from other libraries often have no BatchNorm there. Where a value is exactly 0 or c, the
  gradient is 0; clip itself would pass it on.
- A depthwise convolution whose kernel is 5 or 7 columns wide becomes the sum of three that are 3
  wide, two of them on the feature map shifted left and right. oneDNN finds the gradient of wider
  kernels by multiplying matrices, which takes up to a hundred times as long.
"""
import json
import platform

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from network.graph import Graph, Node

BLOCK = 16  # channels in a block of oneDNN's layout for AVX-512
LARGEST_CLIP = 64  # c - (c - x) loses the last digits of a small x
FUSED = "_contrib_BatchNormWithReLU"
ADDED_PREFIX = "faster_graph_constant"  # begins the names of inputs that never change


def faster_training(symbol, data, label, compute):
    """The network to train in place of `symbol`; that itself where there is no faster one.

    `data` and `label` describe an iterator's batches. Whether MXNet can compute the new network
    shows only when it does, so one image is tried. Either all workers take a new network or none.
    """
    faster = _faster_on_cpu(symbol, data, label, compute.contexts)
    all_found = compute.workers.sum([faster is not None])[0] == compute.workers.count
    return faster if all_found else symbol


def _faster_on_cpu(symbol, data, label, contexts):
    """The new network; None if it is the same or not for these devices, or cannot be computed."""
    if not (all(context.device_type == "cpu" for context in contexts)
            and platform.machine() == "x86_64" and mx.runtime.Features().is_enabled("MKLDNN")):
        return None
    for everywhere in (False, True):
        try:
            with mxnet_errors("the faster network"):
                faster = _Rewriting(symbol, data, everywhere).symbol()
                if faster is not None:
                    training_step(faster, data, label, 1, contexts[0])()
            return faster
        except InputError:
            continue
    return None


def training_step(symbol, data, label, count, context, fixed=()):
    """A function that computes a forward and a backward pass over `count` images of ones.

    Gradients of the inputs named in `fixed` are not computed.
    """
    fixed = {*fixed, data.name, label.name}
    executor = symbol.simple_bind(
        context, type_dict={data.name: data.dtype},
        grad_req={name: "null" if name in fixed or is_constant(name) else "write"
                  for name in symbol.list_arguments()},
        **{each.name: (count, *each.shape[1:]) for each in (data, label)})
    for array in (*executor.arg_arrays, *executor.aux_arrays):
        array[:] = 1

    def step():
        executor.forward(is_train=True)
        executor.backward()
        mx.nd.waitall()
    return step


def is_constant(name):
    """Whether an input is a constant of the new network, which no checkpoint has."""
    return name.startswith(ADDED_PREFIX)


class _Rewriting:
    """Makes the new network from the graph of the old one.

    Where convolutions before and after an activation may use different layouts, and with
    `everywhere` at each activation, gradients pass through the plain layout. Between layouts of
    different blocks oneDNN has no fast BatchNorm, and none with a relu.
    """

    def __init__(self, symbol, data, everywhere):
        self._everywhere = everywhere
        self._graph = Graph(symbol)
        self._users, self._constants = self._graph.users(), {}
        shapes, _, _ = symbol.infer_shape(**{data.name: data.shape})
        self._shapes = dict(zip(symbol.list_arguments(), shapes))

    def symbol(self):
        """The new network, or None if no layer is another."""
        rewritings = {"Convolution": self._convolution, "Activation": self._relu,
                      "relu": self._relu, "clip": self._clip}
        new = {node: rewritings[node.op](node) for node in self._graph.nodes
               if node.op in rewritings}
        new = {node: better for node, better in new.items() if better}
        if not new:
            return None
        self._graph.substitute(new)
        return self._graph.symbol()

    def _relu(self, node):
        norm = self._batch_norm(node)
        if not norm or node.attrs.get("act_type", "relu") != "relu":
            return None
        # Before a pooling, the copy for plain gradients would take what the one operator saves.
        if any(user.op != "Convolution" for user in self._users[node]):
            return None
        fused = Node(FUSED, norm.name, norm.inputs, **norm.attrs)
        return self._with_plain_gradient(fused, node, norm.input())

    def _clip(self, node):
        norm = self._batch_norm(node)
        convolution = (norm or node).input()
        least, most = (float(node.attrs[key]) for key in ("a_min", "a_max"))
        if (least != 0 or not 0 < most <= LARGEST_CLIP or convolution.op != "Convolution"
                or norm and norm.flag("fix_gamma", "True")):
            return None
        name, shape = node.name, (int(convolution.attrs["num_filter"]),)

        def subtracted(name, source):
            """relu(most - source)"""
            constants = [self._constant(shape, value) for value in (-1, most, 0, 1)]
            return Node(FUSED, name, [source, *constants], fix_gamma=False, use_global_stats=True,
                        eps=0)

        if norm:
            data, gamma, beta, *statistics = norm.inputs
            first = Node(FUSED, norm.name, [
                data, Node("negative", f"{name}_gamma", [gamma]),
                Node("_rminus_scalar", f"{name}_beta", [beta], scalar=most), *statistics],
                **norm.attrs)
        else:
            first = subtracted(f"{name}_subtracted", node.inputs[0])
        return self._with_plain_gradient(subtracted(f"{name}_clipped", first), node, convolution)

    def _batch_norm(self, node):
        """The BatchNorm after a convolution that the node alone uses, or None."""
        norm = node.input()
        if (norm.op == "BatchNorm" and len(self._users[norm]) == 1
                and norm.attrs.get("axis", "1") == "1" and norm.input().op == "Convolution"):
            return norm
        return None

    def _with_plain_gradient(self, new, node, convolution):
        """The new node, or a copy if gradients have to pass through the plain layout."""
        users = self._users[node]
        if not self._everywhere and all(map(self._fills_blocks, (convolution, *users))):
            return new
        return Node("slice_axis", node.name, [new], axis=0, begin=0, end=None)

    def _fills_blocks(self, layer):
        """Whether it is a convolution whose layouts have whole blocks, of whatever size."""
        shape = self._weight_shape(layer) if layer.op == "Convolution" else ()
        if not shape:
            return False
        filters, channels = shape[:2]
        channels *= int(layer.attrs.get("num_group", 1))
        # An image's 3 channels stay in the plain layout.
        return filters % BLOCK == 0 and (channels % BLOCK == 0 or channels == 3)

    def _weight_shape(self, convolution):
        """Empty where the weight is no parameter but computed."""
        weight = convolution.input(1)
        return self._shapes[weight.name] if weight.is_variable else ()

    def _convolution(self, node):
        attrs, name, shape = node.attrs, node.name, self._weight_shape(node)
        if len(shape) != 4:
            return None
        filters, channels, rows, columns = shape
        pad, dilate = node.integers("pad"), node.integers("dilate")
        if (columns not in (5, 7) or pad[1:] != [columns // 2] or {1, *dilate} != {1}
                or channels != 1 or filters % BLOCK
                or int(attrs.get("num_group", 1)) != filters):
            return None
        data, weight, *bias = node.inputs
        side = columns // 2 - 1  # columns on each side of the three in the middle
        # MXNet does not find the shape of a parameter that is sliced first.
        weight[0].attrs["__shape__"] = str(tuple(shape))

        def columns_of(begin, end):
            return Node("slice_axis", f"{name}_columns{begin}", [weight], axis=3, begin=begin,
                        end=end)

        def shifted(direction, kernel):
            kernel, source = self._constant((filters, 1, 1, 3), [[kernel]]), data
            for step in range(side):
                source = Node("Convolution", f"{name}_{direction}{step}", [source, kernel],
                              kernel=(1, 3), pad=(0, 1), num_filter=filters, num_group=filters,
                              no_bias=True)
            return source

        def part(place, source, columns, bias=()):
            if len(columns) > 1:
                columns = [Node("concat", f"{name}_kernel_{place}", columns, num_args=2, dim=3)]
            return Node("Convolution", f"{name}_{place}", [source, *columns, *bias], **{
                **attrs, "kernel": (rows, 3), "pad": (pad[0], 1), "no_bias": not bias})

        blank = self._constant((filters, 1, rows, 3 - side), 0)
        return Node("add_n", name, [
            part("left", shifted("right", [1, 0, 0]), [columns_of(0, side), blank]),
            part("middle", data, [columns_of(side, side + 3)], bias),
            part("right", shifted("left", [0, 0, 1]), [blank, columns_of(side + 3, columns)])],
            num_args=3)

    def _constant(self, shape, value):
        """An input that MXNet's initializers set to a value: a number or nested lists."""
        key = tuple(shape), json.dumps(value)
        if key not in self._constants:
            self._constants[key] = Node(
                "null", f"{ADDED_PREFIX}{len(self._constants)}", __shape__=tuple(shape),
                __init__=json.dumps(["constant", {"value": value}]))
        return self._constants[key]
