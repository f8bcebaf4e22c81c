"""MXNet 1.9.1, its last release, on today's machines.

crossentropy_op.py makes it import under the numpy and Python releases that came later. MXNet
computes on half of the processors, taking the other half for hyperthreads; where they are cores of
their own that nearly halves the speed, so the number of cores is set before it is imported. Its
threads wait for each other without sleeping, which keeps the threads that decode images from their
cores; here they soon give way (benchmarks/bench_predict.py shows what that brings).
"""
import contextlib
import mmap
import os
import sys
import threading
import time
from types import SimpleNamespace

from common.cli import MAY_PASS, InputError, parse_numbers
from common.machine import physical_cores

os.environ.setdefault("OMP_NUM_THREADS", str(physical_cores()))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # turns of waiting before a thread sleeps
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # a line on standard error for each network

REMEDIES = {
    ModuleNotFoundError: "sh run_train.sh installs the packages into .venv; by hand: pip install "
                         "-r requirements.txt, then pip install --no-deps mxnet==1.9.1",
    OSError: "Debian, Ubuntu: apt-get install libgomp1 libquadmath0; Fedora: dnf install libgomp "
             "libquadmath; openSUSE: zypper install libgomp1 libquadmath0; without root sh "
             "run_train.sh sets up an environment that needs neither",
    RuntimeError: "where bind failed, another process may have taken the port"}
# What a small training takes beyond what Python has, with THREADS_PER_CORE in addition.
THREADS, THREADS_PER_CORE, ADDRESS_SPACE = 9, 2, 2_400_000_000


def missing_resource():
    """Why MXNet would abort or hang for want of threads or address space, or None."""
    cores = os.environ["OMP_NUM_THREADS"]
    count = THREADS + THREADS_PER_CORE * (int(cores) if cores.isdigit() else 1)
    wake = threading.Event()
    try:
        mmap.mmap(-1, ADDRESS_SPACE, flags=mmap.MAP_PRIVATE, prot=0).close()
        for _ in range(count):
            threading.Thread(target=wake.wait, daemon=True).start()
    except OSError:
        return f"{ADDRESS_SPACE / 1e9:.1f} GB of address space are not left (ulimit -v)"
    except RuntimeError:
        return f"{count} threads cannot be started (ulimit -u, or the container's process limit)"
    finally:
        wake.set()
    return None


def error_line(error):
    """What an MXNetError says, without its stack."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Traceback", "  File"))]
    return next((line for line in told if "Error" in line), told[0] if told else str(error))


if missing := missing_resource():
    print(f"error: MXNet cannot be loaded: {missing}", file=sys.stderr)
    raise SystemExit(MAY_PASS)
try:
    from crossentropy_op import mx
except (ModuleNotFoundError, OSError, RuntimeError) as error:
    # No command is running yet that could tell it. A scheduler runs while MXNet is imported.
    remedy = next(text for kind, text in REMEDIES.items() if isinstance(error, kind))
    print(f"error: MXNet cannot be loaded: {error_line(error)} ({remedy})", file=sys.stderr)
    raise SystemExit(MAY_PASS if isinstance(error, RuntimeError) else 2) from None
# That of Speedometer, whose speeds a clock that is set in mid-run would make negative.
mx.callback.time = SimpleNamespace(time=time.monotonic)


def choose_devices(gpus):
    """Contexts for --gpus."""
    count = mx.context.num_gpus()
    chosen = range(count) if gpus is None else parse_numbers("--gpus", gpus, int)
    for gpu in chosen:
        if not 0 <= gpu < count:
            sees = f"sees {count} of them" if count else "sees no GPU"
            raise InputError(f"{{flag}} {gpus}: MXNet {sees}; {{flag}} '' takes the CPU",
                             flag="--gpus")
    return [mx.gpu(gpu) for gpu in chosen] or [mx.cpu()]


@contextlib.contextmanager
def mxnet_errors(what, file=None):
    """Raise an InputError of `what` and MXNet's own words in place of any error of MXNet's."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        # MXNet chooses the class of an error by its text.
        raise InputError(f"{what}: {error_line(error)}", file=file) from None
