"""Progress of work that takes a while: a bar on a terminal, and otherwise lines in the log."""
import io
import logging
import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5
LINE = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"

logger = logging.getLogger(__name__)


class LogLines(io.StringIO):
    """What tqdm writes without a terminal goes to the log."""

    def write(self, text):
        if text.strip():
            logger.info("%s", " ".join(text.split()))


class Progress(tqdm):
    """A bar with speed and time left; without a terminal lines in the log every 5 s of work.

    `start` of the `total` were done before.
    """

    # A clock that nobody sets: set back, the bar would stand still and count down.
    _time = property(lambda self: time.monotonic, lambda self, clock: None)

    def __init__(self, what, total, unit, start=0):
        seconds = SECONDS_BETWEEN_LINES
        lines = {"file": LogLines(), "bar_format": LINE, "mininterval": seconds, "delay": seconds}
        super().__init__(desc=what, total=total, unit=" " + unit, initial=start, leave=False,
                         miniters=1, **({} if sys.stderr.isatty() else lines))

    def update(self, count, note=""):
        """So many more are done; `note` stands beside the speed."""
        self.set_postfix_str(note, refresh=False)
        super().update(count)
