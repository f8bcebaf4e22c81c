"""What a child process loads of untrusted checkpoints: one line to a log before each, one after it.

Whatever ends the process, the last line of the log says which input did.
"""
import functools
import inspect
import json
import os
import random
import resource
import shutil
import signal
import struct
from pathlib import Path

import numpy as np
from graph_grammar import write_checkpoint

from common.cli import InputError
from common.mx_compat import mx
from evaluation.classifier import Classifier
from network import checkpoint, fine_tune
from network.untrusted import check_shapes
from network.untrusted.symbols import NUM_INPUTS, RANGES
from reading.image_list import ImageList

MEMORY = 3 << 30
SECONDS = 20
NUMBERS = [0, -1, 1, 2, 3, 7, 255, 1000, 65536, 2 ** 31 - 1, 2 ** 31, -2 ** 31, 2 ** 32, 2 ** 63,
           2 ** 64, 10 ** 30]
LENGTHS = [0, -1, 1, 2, 3, 7, 255, 65536, 2 ** 31 - 1, -2 ** 31]
VALUES = [*NUMBERS, None, True, 0.5, 1e308, -0.0, float("nan"), float("inf"), "", "x",
          "\ud800", "\0", "\x1b[31m", "9" * 5000, [], {}, [[]], [None], [0, 0, 0], [3, 0, 32],
          [3, -1, 32], [3, 30000, 30000], [3, 32, 32.5], ["3", 32, 32], [1, 32, 32], [3, 32], [0.5],
          [float("nan")] * 3, ["a", "b", 3], ["\ud800"] * 3, "[" * 100000, [2 ** 70] * 3, "crop "]


def mutate_value(draw, value):
    """Another JSON value in place of one: of the same kind mostly."""
    if draw.random() < 0.25:
        return draw.choice(VALUES)
    if isinstance(value, bool) or value is None:
        return draw.choice(VALUES)
    if isinstance(value, int):
        return draw.choice([*NUMBERS, value + 1, value - 1, -value])
    if isinstance(value, str):
        numbers = "".join(c if c.isdigit() or c == "-" else " " for c in value).split()
        if numbers and draw.random() < 0.8:
            return value.replace(draw.choice(numbers), str(draw.choice(NUMBERS)), 1)
        return draw.choice(["", "None", "True", "()", "(0, 0)", "(-1,)", "max", "relu", "nan",
                            "1e400", value * 300, value[:-1], value + "\0"])
    if isinstance(value, list) and value:
        changed = list(value)
        draw.choice([lambda: changed.pop(draw.randrange(len(changed))),
                     lambda: changed.append(draw.choice(changed)),
                     lambda: changed.__setitem__(draw.randrange(len(changed)),
                                                 draw.choice(VALUES)),
                     lambda: draw.shuffle(changed)])()
        return changed
    return draw.choice(VALUES)


def mutate_graph(draw, text):
    """A symbol file with one to three mistakes."""
    if draw.random() < 0.1:
        data = bytearray(text.encode())
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return bytes(data[:draw.choice([len(data), draw.randrange(len(data))])])
    graph = json.loads(text)
    for _ in range(draw.randint(1, 3)):
        node = draw.choice(graph["nodes"])
        layer = draw.choice([n for n in graph["nodes"] if n["op"] != "null"] or [node])
        attributes = layer.setdefault("attrs", {})
        turn = draw.random()
        if turn < 0.25 and attributes:
            key = draw.choice(sorted(attributes))
            attributes[key] = mutate_value(draw, attributes[key])
        elif turn < 0.4:
            attributes[draw.choice(sorted(RANGES))] = draw.choice(
                ["0", "-1", "1", "2", "(1, 1)", "(0, 0)", "(2, 2)", "(1, 1, 1)", "100000", "()",
                 "None", "(3, 1000)", "7", "-8"])
        elif turn < 0.6:
            replace_operator(draw, layer)
        elif turn < 0.7:
            layer["inputs"] = mutate_value(draw, layer["inputs"])
        elif turn < 0.75 and layer["inputs"]:
            layer["inputs"][0] = [draw.randrange(len(graph["nodes"])), draw.choice([0, 0, 1, 2]), 0]
        elif turn < 0.85 and node.get("attrs"):
            key = draw.choice(sorted(node["attrs"]))
            node["attrs"][key] = mutate_value(draw, node["attrs"][key])
        elif turn < 0.9:
            graph["nodes"].remove(node)
        else:
            place = draw.choice([node, graph])
            key = draw.choice(sorted(place))
            place[key] = mutate_value(draw, place[key])
            break
    return json.dumps(graph).encode()


def replace_operator(draw, node):
    """Another operator, with as many inputs as it takes and some of its own attributes."""
    node["op"] = draw.choice(sorted({*NUM_INPUTS, "_Native", "_NDArray", "_CustomFunction"}))
    least, most = NUM_INPUTS.get(node["op"], (1, 1))
    node["inputs"] = (node["inputs"] * 5)[:draw.randint(least, min(most, 3))]
    function = next((getattr(place, node["op"].replace(prefix, "")) for place, prefix in (
        (mx.sym, " "), (mx.sym._internal, " "), (mx.sym.contrib, "_contrib_"),
        (mx.sym.image, "_image_")) if hasattr(place, node["op"].replace(prefix, ""))), mutate_graph)
    names = sorted(set(inspect.signature(function).parameters)
                   - {"name", "attr", "kwargs", "data", "out", "weight", "bias", "draw", "text"})
    node["attrs"] = {name: draw.choice(
        ["0", "1", "-1", "2", "3", "(1, 1)", "(2, 2)", "(1,)", "(0, 1, 2, 3)", "(-1, 0)", "True",
         "0.5", "100000", "(1, 1, 1)", "None", "float16", "int64", "constant", "like", "-7"])
        for name in draw.sample(names, min(len(names), draw.randint(0, 4)))}


