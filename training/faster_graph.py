"""The same network in operators that MXNet trains faster on CPUs.

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
- A depthwise convolution whose kernel is 5 or 7 columns wide is computed by weights that get no
  gradient, because oneDNN finds that of wide kernels by multiplying matrices, which takes up to a
  hundred times as long. To the result are added convolutions of the shifted feature map whose
  kernels are 3 wide and 0, written w - w, of which one w gets its gradient.
- What is multiplied by a function of itself (SiLU, hard-swish), for which oneDNN has no operator,
  is converted to the plain layout once, not for each operator and again for the gradient.
- The average over all positions that squeeze-and-excitation begins with becomes a product with a
  constant vector: for some layouts oneDNN finds its gradient in quadratic time.
"""
import json
import platform

from common.cli import InputError
from common.mx_compat import mx, mxnet_errors
from network.graph import Graph, Node, layer_shapes

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
                    _train_on_one_image(faster, data, label, contexts[0])
            return faster
        except InputError:
            continue
    return None


def _train_on_one_image(symbol, data, label, context):
    """Compute a forward and a backward pass over an image of ones."""
    executor = symbol.simple_bind(
        context, type_dict={data.name: data.dtype},
        grad_req={name: "null" if name in (data.name, label.name) or is_constant(name) else "write"
                  for name in symbol.list_arguments()},
        **{each.name: (1, *each.shape[1:]) for each in (data, label)})
    for array in (*executor.arg_arrays, *executor.aux_arrays):
        array[:] = 1
    executor.forward(is_train=True)
    executor.backward()
    mx.nd.waitall()


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
        self._shapes = layer_shapes(symbol, data.shape[1:], data=data.name)

    def symbol(self):
        """The new network, or None if no layer is another."""
        rewritings = {"Convolution": self._convolution, "Activation": self._relu,
                      "relu": self._relu, "clip": self._clip, "Pooling": self._pooling}
        new = {}
        for node in self._graph.nodes:
            better = rewritings[node.op](node) if node.op in rewritings else None
            if self._is_multiplied(node):
                better = better or Node(node.op, node.name, node.inputs, **node.attrs)
                better = Node("Reshape", f"{node.name}_plain", [better], shape=(0, 0, 0, 0))
            if better:
                new[node] = better
        if not new:
            return None
        self._graph.substitute(new)
        return self._graph.symbol()

    def _is_multiplied(self, node):
        """Whether it is a layer whose output is multiplied, and used elsewhere, too."""
        users = self._users[node]
        return (node.op in ("BatchNorm", "Convolution") and len(users) > 1
                and any(user.op == "elemwise_mul" for user in users))

    def _pooling(self, node):
        source, users = node.input(), self._users[node]
        shape = self._shapes.get(f"{source.name}_output", ())
        if (len(shape) != 4 or not node.flag("global_pool") or node.attrs.get("pool_type") != "avg"
                # Before a classifier oneDNN is fast, unless it pools class maps.
                or all(user.op != "Convolution" for user in users)
                and (source.op != "Convolution" or shape[1] % BLOCK == 0)):
            return None
        _, channels, height, width = shape
        rows = Node("Reshape", f"{node.name}_rows", [source], shape=(-3, -3))
        vector = self._constant((1, height * width), 1 / (height * width))
        mean = Node("FullyConnected", f"{node.name}_mean", [rows, vector], num_hidden=1,
                    no_bias=True)
        return Node("Reshape", node.name, [mean], shape=(-4, -1, channels, 1, 1))

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
        # MXNet does not find the shape of a parameter that is sliced first.
        weight[0].attrs["__shape__"] = str(tuple(shape))
        stopped = Node("BlockGrad", f"{name}_constant", [weight])
        zero = Node("elemwise_sub", f"{name}_zero", [weight, stopped])
        blank = self._constant((filters, 1, rows, -columns % 3), 0)
        zero = Node("concat", f"{name}_zeros", [zero, blank], num_args=2, dim=3)
        features = Node("BlockGrad", f"{name}_features", [data])

        def part(start):
            """Zeros, of which the gradient is that of three columns of the weight."""
            kernel = Node("slice_axis", f"{name}_columns{start}", [zero], axis=3, begin=start,
                          end=start + 3)
            # Shifted so that each place and the two after it are those under these columns.
            shift = [int(column == start + 2) for column in range(columns + 2)]
            shifted = Node("Convolution", f"{name}_shifted{start}", [
                features, self._constant((filters, 1, 1, columns + 2), [[shift]])],
                kernel=(1, columns + 2), pad=(0, columns // 2 + 2), num_filter=filters,
                num_group=filters, no_bias=True)
            own_bias = [] if start else bias
            return Node("Convolution", f"{name}_part{start}", [shifted, kernel, *own_bias], **{
                **attrs, "kernel": (rows, 3), "pad": (pad[0], 0), "no_bias": not own_bias})

        # Without a bias MXNet computes the gradient of the weight even if nothing needs it.
        value = Node("Convolution", f"{name}_value", [data, stopped, self._constant((filters,), 0)],
                     **{**attrs, "no_bias": False})
        parts = [part(start) for start in range(0, columns, 3)]
        return Node("add_n", name, [value, *parts], num_args=1 + len(parts))

    def _constant(self, shape, value):
        """An input that MXNet's initializers set to a value: a number or nested lists."""
        key = tuple(shape), json.dumps(value)
        if key not in self._constants:
            self._constants[key] = Node(
                "null", f"{ADDED_PREFIX}{len(self._constants)}", __shape__=tuple(shape),
                __init__=json.dumps(["constant", {"value": value}]))
        return self._constants[key]
