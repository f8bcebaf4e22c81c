"""Command lines: parsing flags, logging, and how a command ends.

A user's mistake is an InputError, which ends in one line and exit status 2. Where a fault of the
machine that may pass led to it, such as an I/O error, the status is 75. Any other exception is a
defect of the project and keeps its traceback.
"""
import argparse
import contextlib
import difflib
import errno
import gc
import logging
import os
import re
import sys
import threading

from common.text import MAX_LINE, LineFormatter, printable
from common.version import VERSION

SYNONYMS = {"--epochs": "--num-epoch", "--learning-rate": "--lr"}  # of other training scripts
MAY_PASS = 75  # exit status: the same command may succeed later (sysexits.h: EX_TEMPFAIL)
# What disks, network storage and exhausted machines report. Not a full disk, which stays full.
PASSING_ERRORS = {
    errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EBUSY,
    errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ECONNRESET, errno.ENOTCONN}
# How MXNet, the loader of libraries and Python say that memory or address space is exhausted.
NO_MEMORY = ("Failed to allocate", "failed to map segment", "can't start new thread")


class InputError(ValueError):
    """A user's mistake: what is wrong, where, and what to do, in one line.

    `flag` is the flag (`--num-classes`) or parameter (`num_classes`) that is wrong or says
    otherwise. It stands where `what` holds `{flag}`, or before it; the file and its line, from 1,
    stand in front. All are attributes, too.

    >>> str(InputError("57 labels, but {flag} is 58", file="train.lst", line=17,
    ...                flag="--num-classes"))
    'train.lst:17: 57 labels, but --num-classes is 58'
    """

    def __init__(self, what, *, file=None, line=None, flag=None):
        self.what, self.file, self.line, self.flag = what, file, line, flag
        parts = [what.replace("{flag}", flag or "{flag}")]
        if flag and "{flag}" not in what:
            parts.insert(0, flag)
        if file is not None:
            parts.insert(0, f"{file}:{line}" if line is not None else str(file))
        super().__init__(": ".join(parts))

    def at(self, **where):
        """The same error with the file, line or flag that this command's user knows it by."""
        return InputError(self.what, **{"file": self.file, "line": self.line, "flag": self.flag,
                                        **where})


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action):
        if action.default in (None, "", []) or action.default is False:
            return action.help
        return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse.ArgumentParser with --version, HelpFormatter, and errors of one line."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"formatter_class": HelpFormatter, **options})
        if self.add_help:
            self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}",
                              help="show the version and exit")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse; the InputError for an unknown flag says which one it may mean."""
        self._given = sys.argv[1:] if args is None else args
        namespace, unknown = super().parse_known_args(args, namespace)
        self._refuse_unknown(unknown)
        return namespace, unknown

    def _refuse_unknown(self, texts):
        known = list(self._option_string_actions)
        for flag in (text.partition("=")[0] for text in texts if text.startswith("--")):
            longer = [name for name in known if name.startswith(flag)]
            if not longer or not self.allow_abbrev and flag not in longer:
                near = ([SYNONYMS[flag]] if SYNONYMS.get(flag) in known
                        else longer or difflib.get_close_matches(flag, known, 1))
                raise InputError("no such flag; " + (f"did you mean {near[0]}?" if near
                                                     else "--help shows all"), flag=flag)

    def error(self, message):
        """Raise an InputError; argparse itself would print all flags."""
        if "required" in message:  # a misspelt flag may be the one that is missing
            self._refuse_unknown(self._given)
        flag, what = re.fullmatch(r"(?:argument (?:\S*/)?(\S+): )?(.*)", message, re.S).groups()
        raise InputError(f"{what} (--help shows all flags)", flag=flag)


class CheckpointPrefix(argparse.Action):
    """--model PREFIX, also as PREFIX-symbol.json or PREFIX-NNNN.params, which sets --epoch."""

    def __call__(self, parser, namespace, values, option_string=None):
        prefix, epoch = re.fullmatch(r"(.*?)(?:-symbol\.json|-(\d{4,})\.params)?", values).groups()
        setattr(namespace, self.dest, prefix)
        if epoch:
            namespace.epoch = int(epoch)


def require(is_allowed, flag, allowed, value):
    """Raise an InputError that says which values of `flag` are allowed, unless this one is."""
    if not is_allowed:
        raise InputError(f"{{flag}} is {allowed}, not {value}", flag=flag)


def at_least(least, bits=None, kind=int):
    """A type for argparse: a number of `least` or more, below 2**bits if given."""
    def number(text):
        value = kind(text)
        if not value >= least:  # nor NaN
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {text}")
        if bits is not None and value >= 1 << bits:
            raise argparse.ArgumentTypeError(f"must be below 2**{bits}, not {text}")
        return value

    number.__name__ = kind.__name__  # what argparse calls it when the text is no number
    return number


def parse_numbers(flag, text, kind, count=None):
    """Parse the value of a flag such as 0,1 into a list of `count` numbers; None stays None."""
    if text is None:
        return None
    try:
        values = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"expected comma-separated numbers, got {text!r}", flag=flag) from None
    if count not in (None, len(values)):
        raise InputError(f"expected {count} numbers, got {len(values)}", flag=flag)
    return values


def parse_image_shape(text):
    """Parse --image-shape 3,HEIGHT,WIDTH into a list of integers; None stays None."""
    shape = parse_numbers("--image-shape", text, int, 3)
    if shape and (shape[0] != 3 or min(shape) < 1):
        raise InputError("{flag} must be 3,HEIGHT,WIDTH (3 for red, green and blue)",
                         flag="--image-shape")
    return shape


def log_to_stderr(level):
    """Log messages of this level and above to standard error, a printable line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def is_out_of_memory(error):
    """Whether an exception says that there is too little memory."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY)


def exit_status(error):
    """75 after an InputError that a passing fault of the machine led to, 2 after any other."""
    while error:
        if is_out_of_memory(error) or (
                isinstance(error, OSError) and error.errno in PASSING_ERRORS):
            return MAY_PASS
        error = error.__cause__ or error.__context__
    return 2


def run(main, argv=None):
    """Call `main(argv)` and end the process with the exit status that a shell expects.

    It is what `main` returned (None: 0), that of `exit_status` after an InputError or where memory
    is exhausted, which takes one line on standard error, 130 after Ctrl-C, and 141 when the reader
    of standard output has ended. Standard streams that are closed, as cron and daemons do it, are
    /dev/null.
    """
    _open_closed_streams()
    try:
        status = main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        silence(sys.stdout)
        status = 141
    except Exception as error:
        what = "" if isinstance(error, InputError) else "out of memory: "
        if what and not is_out_of_memory(error):
            raise
        line = printable(what + " ".join(str(error).split()), MAX_LINE)
        with contextlib.suppress(OSError):
            print(f"{os.path.basename(sys.argv[0])}: error: {line}", file=sys.stderr)
        status = exit_status(error)
    gc.collect()  # ends the threads of iterators without references
    if any(thread.name.startswith("LstIter-") for thread in threading.enumerate()):
        # A thread that returns to an interpreter that has ended would abort the process, and
        # waiting for a large image would delay the end after Ctrl-C.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status or 0)
    sys.exit(status)


def silence(stream):
    """Let a stream write to /dev/null: Python would write its buffer once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed_streams():
    """Give a process without a standard stream /dev/null, before another file takes its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "w" if number else "r")  # noqa: SIM115  until the end
            setattr(sys, name, stream)
            try:
                os.fstat(number)
            except OSError:
                os.dup2(stream.fileno(), number)
