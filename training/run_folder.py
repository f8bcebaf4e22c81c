"""The files of one run, by folder and name: its lock, and what earlier runs of the name left.

    with locked("result/demo"):
        earlier = move_aside("result/demo")
"""
import contextlib
import fcntl
import logging
import os
import socket
import time

from common.cli import InputError
from common.files import remove_unfinished
from evaluation.history import history_files
from network.checkpoint import is_checkpoint_file

logger = logging.getLogger("train_multilabel")


def snapshot_files(prefix):
    """The newest snapshot's name, and that of the one before."""
    return f"{prefix}-resume.npz", f"{prefix}-resume-previous.npz"


def is_run_file(file, name):
    """Whether `file` is one that a run called `name` writes, its lock and train.log left out."""
    return (file in {*snapshot_files(name), *history_files(name)}
            or is_checkpoint_file(file, name) or is_checkpoint_file(file, f"{name}-best"))


@contextlib.contextmanager
def locked(prefix):
    """Keep other runs from the folder and the name, and clear away what a killed one was writing.

    The operating system releases the lock when the process ends, however that happens. On a
    network folder it holds between machines where the file system passes locks on. An InputError
    says that another process has it.
    """
    folder, name = os.path.split(prefix)
    path = os.path.join(folder, f".{name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(open(path, "a+", encoding="utf-8"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise InputError(f"{prefix}: another run ({_owner(path)}) writes there; wait for "
                                 "its end, or choose another --save-name") from None
            except OSError as error:
                logger.warning("warning: %s: no lock against a second run: %s", path,
                               error.strerror)
                break
            # The run before may have removed the file between the two calls.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {socket.gethostname()}")
                    file.flush()
                    break
        remove_unfinished(folder or ".", lambda file: is_run_file(file, name))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _owner(path):
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return ascii(file.read(100))[1:-1] or "a starting process"
    return "of another user"


def move_aside(prefix):
    """Move the files of earlier runs of that name into a folder beside them.

    Returns the folder, dated by the newest of them; None where there are no files.
    """
    folder, name = os.path.split(prefix)
    files = [file for file in os.listdir(folder or ".") if is_run_file(file, name)]
    if not files:
        return None
    ended = max(os.path.getmtime(os.path.join(folder, file)) for file in files)
    target = f"{prefix}-until-{time.strftime('%Y-%m-%d-%H%M%S', time.localtime(ended))}"
    try:
        while os.path.exists(target):
            target += "+"
        os.mkdir(target)
        for file in files:
            os.replace(os.path.join(folder, file), os.path.join(target, file))
    except OSError as error:
        raise InputError(f"{target}: the earlier run cannot be moved there: "
                         f"{error.strerror}") from None
    return target
