"""Signals that let a run save before it ends: SIGTERM, Ctrl-C, and SIGHUP (a closed terminal)."""
import contextlib
import logging
import os
import signal

logger = logging.getLogger("train_multilabel")

# The first of them wins where several workers got different ones.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):
    """A signal ends the run, with this exit status."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class StopRequests:
    """The signals that the workers got; all of them stop at the same batch.

    From its construction on, a signal is noted, to let the batch end and be saved. A second SIGTERM
    or Ctrl-C ends the process at once. SIGHUP is not noted where it was ignored before (nohup).
    """

    def __init__(self, workers):
        self.workers = workers
        self.received = None  # by this process
        for number in SIGNALS:
            if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):
                signal.signal(number, self._note)

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        for either in (signal.SIGTERM, signal.SIGINT):
            signal.signal(either, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closing terminal sends several
        if self.workers.rank == 0:
            # Not by way of sys.stderr, which the signal may have found in the middle of a line.
            with contextlib.suppress(OSError):  # the terminal may be closed
                os.write(2, f"\n{self.received.name}: finishing this batch, then saving; once more "
                            "stops now, without saving\n".encode())

    def exchange(self, snapshot_due=False, loss=0.0):
        """The signal that a worker got, or None, rank 0's `snapshot_due`, and all losses' sum.

        All workers call this together.
        """
        received = [self.received == number for number in SIGNALS]
        snapshot_due, *received, loss = self.workers.sum(
            [snapshot_due and self.workers.rank == 0, *received, loss])
        number = next((number for number, count in zip(SIGNALS, received) if count), None)
        return number, snapshot_due, loss

    def stop(self, number, where):
        """Log by which signal and `where` the run stops, and raise Stopped."""
        logger.info("Stopped by %s%s", number.name, where)
        raise Stopped(128 + number)

    def stop_unsaved(self, where):
        """Stop if this process got a signal; nothing is saved, and `where` says why."""
        if self.received:
            self.stop(self.received, where)
