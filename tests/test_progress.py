"""Progress of work: lines without a terminal."""
import io
import itertools
import logging
import threading
import time

import tqdm

from common import progress
from common.progress import Progress
from training.log import TqdmHandler


def test_lines_tell_the_time_that_is_left(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 10)
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("Reading", 300, "images") as reading:
        for _ in range(30):
            clock[0] += 2
            reading.update(10, "loss 1.5")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "Reading: 50 of 300 images, 5.00 images/s, 00:50 left, loss 1.5"
    assert lines[1] == "Reading: 100 of 300 images, 5.00 images/s, 00:40 left, loss 1.5"
    assert len(lines) == 6


def test_a_bar_goes_on_where_the_clock_is_set_back(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    days = itertools.count()
    monkeypatch.setattr(tqdm.std, "time", lambda: -86400 * next(days))
    with Progress("Reading", 10, "images") as reading:
        for _ in range(4):
            time.sleep(0.15)  # a bar is drawn ten times a second at most
            reading.update(1)
    assert "4/10" in terminal.getvalue() and "-" not in terminal.getvalue().replace("-image", "")


class SlowFormatter(logging.Formatter):
    """Holds the lock of its handler for a while, for records of a thread."""

    def __init__(self):
        super().__init__()
        self.is_locked = threading.Event()

    def format(self, record):
        if record.threadName == "logs":
            self.is_locked.set()
            time.sleep(0.3)
        return super().format(record)


def test_a_thread_may_log_while_progress_does(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(progress.logger, "level", logging.INFO)
    handler, formatter = TqdmHandler(), SlowFormatter()
    handler.setFormatter(formatter)
    monkeypatch.setattr(progress.logger, "handlers", [handler])

    def update():
        with Progress("Reading", 10, "images") as reading:
            formatter.is_locked.wait()
            reading.update(1)

    threads = [threading.Thread(target=update, daemon=True),
               threading.Thread(target=progress.logger.warning, args=["a line"], name="logs",
                                daemon=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
