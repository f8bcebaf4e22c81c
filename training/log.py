"""The log of a run: on standard error, above a progress bar, and in train.log."""
import logging
import os
import sys

from tqdm import tqdm

from common.cli import InputError
from common.text import LineFormatter


class TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stderr)


def log_to(folder, rank=0):
    """Log to standard error and, appending, to train.log in the folder, in MXNet's format.

    Ranks above 0 only log warnings, and write no file.
    """
    handlers = [TqdmHandler()]
    try:
        os.makedirs(folder, exist_ok=True)
        if rank == 0:
            handlers.append(logging.FileHandler(os.path.join(folder, "train.log")))
    except OSError as error:
        raise InputError(f"--save-result: {folder}: {error.strerror}") from None
    for handler in handlers:
        handler.setFormatter(LineFormatter("%(asctime)s - %(message)s"))
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    logging.raiseExceptions = False  # a full disk is reported once, by what could not be saved
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, handlers=handlers,
                        force=True)
