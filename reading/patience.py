"""Asking again where shared storage failed for a moment."""
import errno
import time

# What network file systems say when a server is busy or has just been replaced (an I/O error, a
# stale handle), and the waits before the second and the third try.
TRANSIENT = (errno.EIO, errno.ESTALE)
RETRY_SECONDS = (0.2, 2.0)


def patiently(read):
    """What `read()` returns, asked for three times where it raises a passing OSError."""
    waits = iter(RETRY_SECONDS)
    while True:
        try:
            return read()
        except OSError as error:
            wait = next(waits, None) if error.errno in TRANSIENT else None
            if wait is None:
                raise
        time.sleep(wait)
