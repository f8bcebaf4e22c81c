"""The log of a run: what a person reads on standard error, and all of it in train.log."""
import logging
import os
import re
import stat
import sys

from tqdm import tqdm

from common.cli import InputError, silence
from common.text import LineFormatter

IN_FILE = {"in_file": True}  # `extra` of a record that is for train.log alone
# MXNet's lines, for its tools/parse_log.py, and those of its Speedometer among them.
MXNET_LINE = re.compile(r"(Epoch|Warm head)\[\d+\]( Batch \[)?")


class TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar, while somebody reads them."""

    def createLock(self):
        self.lock = tqdm.get_lock()  # one for both, as a bar that holds it may log, too

    def emit(self, record):
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except OSError:
            silence(sys.stderr)


def log_to(folder, rank=0, with_batches=False):
    """Log to standard error and, appending, to train.log in the folder, in MXNet's format.

    MXNet's own lines, which count epochs from 0, and records with IN_FILE go to the file
    alone; `with_batches` shows its Speedometer's. Ranks above 0 only log warnings, and
    write no file. What cannot be written ends no run.
    """
    def is_for_people(record):
        mxnets = record.levelno == logging.INFO and MXNET_LINE.match(record.getMessage())
        return not (mxnets and not (with_batches and mxnets[2]) or hasattr(record, "in_file"))

    screen = TqdmHandler()
    screen.addFilter(is_for_people)
    handlers = [screen]
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(error.strerror.lower(), file=folder, flag="--save-result") from None
    if rank == 0:
        handlers.append(logging.StreamHandler(_open_log(os.path.join(folder, "train.log"))))
    for handler in handlers:
        handler.setFormatter(LineFormatter("%(asctime)s - %(message)s"))
    screen.setFormatter(LineFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    logging.raiseExceptions = False  # a full disk is reported once, by what could not be saved
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, handlers=handlers,
                        force=True)


def _open_log(path):
    """The log as a text file to append to.

    Not through a link, by which a stranger's folder could name any file, nor a pipe.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
                         | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise InputError("cannot be written: not a regular file", file=path)
    return open(handle, "a", encoding="utf-8")
