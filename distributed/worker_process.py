"""A worker's process: how it joins the others, and how it ends after an error."""
import contextlib
import os
import sys
import time
import traceback

from common.cli import MAY_PASS, InputError, run
from common.mx_compat import mx
from distributed.network_watch import time_to_connect
from distributed.rendezvous import LostWorker
from distributed.workers import Workers

# The worker that failed reports its error before those that only lost the connection to it.
SECONDS_BEFORE_REPORTING_LOSS = 1.0


@contextlib.contextmanager
def open_worker(kind):
    """The kvstore of this kind, and all Workers, until the block ends.

    After an error the process ends here, without Python's cleaning up, which would destroy the
    kvstore, and that waits until all other workers do the same, while they may be waiting for this
    one.
    """
    try:
        with time_to_connect():
            kv = create_kvstore(kind)
            workers = Workers(kv)
        with workers:
            yield kv, workers
    except BaseException as error:
        if os.environ.get("DMLC_ROLE") != "worker":
            raise
        os._exit(_report(error))


def create_kvstore(kind):
    """Create the kvstore for --kv-store, if it fits how this process was started."""
    is_worker = os.environ.get("DMLC_ROLE") == "worker"
    if "dist" not in kind and is_worker:
        raise InputError("trains in one process, but this is one of several: --kv-store dist_sync "
                         "joins them", flag=f"--kv-store {kind}")
    if not is_worker:
        raise InputError("is for several workers: start them with tools/launch.py",
                         flag=f"--kv-store {kind}")
    # The optimizer's state on a server cannot be read and saved. Servers of synchronous training
    # only sum, and each worker makes the same update.
    os.environ["MXNET_UPDATE_ON_KVSTORE"] = "1" if "async" in kind else "0"
    return mx.kvstore.create(kind)


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
        status = MAY_PASS
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status