def mutate_params(draw, data):
    """A .params file with one to three mistakes, most of them in lengths and types."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        place = draw.choice([draw.randrange(min(len(data), 120)), draw.randrange(len(data)),
                             max(0, len(data) - draw.randrange(1, 300))])
        turn = draw.random()
        if turn < 0.4:
            data[place] = draw.choice([0, 1, 127, 255, draw.randrange(256)])
        elif turn < 0.8:
            value = struct.pack(draw.choice(["<i", "<q"]), draw.choice(LENGTHS))
            place -= place % 4
            data[place:place + len(value)] = value
        elif turn < 0.9:
            del data[place:place + draw.choice([1, 4, 8, len(data)])]
        else:
            data[place:place] = bytes(draw.randrange(256) for _ in range(draw.choice([1, 4, 8])))
    return bytes(data)


def mutate_attributes(draw, text):
    """A symbol file in which one attribute of the checkpoint has another value."""
    graph = json.loads(text)
    attributes = next(node for node in graph["nodes"] if node["name"] == "data")["attrs"]
    name = draw.choice(["thresholds", "thresholds_epoch", "class_names", "image_shape", "fit",
                        "resize", "background", "version", "other"])
    value = draw.choice(VALUES)
    attributes[f"__rgb_{name}__"] = (
        value if isinstance(value, str) and draw.random() < 0.5 else json.dumps(value))
    return json.dumps(graph).encode()


MUTATIONS = {"symbol": ("-symbol.json", mutate_graph), "params": ("-0002.params", mutate_params),
             "attributes": ("-symbol.json", mutate_attributes)}


def use(prefix, image):
    """What the three commands do with a checkpoint, on one image."""
    classifier = Classifier(prefix, 2)
    with classifier.open(ImageList([image], len(classifier.class_names)), batch_size=1) as batches:
        for _ in classifier.predict(batches, [mx.cpu()]):
            pass


def fine_tune_it(prefix):
    """The same for train_multilabel.py: a step of training."""
    sym, arg_params, aux_params, _ = fine_tune.load_pretrained(prefix, 2)
    image_shape = checkpoint.get_attributes(sym).get("image_shape", [3, 224, 224])
    check_shapes(sym, arg_params, aux_params, image_shape, prefix)
    net, arg_params = fine_tune.get_fine_tune_model(sym, arg_params, 3)
    check_shapes(net, arg_params, aux_params, image_shape, prefix)
    frozen = fine_tune.frozen_parameters(net, "none")
    module = mx.mod.Module(fine_tune.training_symbol(net, frozen, 1), fixed_param_names=frozen,
                           label_names=["softmax_label"])
    pixels = np.zeros((1, *image_shape), np.uint8)
    module.bind([mx.io.DataDesc("data", pixels.shape, np.uint8)], [("softmax_label", (1, 3))])
    module.init_params(arg_params=arg_params, aux_params=aux_params, allow_missing=True)
    module.forward_backward(mx.io.DataBatch([mx.nd.array(pixels, dtype=np.uint8)],
                                            [mx.nd.zeros((1, 3))]))
    module.get_outputs()[0].asnumpy()


def export(prefix):
    """The same for export_onnx.py --deploy."""
    import export_onnx
    network = export_onnx.load_network(prefix, 2)
    samples = export_onnx.sample_images(checkpoint.get_attributes(network[0]))
    predictor = functools.partial(export_onnx.output_of, *network)
    export_onnx.compare("net", predictor, predictor, {"few": samples["random pixels"][:1]})


def write_untrusted(kind, draw, valid, target):
    """Write the checkpoint `target`: the one `valid` with mistakes, or one of random layers."""
    if kind == "layers":
        write_checkpoint(draw, target)
        return
    ending, mutate = MUTATIONS[kind]
    data = Path(valid + ending).read_bytes()
    Path(target + ending).write_bytes(
        mutate(draw, data if kind == "params" else data.decode()))


def main(kind, folder, first, last, log):
    """Write, load and compute the checkpoints number `first` to `last` - 1."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    valid, target = (os.path.join(folder, name) for name in ("valid", f"mutated-{kind}"))
    for suffix in ("-symbol.json", "-0002.params"):
        shutil.copy(valid + suffix, target + suffix)
    steps = [lambda: use(target, os.path.join(folder, "image.png")),
             lambda: fine_tune_it(target), lambda: export(target)]
    with open(log, "a") as out:
        for number in range(int(first), int(last)):
            print(number, "begins", file=out, flush=True)
            write_untrusted(kind, random.Random(number), valid, target)
            signal.alarm(SECONDS)
            for step in steps:
                try:
                    step()
                    result = "is computed"
                except (InputError, RuntimeError) as error:
                    # train_multilabel.py ends in one line after an error of MXNet's own.
                    of_mxnet = isinstance(error, mx.MXNetError) or isinstance(
                        error.__context__, mx.MXNetError)
                    if not isinstance(error, InputError) and (
                            step is not steps[1] or not of_mxnet):
                        raise
                    result = "is refused: " + " ".join(str(error).split())[:300]
                print(number, result, file=out)
            signal.alarm(0)
        print("done", file=out)
