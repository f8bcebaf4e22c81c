"""SIGTERM and Ctrl-C, which let a run save before it ends."""
import logging
import os
import signal

logger = logging.getLogger("train_multilabel")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The run ends before its last epoch, with this exit status."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class StopRequests:
    """The signals that the workers got; all of them stop at the same batch.

    From its construction on, SIGTERM and Ctrl-C are noted, to let the batch end and be saved. A
    second signal of either kind ends the process at once.
    """

    def __init__(self, workers):
        self.workers = workers
        self.received = None  # by this process
        self.agreed = None  # what all workers know of since `agree`
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        for either in SIGNALS:
            signal.signal(either, signal.SIG_DFL)
        if self.workers.rank == 0:
            # Not by way of sys.stderr, which the signal may have found in the middle of a line.
            os.write(2, f"\n{self.received.name}: finishing this batch, then saving; once more "
                        "stops now, without saving\n".encode())

    def agree(self, due=False, loss=0.0):
        """Exchange the workers' signals; returns rank 0's `due`, and the sum of all `loss`."""
        received = [self.received == number for number in SIGNALS]
        due, terminate, interrupt, loss = self.workers.sum(
            [due and self.workers.rank == 0, *received, loss])
        if terminate or interrupt:
            self.agreed = signal.SIGTERM if terminate else signal.SIGINT
        return due, loss

    def stop_saved_run(self, record):
        """Raise Stopped if all workers know of a signal; the run is saved at its record."""
        if self.agreed:
            logger.info("Stopped by %s, and saved at %s: the same command with "
                        "--resume goes on there", self.agreed.name, record.position)
            raise Stopped(128 + self.agreed)

    def stop_unsaved_run(self, where):
        """Raise Stopped if this process got a signal; nothing is saved, and `where` says why."""
        if self.received:
            logger.info("Stopped by %s%s", self.received.name, where)
            raise Stopped(128 + self.received)
