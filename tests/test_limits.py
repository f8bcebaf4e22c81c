"""Memory and disk are looked at before a run begins."""
import math
from collections import namedtuple

import numpy as np
import pytest

from common.cli import InputError
from common.machine import available_memory
from common.mx_compat import mx
from training.compute import check_disk, check_memory
from training.settings import choose_batch_size

GB = 1 << 30


@pytest.mark.parametrize("rows, workers, size", [(296, 1, 296), (5001, 1, 5000), (5000, 1, 5000),
                                                 (1, 1, 1), (301, 2, 151)])
def test_a_batch_has_at_most_as_many_images_as_there_are(rows, workers, size):
    chosen, notes = choose_batch_size(5000, rows, workers)
    assert chosen == size
    assert bool(notes) == (size != 5000)


@pytest.mark.parametrize("files, left", [
    ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  2048 kB\nHugePages_Free: 3\n"}, 2 << 20),
    ({"proc/meminfo": "MemAvailable: 4096 kB\n", "proc/self/cgroup": "0::/a/b\n",
      "sys/fs/cgroup/a/memory.max": "3000\n", "sys/fs/cgroup/a/memory.current": "2500\n",
      "sys/fs/cgroup/a/memory.stat": "anon 9\ninactive_file 100\nactive_file 20\n",
      "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "1\n"}, 620),
    ({"proc/self/cgroup": "5:memory:/docker/1\n4:cpu:/x\n",
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
      "sys/fs/cgroup/memory/memory.usage_in_bytes": "4000\n",
      "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 30\n"}, 1030),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "10",
      "sys/fs/cgroup/memory.current": "20"}, 0),
    ({}, math.inf)])
def test_free_memory_is_the_machines_or_the_containers(files, left, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == left


def network():
    """Two convolutions and a BatchNorm, with outputs of 4 x 32 x 32, and a classifier."""
    layer = mx.sym.Variable("data")
    for name in ("first", "second"):
        layer = mx.sym.Convolution(layer, num_filter=4, kernel=(3, 3), pad=(1, 1), name=name)
        if name == "first":
            layer = mx.sym.BatchNorm(layer, name="norm")
    layer = mx.sym.FullyConnected(mx.sym.Flatten(layer), num_hidden=2, name="fc")
    return mx.sym.SoftmaxOutput(layer, mx.sym.Variable("softmax_label"), name="softmax")


def test_a_batch_that_takes_more_memory_than_is_free_is_refused():
    with pytest.raises(InputError) as caught:
        check_memory(network(), 100_000, (3, 32, 32), [], available=GB)
    assert caught.value.flag == "--batch-size"
    most = int(caught.value.what.split(": ")[-1].split()[0])
    check_memory(network(), most, (3, 32, 32), [], available=GB)
    with pytest.raises(InputError):
        check_memory(network(), most + 1, (3, 32, 32), [], available=GB)


def test_layers_before_the_first_trained_one_take_no_memory():
    frozen = ["first_weight", "first_bias", "norm_gamma", "norm_beta", "second_weight",
              "second_bias"]
    taken = [next(n for n in range(1, 1 << 20, 64) if not fits(n, names))
             for names in ([], frozen[:4], frozen[4:], frozen)]
    assert taken[0] == taken[2] < taken[1] < taken[3]


def fits(batch_size, frozen):
    try:
        check_memory(network(), batch_size, (3, 32, 32), frozen, available=1 << 28)
    except InputError:
        return False
    return True


def test_the_machine_has_memory_for_a_small_batch():
    check_memory(network(), 4, (3, 32, 32), [])


def test_a_disk_without_room_for_an_epoch_is_an_error_before_it(tmp_path, monkeypatch):
    parameters = {"weight": np.zeros((1000, 250), np.float32), "half": np.zeros(9, np.float16)}
    usage = namedtuple("usage", "total free")
    free = {"total": 10 * GB, "free": 10 * GB}
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(**free))
    folder = tmp_path / "not yet" / "result"
    check_disk(folder, parameters)
    free["free"] = 2_900_000
    with pytest.raises(InputError) as caught:
        check_disk(folder, parameters)
    assert (caught.value.file, caught.value.flag) == (str(tmp_path), "--save-result")
    free.update(total=0, free=0)  # a file system that does not say
    check_disk(folder, parameters)


def test_the_real_disk_is_asked(tmp_path):
    huge = namedtuple("huge", "shape dtype")((1 << 20, 1 << 20, 1 << 20), np.float32)
    with pytest.raises(InputError):
        check_disk(tmp_path, {"weight": huge})
    check_disk(tmp_path, {"weight": np.zeros(2)})
