"""What every command here has in common: how it fails.

A person's mistake is an InputError, and ends in one line and exit status 2.
Anything else that is raised is a defect of ours, and keeps its traceback.
"""
import argparse
import contextlib
import gc
import logging
import os
import sys
import threading

from common.text import MAX_LINE, LineFormatter, printable
from common.version import VERSION


class InputError(ValueError):
    """One line: what is wrong, where (file and line), and what to do about it."""


class ArgumentParser(argparse.ArgumentParser):
    """An argparse.ArgumentParser with --version, whose errors take one line."""

    def __init__(self, *args, add_help=True, **options):
        super().__init__(*args, add_help=add_help, **options)
        if add_help:
            self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}",
                              help="show the version and exit")

    def error(self, message):
        """Raise an InputError, where argparse would print all flags."""
        raise InputError(f"{message} (--help shows all flags)")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that only mean that a flag is absent."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def parse_numbers(flag, text, kind, count=None):
    """The numbers of a flag such as 0,1; count: how many there must be."""
    try:
        values = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{flag}: numbers separated by commas wanted, not {text!r}") from None
    if count not in (None, len(values)):
        raise InputError(f"{flag}: {count} numbers wanted, not {len(values)}")
    return values


def log_to_stderr(level):
    """Log messages of this level and above to standard error, a printable line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def run(main, argv=None):
    """Call `main(argv)` and leave the process with the exit status that a shell expects.

    Parameters
    ----------
    main : callable
        Takes the list of arguments (None: sys.argv[1:]) and returns an exit status or None.

    Raises
    ------
    SystemExit
        0 or what `main` returned; 2 after an InputError, told in one line on
        standard error; 130 after Ctrl-C; 141 when the reader of standard output is gone.
        While threads still decode images, the process ends at once with that status instead.
    """
    try:
        status = main(argv)
        sys.stdout.flush()
    except InputError as error:
        line = printable(" ".join(str(error).split()), MAX_LINE)
        print(f"{os.path.basename(sys.argv[0])}: error: {line}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    if _readers():
        gc.collect()  # ends those of iterators that nothing refers to any more
    if _readers():
        # One still decodes a large image. Returning to an interpreter that has ended meanwhile
        # would abort the process, and waiting would keep a person who pressed Ctrl-C waiting.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status or 0)
    sys.exit(status)


def _readers():
    """Threads of `LstIter` that live."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("LstIter-")]
