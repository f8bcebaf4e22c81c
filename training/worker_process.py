"""How the process of a worker begins, and how it ends when something goes wrong.

    @leaving_on_failure
    def main(argv=None):
        kv = create_kvstore("dist_sync")
"""
import contextlib
import functools
import os
import sys
import time
import traceback

from common.cli import InputError, run
from common.mx_compat import mx
from training.workers import LostWorker

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async",
            "dist_device_async")
# The one who failed is to be seen failing before those who only notice it.
SECONDS_BEFORE_COMPLAINING = 1.0


def create_kvstore(kind):
    """The kvstore for --kv-store.

    Raises
    ------
    InputError
        When there is no such kind, or it does not fit how this process was started.
    """
    if kind not in KVSTORES:
        # MXNet would take it for local.
        raise InputError(f"--kv-store {kind}: there are {', '.join(KVSTORES)}")
    is_worker = os.environ.get("DMLC_ROLE") == "worker"
    if "dist" in kind and not is_worker:
        raise InputError(f"--kv-store {kind} is for several workers: start them with "
                         "tools/launch.py")
    if "dist" not in kind and is_worker:
        raise InputError(f"--kv-store {kind} trains in one process, but this is one of several: "
                         "--kv-store dist_sync joins them")
    if "dist" in kind:
        # What a server knows of the optimizer cannot be read back and saved. In step, servers
        # need only sum: each worker then makes the same update itself. MXNet reads this late.
        os.environ["MXNET_UPDATE_ON_KVSTORE"] = "1" if "async" in kind else "0"
    try:
        return mx.kvstore.create(kind)
    except mx.MXNetError as error:
        # Told at its end, behind where in MXNet it happened.
        raise InputError(f"--kv-store {kind}: {str(error).strip().splitlines()[-1]}") from None


def leaving_on_failure(main):
    """Make a process that fails end, where MXNet would have it wait for ever.

    A worker ends at once: Python would first take the kvstore apart, and that waits for all other
    workers to do the same, who may be waiting for this one. A single process first lets the
    network finish its batch: at exit MXNet stops the threads of custom operators, and then waits
    for what they had still to do.
    """
    @functools.wraps(main)
    def guarded(argv=None):
        try:
            return main(argv)
        except BaseException as error:
            if os.environ.get("DMLC_ROLE") != "worker":
                with contextlib.suppress(mx.MXNetError):
                    mx.nd.waitall()
                raise
            os._exit(_tell(error))
    return guarded


def _tell(error):
    """Say what `cli.run` would say of an error; the exit status."""
    def fail(argv):
        raise error

    status = 1
    if isinstance(error, LostWorker):
        time.sleep(SECONDS_BEFORE_COMPLAINING)
        print(error, file=sys.stderr)
    elif isinstance(error, (InputError, KeyboardInterrupt, BrokenPipeError)):
        try:
            run(fail)
        except SystemExit as end:
            status = end.code
    elif isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 1
    else:
        traceback.print_exception(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    return status
