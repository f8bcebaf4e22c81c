import contextlib
import gc
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
from reading.lst_file import read_lst

# MXNet is imported where it is used: the process that deals out the files does without it.

ROOT = Path(__file__).resolve().parents[1]
CCP = ROOT.parent / "shared" / "data" / "ccp"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Shells start background jobs so, and the programs that the tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores


# The files that take longest come first, so that no process is left alone with one at the end.
LONGEST = ("test_train_multilabel", "test_resume", "test_run_train", "test_export_onnx",
           "test_import_pretrained", "test_distributed", "test_predict_multilabel",
           "test_frozen_stages", "test_streams", "test_lst_iter", "test_hostile_snapshots",
           "test_untrusted_checkpoints", "test_image_file", "test_launch", "test_mx_compat",
           "test_class_maps", "test_warm_head")


def pytest_configure(config):
    config.option.loadscopereorder = False  # xdist deals the files out in the order that follows


def pytest_collection_modifyitems(items):
    order = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish():
    """What is loaded by now is no garbage: collections need not walk through it."""
    gc.collect()
    gc.freeze()


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
    from common.mx_compat import mx
    from network import checkpoint

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


class Forked:
    """One of the project's scripts in the background; like subprocess.Popen, but forked.

    The process that forks (forker.py) has loaded MXNet and OpenCV. `limits` are triples for
    resource.setrlimit. The script's standard output is `out`; `err` holds its standard error, or
    is empty where `merged` puts both into `out`.
    """

    forker = None  # the process that forks, once it is needed

    def __init__(self, path, *args, cwd=None, limits=(), merged=False):
        if Forked.forker is None:
            Forked.forker = subprocess.Popen([sys.executable, str(Path(__file__).with_name(
                "forker.py"))], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._folder = tempfile.TemporaryDirectory()  # which vanishes with this object
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        self._out.touch()
        self._err.touch()
        self.returncode = None
        self.pid = self._answer({
            "path": str(path), "args": [str(arg) for arg in args], "cwd": str(cwd or os.getcwd()),
            "out": str(self._out), "err": str(self._out if merged else self._err),
            "limits": limits})

    def _answer(self, request):
        print(json.dumps(request), file=self.forker.stdin, flush=True)
        return json.loads(self.forker.stdout.readline())

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()

    def wait(self, timeout=None):
        if self.returncode is None:
            self.returncode = self._answer([self.pid, timeout])
        if self.returncode is None:
            raise subprocess.TimeoutExpired("forked", timeout)
        return self.returncode

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def script(path, *args, status=0, cwd=None, limits=(), **options):
    """Run one of the project's scripts; its standard output and error as one text.

    `options` are those of subprocess.run; with any the script gets a Python of its own.
    """
    if options:
        done = subprocess.run([sys.executable, str(ROOT / path), *map(str, args)], text=True,
                              cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, **options.pop("env", {})}, **options)
        text, ended = done.stdout, done.returncode
    else:
        done = Forked(path, *args, cwd=cwd, limits=limits, merged=True)
        ended, text = done.wait(), done.out
    assert ended == status, text
    return text


def train_all(runs, seconds=60, limits=()):
    """Several runs of train_multilabel.py in one process: the status and the output of each.

    Fewer come back where the process died, as it does when a run takes more than `seconds`.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "runs").write_text(json.dumps(runs))
        results = Path(folder) / "results"
        results.touch()
        Forked("tests/train_all.py", folder, seconds, limits=limits).wait()
        return [json.loads(line) for line in results.read_text().splitlines()]


def predictions(classifier, lst, folder):
    """Labels and probabilities by a Classifier of all images of a .lst: both (images, classes)."""
    from common.mx_compat import mx

    with classifier.open(read_lst(str(lst), len(classifier.class_names)), str(folder)) as batches:
        return tuple(np.concatenate(part) for part in zip(*(
            (batch.label[0].asnumpy()[:len(prob)], prob)
            for batch, prob, _ in classifier.predict(batches, [mx.cpu()]))))


def training_flags(network, demo, result, **flags):
    """Arguments of train_multilabel.py for a quick run; flags by name, None takes one out."""
    flags = {"model": network, "data_train": demo / "train.lst", "image_train": demo / "images",
             "data_val": demo / "val.lst", "image_val": demo / "images",
             "labels": demo / "labels.txt", "image_shape": "3,32,32", "batch_size": 16,
             "num_epoch": 2, "lr": 0.05, "save_result": result, "save_name": "tiny", **flags}
    return [part for name, value in flags.items() if value is not None
            for part in ((f"--{name.replace('_', '-')}",) if value is True
                         else (f"--{name.replace('_', '-')}", str(value)))]
