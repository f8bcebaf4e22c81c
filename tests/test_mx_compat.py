"""mx_compat.py: how MXNet is loaded, whichever module loads it first."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from common import mx_compat

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
    assert done.stdout.split() == [str(mx_compat.physical_cores()), "1000"]


def test_a_number_of_threads_given_from_outside_stays():
    done = subprocess.run([sys.executable, "-c", PROBE + "common.mx_compat"], cwd=ROOT, check=True,
                          text=True, stdout=subprocess.PIPE,
                          env={**os.environ, "OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "7"})
    assert done.stdout.split() == ["3", "7"]
