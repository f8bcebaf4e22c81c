"""Progress of work that takes a while: a bar on a terminal, and otherwise lines in the log."""
import logging
import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10

logger = logging.getLogger(__name__)


class Progress:
    """A bar with speed and time left; without a terminal a log line at least every 10 s of work.

        with Progress("Reading", 480, "images") as progress:
            progress.update(32)

    `start` of the `total` were done before.
    """

    def __init__(self, what, total, unit, start=0):
        self.what, self.unit = what, unit
        self.bar = tqdm(total=total, desc=what, unit=" " + unit, initial=start, leave=False,
                        disable=not sys.stderr.isatty())
        self.total, self.done, self.start = total, start, start
        self.began = self.told = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, count, note=""):
        """So many more are done; `note` stands beside the speed."""
        self.done += count
        if not self.bar.disable:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
            return
        now = time.monotonic()
        if now - self.told >= SECONDS_BETWEEN_LINES and self.done < self.total:
            self.told = now
            speed = (self.done - self.start) / (now - self.began)
            logger.info("%s: %d of %d %s, %.3g/s, %.0f s left%s", self.what, self.done,
                        self.total, self.unit, speed, (self.total - self.done) / speed,
                        note and f", {note}")

    def close(self):
        """Take the bar away."""
        self.bar.close()
