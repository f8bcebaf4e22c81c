"""How a worker's process creates its kvstore, and how it ends after an error."""
import contextlib
import functools
import os
import sys
import time
import traceback

from common.cli import InputError, run
from common.mx_compat import mx
from training.rendezvous import LostWorker

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async",
            "dist_device_async")
# The worker that failed reports its error before those that only lost the connection to it.
SECONDS_BEFORE_REPORTING_LOSS = 1.0


def create_kvstore(kind):
    """Create the kvstore for --kv-store, if it fits how this process was started."""
    if kind not in KVSTORES:
        # MXNet would create a local one.
        raise InputError(f"--kv-store {kind}: there are {', '.join(KVSTORES)}")
    is_worker = os.environ.get("DMLC_ROLE") == "worker"
    if "dist" not in kind and is_worker:
        raise InputError(f"--kv-store {kind} trains in one process, but this is one of several: "
                         "--kv-store dist_sync joins them")
    if "dist" in kind:
        if not is_worker:
            raise InputError(f"--kv-store {kind} is for several workers: start them with "
                             "tools/launch.py")
        # The optimizer's state on a server cannot be read and saved. Servers of synchronous
        # training only sum, and each worker makes the same update.
        os.environ["MXNET_UPDATE_ON_KVSTORE"] = "1" if "async" in kind else "0"
    try:
        return mx.kvstore.create(kind)
    except mx.MXNetError as error:
        # The reason is the last line, after the place in MXNet's code.
        raise InputError(f"--kv-store {kind}: {str(error).strip().splitlines()[-1]}") from None


def exit_worker_on_error(main):
    """Decorate `main` so that its process ends after an error, where MXNet would wait for ever.

    A worker ends without Python's cleaning up, which would destroy the kvstore, and that waits
    until all other workers do the same, while they may be waiting for this one. A single process
    lets the network finish its batch before it cleans up: at exit MXNet stops the threads of
    custom operators, and then waits for their results.
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
            os._exit(_report(error))
    return guarded


def _report(error):
    """Print an error as `cli.run` would, and return the exit status."""
    def fail(argv):
        raise error

    status = 1
    try:
        run(fail)
    except LostWorker:
        time.sleep(SECONDS_BEFORE_REPORTING_LOSS)
        print(error, file=sys.stderr)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status
