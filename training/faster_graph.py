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
from collections import defaultdict

from common.cli import InputError
from common.mx_compat import mx
from network.shape_check import mxnet_errors
from network.symbol_check import integers

BLOCK = 16  # channels in a block of oneDNN's layout for AVX-512
LARGEST_CLIP = 64  # c - (c - x) loses the last digits of a small x
FUSED = "_contrib_BatchNormWithReLU"
CONSTANT = "faster_graph_constant"  # begins the names of inputs that never change


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
    return name.startswith(CONSTANT)


class _Rewriting:
    """Makes the new graph from MXNet's JSON of the old one, node by node.

    Where convolutions before and after an activation may use different layouts, and with
    `everywhere` at each activation, gradients pass through the plain layout. Between layouts of
    different blocks oneDNN has no fast BatchNorm, and none with a relu.
    """

    def __init__(self, symbol, data, everywhere):
        self._everywhere = everywhere
        self._graph = json.loads(symbol.tojson())
        self._old, self._new = self._graph["nodes"], []
        self._numbers = []  # of each old node, the new one in its place
        self._users, self._constants = defaultdict(list), {}
        for node in self._old:
            for source, *_ in node["inputs"]:
                self._users[source].append(node)
        shapes, _, _ = symbol.infer_shape(**{data.name: data.shape})
        self._shapes = dict(zip(symbol.list_arguments(), shapes))

    def symbol(self):
        """The new network, or None if no layer is another."""
        rewritings = {"Convolution": self._convolution, "Activation": self._relu,
                      "relu": self._relu, "clip": self._clip}
        changed = False
        for number, node in enumerate(self._old):
            inputs = [[self._numbers[source], *rest] for source, *rest in node["inputs"]]
            entry = None
            if node["op"] in rewritings:
                entry = rewritings[node["op"]](node, inputs, self._users[number])
            changed = changed or entry is not None
            self._numbers.append((entry or self._append(node, inputs))[0])
        if not changed:
            return None
        self._graph.update(
            nodes=self._new,
            heads=[[self._numbers[number], *rest] for number, *rest in self._graph["heads"]],
            arg_nodes=[number for number, node in enumerate(self._new) if node["op"] == "null"])
        del self._graph["node_row_ptr"]
        return mx.sym.load_json(json.dumps(self._graph))

    def _relu(self, node, inputs, users):
        norm = self._batch_norm(node)
        if not norm or node.get("attrs", {}).get("act_type", "relu") != "relu":
            return None
        # Before a pooling, the copy for plain gradients would take what the one operator saves.
        if any(user["op"] != "Convolution" for user in users):
            return None
        entry = self._add(FUSED, norm["name"], self._new[inputs[0][0]]["inputs"],
                          **norm.get("attrs", {}))
        return self._with_plain_gradient(entry, node, self._input(norm), users)

    def _clip(self, node, inputs, users):
        norm = self._batch_norm(node)
        convolution = self._input(norm or node)
        least, most = (float(node["attrs"][key]) for key in ("a_min", "a_max"))
        if (least != 0 or not 0 < most <= LARGEST_CLIP or convolution["op"] != "Convolution"
                or norm and norm.get("attrs", {}).get("fix_gamma", "True") not in ("False", "0")):
            return None
        name, shape = node["name"], (int(convolution["attrs"]["num_filter"]),)

        def subtracted(name, entry):
            """relu(most - entry)"""
            constants = [self._constant(shape, value) for value in (-1, most, 0, 1)]
            return self._add(FUSED, name, [entry, *constants], fix_gamma=False,
                             use_global_stats=True, eps=0)

        if norm:
            data, gamma, beta, *statistics = self._new[inputs[0][0]]["inputs"]
            first = self._add(FUSED, norm["name"], [
                data, self._add("negative", f"{name}_gamma", [gamma]),
                self._add("_rminus_scalar", f"{name}_beta", [beta], scalar=most), *statistics],
                **norm["attrs"])
        else:
            first = subtracted(f"{name}_subtracted", inputs[0])
        return self._with_plain_gradient(subtracted(f"{name}_clipped", first), node,
                                         convolution, users)

    def _input(self, node):
        return self._old[node["inputs"][0][0]]

    def _batch_norm(self, node):
        """The BatchNorm after a convolution that the node alone uses, or None."""
        norm = self._input(node)
        if (norm["op"] == "BatchNorm" and len(self._users[node["inputs"][0][0]]) == 1
                and norm.get("attrs", {}).get("axis", "1") == "1"
                and self._input(norm)["op"] == "Convolution"):
            return norm
        return None

    def _with_plain_gradient(self, entry, node, convolution, users):
        """The entry, or a copy if gradients have to pass through the plain layout."""
        if not self._everywhere and all(map(self._fills_blocks, (convolution, *users))):
            return entry
        return self._add("slice_axis", node["name"], [entry], axis=0, begin=0, end=None)

    def _fills_blocks(self, layer):
        """Whether it is a convolution whose layouts have whole blocks, of whatever size."""
        shape = self._weight_shape(layer) if layer["op"] == "Convolution" else ()
        if not shape:
            return False
        filters, channels = shape[:2]
        channels *= int(layer["attrs"].get("num_group", 1))
        # An image's 3 channels stay in the plain layout.
        return filters % BLOCK == 0 and (channels % BLOCK == 0 or channels == 3)

    def _weight_shape(self, convolution):
        """Empty where the weight is no parameter but computed."""
        weight = self._old[convolution["inputs"][1][0]]
        return self._shapes[weight["name"]] if weight["op"] == "null" else ()

    def _convolution(self, node, inputs, _):
        attrs, name, shape = node["attrs"], node["name"], self._weight_shape(node)
        if len(shape) != 4:
            return None
        filters, channels, rows, columns = shape
        pad, dilate = (integers(attrs.get(key, "")) for key in ("pad", "dilate"))
        if (columns not in (5, 7) or pad[1:] != [columns // 2] or {1, *dilate} != {1}
                or channels != 1 or filters % BLOCK
                or int(attrs.get("num_group", 1)) != filters):
            return None
        data, weight, *bias = inputs
        side = columns // 2 - 1  # columns on each side of the three in the middle
        # MXNet does not find the shape of a parameter that is sliced first.
        self._new[weight[0]].setdefault("attrs", {})["__shape__"] = str(tuple(shape))

        def columns_of(begin, end):
            return self._add("slice_axis", f"{name}_columns{begin}", [weight], axis=3, begin=begin,
                             end=end)

        def shifted(direction, kernel):
            kernel, entry = self._constant((filters, 1, 1, 3), [[kernel]]), data
            for step in range(side):
                entry = self._add("Convolution", f"{name}_{direction}{step}", [entry, kernel],
                                  kernel=(1, 3), pad=(0, 1), num_filter=filters,
                                  num_group=filters, no_bias=True)
            return entry

        def part(place, entry, columns, bias=()):
            if len(columns) > 1:
                columns = [self._add("concat", f"{name}_kernel_{place}", columns, num_args=2,
                                     dim=3)]
            return self._add("Convolution", f"{name}_{place}", [entry, *columns, *bias], **{
                **attrs, "kernel": (rows, 3), "pad": (pad[0], 1), "no_bias": not bias})

        blank = self._constant((filters, 1, rows, 3 - side), 0)
        return self._add("add_n", name, [
            part("left", shifted("right", [1, 0, 0]), [columns_of(0, side), blank]),
            part("middle", data, [columns_of(side, side + 3)], bias),
            part("right", shifted("left", [0, 0, 1]), [blank, columns_of(side + 3, columns)])],
            num_args=3)

    def _constant(self, shape, value):
        """An input that MXNet's initializers set to a value: a number or nested lists."""
        key = tuple(shape), json.dumps(value)
        if key not in self._constants:
            self._constants[key] = self._add(
                "null", f"{CONSTANT}{len(self._constants)}", [], __shape__=tuple(shape),
                __init__=json.dumps(["constant", {"value": value}]))
        return self._constants[key]

    def _add(self, op, name, inputs, **attrs):
        return self._append({"op": op, "name": name, "attrs": {
            key: str(value) for key, value in attrs.items()}}, inputs)

    def _append(self, node, inputs):
        self._new.append({**node, "inputs": inputs})
        return [len(self._new) - 1, 0, 0]
