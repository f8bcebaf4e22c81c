"""Import MXNet 1.9.1, its last release, on the numpy and Python releases that came later.

    from mx_compat import mx

MXNet 1.9.1 reads `numpy.bool`, which numpy 1.24 removed; the old meaning was Python's bool. And it
computes on half of the processors, taking the other half for hyperthreads; where they are cores of
their own that nearly halves the speed, so the number of cores is set before it is imported. Its
threads wait for each other without sleeping, which keeps the threads that decode images from their
cores; here they soon give way (benchmarks/bench_predict.py shows what that brings).
"""
import os
from pathlib import Path

import numpy as np


def physical_cores():
    """Cores that this process may run on, hyperthreads not counted twice."""
    if not hasattr(os, "sched_getaffinity"):
        return max((os.cpu_count() or 1) // 2, 1)
    processors = os.sched_getaffinity(0)
    cores = set()
    for number in processors:
        topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        cores.add(topology.read_text() if topology.exists() else number)
    return len(cores)


os.environ.setdefault("OMP_NUM_THREADS", str(physical_cores()))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # turns of waiting before a thread sleeps
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # a line on standard error for each network
if "bool" not in np.__dict__:
    np.bool = bool

import mxnet as mx  # noqa: E402

__all__ = ["mx"]
