"""How MXNet is loaded: with which threads, under which numpy, and what is said where it fails."""
import math
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, script

from common.machine import cgroup_quota, physical_cores, processors
from common.mx_compat import mx

# Ends the process where MXNet is about to be loaded.
PROBE = """
import os, sys
def probe(event, args):
    if event == "import" and args[0] == "mxnet":
        print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
        os._exit(0)
sys.addaudithook(probe)
import """


@pytest.mark.parametrize("module", [
    "common.mx_compat", "train_multilabel", "predict_multilabel", "lst_iter", "multilabel_metric",
    "network.checkpoint", "evaluation.classifier", "import_pretrained", "export_onnx"])
def test_mxnet_is_loaded_with_a_thread_for_each_core(module):
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tools")])
    done = subprocess.run([sys.executable, "-c", PROBE + module], env=environment, text=True,
                          stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [str(physical_cores()), "1000"]


def test_a_number_of_threads_given_from_outside_stays():
    done = subprocess.run([sys.executable, "-c", PROBE + "common.mx_compat"], cwd=ROOT, check=True,
                          text=True, stdout=subprocess.PIPE,
                          env={**os.environ, "OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "7"})
    assert done.stdout.split() == ["3", "7"]


@pytest.mark.smoke
def test_numpy_stays_as_it_is_and_large_packages_that_mxnet_hardly_uses_are_not_loaded():
    removed = ["PZERO", "NaN", "in1d", "trapz", "alltrue"]
    program = f"""
import numpy as np
before = {{name: name in vars(np) for name in {removed}}}
from common.mx_compat import mx
assert before == {{name: name in vars(np) for name in {removed}}}
assert vars(np).get("bool") is not bool

import sys, warnings
warnings.simplefilter("ignore")
assert not {{"sklearn", "scipy.stats"}} & set(sys.modules)
assert mx.contrib.quantization.stats.entropy([1, 0]) == 0
assert "scipy.stats" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)


@pytest.mark.smoke
def test_what_mxnet_reads_of_numpy_only_later_works():
    import mxnet.gluon.contrib.estimator  # its defaults are np.Inf

    assert mxnet.gluon.contrib.estimator.EarlyStoppingHandler
    ones = mx.np.ones(3)
    assert float(mx.np.trapz(ones)) == 2
    assert mx.np.full((2,), True, dtype=None).shape == (2,)
    assert mx.nd.moveaxis(mx.nd.zeros((2, 3, 4)), 0, 2).shape == (3, 4, 2)
    assert mx.np.pad(mx.np.ones((2, 2)), ((1, 1), (1, 1)), mode="constant").shape == (4, 4)
    assert set(mx.test_utils.default_rtols()) >= {np.dtype(np.float32)}


@pytest.mark.smoke
@pytest.mark.parametrize("order", ["crossentropy_op, mxnet as mx", "mxnet as mx, crossentropy_op"])
def test_the_operator_works_alone_beside_another_script(order, tmp_path):
    if order.startswith("mxnet") and np.lib.NumpyVersion(np.__version__) >= "1.24.0":
        pytest.skip("plain MXNet does not import under this numpy")
    (tmp_path / "crossentropy_op.py").write_text((ROOT / "crossentropy_op.py").read_text())
    (tmp_path / "script.py").write_text(f"""
import {order}
net = mx.sym.Custom(mx.sym.Variable("data"), name="softmax", op_type="CrossEntropyLoss")
module = mx.mod.Module(net)
module.bind([("data", (2, 3))], [("softmax_label", (2, 3))], inputs_need_grad=True)
module.init_params()
module.forward_backward(mx.io.DataBatch([mx.nd.full((2, 3), 0.5)], [mx.nd.ones((2, 3))]))
print(module.get_input_grads()[0].asnumpy().ravel().tolist())
""")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, text=True, check=True,
                          capture_output=True)
    assert (done.stdout, done.stderr) == ("[-2.0, -2.0, -2.0, -2.0, -2.0, -2.0]\n", "")


@pytest.mark.parametrize("failure, told", [
    ("ModuleNotFoundError(\"No module named 'mxnet'\")", "sh run_train.sh installs the packages"),
    ("OSError('libgomp.so.1: cannot open shared object file')", "apt-get install libgomp1")])
def test_what_is_missing_is_told_in_one_line(failure, told):
    program = ("import sys\n"
               "class Missing:\n"
               "    def find_spec(self, name, *_):\n"
               f"        if name == 'mxnet': raise {failure}\n"
               "class Finders(list):\n"  # the hook of crossentropy_op.py goes to the front
               "    def insert(self, place, finder): pass\n"
               "sys.meta_path = Finders([Missing(), *sys.meta_path])\n"
               "import train_multilabel")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, check=False,
                          stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and told in done.stderr


@pytest.mark.parametrize("limit, told", [
    ("import resource; resource.setrlimit(resource.RLIMIT_AS, (1_600_000_000, ) * 2)",
     "2.4 GB of address space are not left (ulimit -v)"),
    ("import threading; threading.stack_size(1 << 46)",  # which no machine has
     "threads cannot be started (ulimit -u")])
def test_what_mxnet_would_abort_for_want_of_is_told_in_one_line(limit, told):
    done = subprocess.run([sys.executable, "-c", f"{limit}\nimport train_multilabel"], cwd=ROOT,
                          text=True, check=False, stderr=subprocess.PIPE)
    assert done.returncode == 75
    assert done.stderr.count("\n") == 1 and told in done.stderr


@pytest.mark.parametrize("files, quota", [
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
    ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
      "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
    ({"proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/1\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ({"proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n",
      "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "-1\n",
      "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000\n"}, math.inf),
    ({}, math.inf)])
def test_a_containers_quota_is_read(files, quota, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_quota(tmp_path) == quota


def test_there_is_no_more_than_one_core_per_processor():
    assert 1 <= physical_cores() <= processors() <= os.cpu_count()


def test_a_scheduler_whose_port_is_taken_says_so_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = script("train_multilabel.py", status=75, env={
            "DMLC_ROLE": "scheduler", "DMLC_PS_ROOT_URI": "127.0.0.1",
            "DMLC_PS_ROOT_PORT": str(server.getsockname()[1]), "DMLC_NUM_WORKER": "1",
            "DMLC_NUM_SERVER": "1", "DMLC_NODE_HOST": "127.0.0.1"})
    assert "another process may have taken the port" in text.splitlines()[-1]
    assert "Traceback" not in text
