"""The log of a run: what a person reads on standard error, and all of it in train.log."""
import logging
import os
import re
import sys

from tqdm import tqdm

from common.cli import InputError
from common.text import LineFormatter

IN_FILE = {"in_file": True}  # `extra` of a record that is for train.log alone
# MXNet's lines, for its tools/parse_log.py, and those of its Speedometer among them.
MXNETS = re.compile(r"(Epoch|Warm head)\[\d+\]( Batch \[)?")


class TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stderr)


def log_to(folder, rank=0, with_batches=False):
    """Log to standard error and, appending, to train.log in the folder, in MXNet's format.

    MXNet's own lines, which count epochs from 0, and records with IN_FILE go to the file
    alone; `with_batches` shows its Speedometer's. Ranks above 0 only log warnings, and
    write no file.
    """
    def is_for_people(record):
        mxnets = record.levelno == logging.INFO and MXNETS.match(record.getMessage())
        return not (mxnets and not (with_batches and mxnets[2]) or hasattr(record, "in_file"))

    screen = TqdmHandler()
    screen.addFilter(is_for_people)
    handlers = [screen]
    try:
        os.makedirs(folder, exist_ok=True)
        if rank == 0:
            handlers.append(logging.FileHandler(os.path.join(folder, "train.log")))
    except OSError as error:
        raise InputError(f"--save-result: {folder}: {error.strerror}") from None
    for handler in handlers:
        handler.setFormatter(LineFormatter("%(asctime)s - %(message)s"))
    screen.setFormatter(LineFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    logging.raiseExceptions = False  # a full disk is reported once, by what could not be saved
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, handlers=handlers,
                        force=True)
