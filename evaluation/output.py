"""Where a command writes its results: standard output, a pipe, or a file."""
import contextlib
import os
import sys

from common.cli import InputError, silence
from common.files import atomic_file


@contextlib.contextmanager
def open_output(path=None):
    """A text file in UTF-8, to be written in a `with` block; None: standard output.

    A file appears when the block has ended, or not at all; a pipe or a device is written directly.
    An InputError says why it cannot be written.
    """
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="")
        with input_error_if_unwritable("standard output"):
            yield sys.stdout
            sys.stdout.flush()
    # Not the resolved path: that of a pipe in /dev/fd leads to nothing.
    elif os.path.exists(path) and not os.path.isfile(path):
        with input_error_if_unwritable(path), _open(path) as file:
            yield file
    else:
        with atomic_file(os.path.realpath(path)) as name, _open(name) as file:
            yield file


@contextlib.contextmanager
def input_error_if_unwritable(path):
    """Turn an OSError in the `with` block into an InputError that names the path."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of the pipe has ended, which is no mistake
    except OSError as error:
        if path == "standard output":
            silence(sys.stdout)
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot be written: {reason}", file=path) from None


def _open(path):
    return open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")
