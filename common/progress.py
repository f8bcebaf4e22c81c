"""Progress of work that takes a while: a bar on a terminal, and otherwise lines in the log."""
import contextlib
import logging
import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5
UPDATES_BEFORE_ESTIMATE = 4

logger = logging.getLogger(__name__)


class Progress(contextlib.AbstractContextManager):
    """A bar with speed and time left, for a `with` block; without a terminal lines in the log.

    One says after a few updates how long it will take, others follow every 5 s of work. `start` of
    the `total` were done before.
    """

    def __init__(self, what, total, unit, start=0):
        self.what, self.unit = what, unit
        self.bar = tqdm(total=total, desc=what, unit=" " + unit, initial=start, leave=False,
                        disable=not sys.stderr.isatty())
        self.total, self.done, self.start = total, start, start
        self.began = self.told = time.monotonic()
        self.updates = 0

    def update(self, count, note=""):
        """So many more are done; `note` stands beside the speed."""
        self.done += count
        if not self.bar.disable:
            with contextlib.suppress(OSError):  # the terminal may be closed
                self.bar.set_postfix_str(note, refresh=False)
                self.bar.update(count)
            return
        now = time.monotonic()
        self.updates += 1
        if self.updates == 1:  # which takes longer than others
            self.began, self.start = now, self.done
            return
        speed = max(self.done - self.start, 1e-9) / max(now - self.began, 1e-9)
        seconds_left = (self.total - self.done) / speed
        if self.updates == UPDATES_BEFORE_ESTIMATE and seconds_left > SECONDS_BETWEEN_LINES:
            logger.info("%s: %d %s, about %.0f s", self.what, self.total, self.unit, seconds_left)
        elif now - self.told >= SECONDS_BETWEEN_LINES and self.done < self.total:
            self.told = now
            logger.info("%s: %d of %d %s, %.3g/s, %.0f s left%s", self.what, self.done,
                        self.total, self.unit, speed, seconds_left,
                        note and f", {note}")

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Take the bar away."""
        with contextlib.suppress(OSError):
            self.bar.close()
