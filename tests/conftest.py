import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from common.cli import InputError
from common.mx_compat import mx
from network import checkpoint
from reading.lst_file import read_lst

ROOT = Path(__file__).resolve().parents[1]
CCP = ROOT.parent / "shared" / "data" / "ccp"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Shells start background jobs so, and the programs that the tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores


@pytest.fixture(scope="session")
def ccp():
    """600 real photos with labels of 58 classes."""
    if not (CCP / "train.lst").exists():
        pytest.skip("the photos of ../shared/data/ccp are not here")
    return CCP


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory):
    """The demo set, 70 images for training and 20 for validation."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    script("demo/make_demo.py", "--out", folder, "--num-train", 70, "--num-val", 20)
    return folder


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory):
    """Prefix of a small ResNet-like "pretrained" checkpoint that says nothing of its input."""
    prefix = str(tmp_path_factory.mktemp("network") / "tiny")
    net = mx.sym.Variable("data")
    for i, width in enumerate((8, 16)):
        net = mx.sym.Convolution(net, num_filter=width, kernel=(3, 3), stride=(2, 2),
                                 no_bias=True, name=f"conv{i}")
        net = mx.sym.BatchNorm(net, fix_gamma=False, name=f"bn{i}")
        net = mx.sym.Activation(net, act_type="relu", name=f"relu{i}")
    net = mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg", name="pool1")
    net = mx.sym.Flatten(net, name="flatten0")
    net = mx.sym.FullyConnected(net, num_hidden=10, name="fc1")
    net = mx.sym.SoftmaxOutput(net, name="softmax")
    module = mx.mod.Module(net)
    module.bind([("data", (1, 3, 32, 32))], [("softmax_label", (1,))])
    mx.random.seed(1)
    module.init_params(mx.init.Xavier())
    checkpoint.save(prefix, 0, net, *module.get_params())
    return prefix


@contextlib.contextmanager
def expect_error(*, file=None, line=None, flag=None):
    """Expect an InputError of one line with these fields; None: without the field."""
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert (error.file and str(error.file), error.line, error.flag) == (
        file and str(file), line, flag)
    assert len(str(error).splitlines()) == 1


# Forks a process for each request; a command then starts without loading MXNet and OpenCV anew.
FORK_COMMANDS = """
import json, os, runpy, sys
root = sys.argv[1]
sys.path.insert(0, root)
import matplotlib.pyplot
for module in ("train_multilabel", "predict_multilabel", "training.run", "training.warm_head"):
    __import__(module)
for line in sys.stdin:
    path, arguments, folder, output = json.loads(line)
    child = os.fork()
    if not child:
        for number, file in enumerate((os.devnull, output, output)):
            os.dup2(os.open(file, os.O_RDWR | os.O_APPEND), number)
        os.chdir(folder)
        sys.argv = [os.path.join(root, path), *arguments]
        sys.path[0] = os.path.dirname(sys.argv[0])
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
    print(os.waitpid(child, 0)[1], flush=True)
"""
forking = None  # the process that does it, once it is needed


def script(path, *args, status=0, cwd=None, **options):
    """Run one of the project's scripts; its standard output and error as one text.

    `options` are those of subprocess.run; with any the script gets a Python of its own.
    """
    global forking
    args = [str(arg) for arg in args]
    if options:
        done = subprocess.run([sys.executable, str(ROOT / path), *args], text=True, cwd=cwd,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, **options.pop("env", {})}, **options)
        assert done.returncode == status, done.stdout
        return done.stdout
    if forking is None:
        forking = subprocess.Popen([sys.executable, "-c", FORK_COMMANDS, str(ROOT)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with tempfile.NamedTemporaryFile("r") as output:
        print(json.dumps([path, args, str(cwd or os.getcwd()), output.name]), file=forking.stdin,
              flush=True)
        ended = int(forking.stdout.readline())
        text = output.read()
    assert ended == status << 8, text
    return text


def predictions(classifier, lst, folder):
    """Labels and probabilities by a Classifier of all images of a .lst: both (images, classes)."""
    with classifier.open(read_lst(str(lst), len(classifier.class_names)), str(folder)) as batches:
        return tuple(np.concatenate(part) for part in zip(*(
            (batch.label[0].asnumpy()[:len(prob)], prob)
            for batch, prob, _ in classifier.predict(batches, [mx.cpu()]))))


RUN_ALL = """
import contextlib, io, json, signal, sys, traceback
sys.path.insert(0, sys.argv[1])
from common.cli import run
from train_multilabel import main
for argv in json.load(sys.stdin):
    text = io.StringIO()
    signal.alarm(int(sys.argv[2]))
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            run(main, argv)
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = traceback.print_exc()
    print(json.dumps([status, text.getvalue()]), flush=True)
"""


def train_all(runs, seconds=60, **options):
    """Several runs of train_multilabel.py in one process: the status and the output of each.

    Fewer come back where the process died, as it does when a run takes more than `seconds`.
    """
    done = subprocess.run([sys.executable, "-c", RUN_ALL, str(ROOT), str(seconds)], text=True,
                          stdout=subprocess.PIPE, input=json.dumps(runs), **options)
    return [json.loads(line) for line in done.stdout.splitlines()]


def training_flags(network, demo, result, **flags):
    """Arguments of train_multilabel.py for a quick run; flags by name, None takes one out."""
    flags = {"model": network, "data_train": demo / "train.lst", "image_train": demo / "images",
             "data_val": demo / "val.lst", "image_val": demo / "images",
             "labels": demo / "labels.txt", "image_shape": "3,32,32", "batch_size": 16,
             "num_epoch": 2, "lr": 0.05, "save_result": result, "save_name": "tiny", **flags}
    return [part for name, value in flags.items() if value is not None
            for part in ((f"--{name.replace('_', '-')}",) if value is True
                         else (f"--{name.replace('_', '-')}", str(value)))]
