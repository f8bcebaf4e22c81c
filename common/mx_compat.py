"""MXNet 1.9.1, its last release, on today's machines.

    from common.mx_compat import mx

crossentropy_op.py makes it import under the numpy and Python releases that came later. MXNet
computes on half of the processors, taking the other half for hyperthreads; where they are cores of
their own that nearly halves the speed, so the number of cores is set before it is imported. Its
threads wait for each other without sleeping, which keeps the threads that decode images from their
cores; here they soon give way (benchmarks/bench_predict.py shows what that brings).
"""
import os
from pathlib import Path

from common.cli import InputError, parse_numbers


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

from crossentropy_op import mx  # noqa: E402  MXNet reads the variables when it is loaded


def choose_devices(gpus):
    """Contexts for --gpus."""
    if gpus is None:
        gpus = ",".join(str(i) for i in range(mx.context.num_gpus()))
    chosen = parse_numbers("--gpus", gpus, int)
    for gpu in chosen:
        if not 0 <= gpu < mx.context.num_gpus():
            raise InputError(f"--gpus: there is no GPU {gpu}: MXNet sees "
                             f"{mx.context.num_gpus()}; --gpus '' takes the CPU")
    return [mx.gpu(gpu) for gpu in chosen] or [mx.cpu()]
