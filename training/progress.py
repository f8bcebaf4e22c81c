"""What a person sees of a run: the log, the progress bar, and how long an epoch took."""
import logging
import os
import sys
import time

from tqdm import tqdm

from common.cli import InputError
from common.text import LineFormatter


class Progress:
    """The progress bar and the clock of the epochs.

    `seconds` is the time that the first epoch took before the run was resumed.
    """

    def __init__(self, num_batches, seconds=0.0):
        self.num_batches = num_batches
        self.training_seconds = seconds
        self._bar = None
        self._started = time.monotonic() - seconds

    def seconds(self):
        """Time spent on the epoch so far."""
        return time.monotonic() - self._started

    def show_batch(self, epoch, batch):
        """Move the bar: `batch` batches of the epoch are done."""
        if self._bar is None:
            self._bar = tqdm(total=self.num_batches, desc=f"Epoch[{epoch}]", unit="batch",
                             leave=False, disable=None, initial=batch - 1)
        self._bar.update(batch - self._bar.n)
        if batch == self.num_batches:
            self._bar.close()
            self._bar = None

    def end_training(self):
        """Note how long the epoch's training took; its validation follows."""
        self.training_seconds = self.seconds()

    def start_epoch(self):
        """Start the clock of the next epoch."""
        self._started = time.monotonic()


class TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar."""

    def emit(self, record):
        """Write one line to standard error."""
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
    logging.raiseExceptions = False  # a full disk is reported once, by what could not be saved
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, handlers=handlers,
                        force=True)
