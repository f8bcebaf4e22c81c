"""The files of one run, by folder and name: its lock, and what earlier runs of the name left."""
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

    The lock ends with the process. On a network folder it holds where the file system passes
    locks on.
    """
    folder, name = os.path.split(prefix)
    path = os.path.join(folder, f".{name}.lock")
    handle = _lock(path)
    try:
        remove_unfinished(folder or ".", lambda file: is_run_file(file, name))
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(handle)


def _lock(path):
    """Descriptor of the locked file, which says who has the lock."""
    while True:
        try:
            # Not through a link, by which a stranger's folder could name any file.
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = ascii(os.read(handle, 100).decode(errors="replace"))[1:-1]
            os.close(handle)
            raise InputError(f"{path}: another run ({owner or 'just starting'}) "
                             "writes there; wait for its end, or choose another --save-name"
                             ) from None
        except OSError as error:
            logger.warning("warning: %s: no lock against a second run: %s", path, error.strerror)
            return handle
        # The run before may have removed the file since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                with contextlib.suppress(OSError):  # a full disk
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
        os.close(handle)


def move_aside(prefix):
    """Move files of earlier runs into a folder dated by the newest: its name, or None for none."""
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
