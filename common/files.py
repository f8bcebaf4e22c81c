"""Files that are whole at any moment, and reads that storage on a network may disturb."""
import contextlib
import errno
import logging
import os
import secrets
import stat
import time
import unicodedata

from common.cli import InputError

# What network file systems report while a server is busy or has just been replaced (an I/O error,
# a stale handle), and the waits before the second and the third try.
TRANSIENT = (errno.EIO, errno.ESTALE)
RETRY_SECONDS = (0.2, 2.0)
POINTER = b"version https://git-lfs"  # how a file begins that stands in for another

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_file(path):
    """Yields the name of a temporary file, flushed to disk and renamed to `path` at the end.

    Another process sees the earlier file or the new one, never a part. An OSError becomes an
    InputError, and `path` is then as it was.
    """
    folder, name = os.path.split(os.path.abspath(path))
    # The same ending, because some writers choose the format by it.
    temporary = os.path.join(folder, f".{secrets.token_hex(4)}~{name}")
    try:
        open(temporary, "xb").close()
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=path) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def remove_unfinished(folder, is_own):
    """Remove the temporary files of `atomic_file` that a killed process left behind.

    `is_own(name)` says whether a file called `name` is one that only this process writes. A
    warning names a leftover that cannot be removed; no later file needs its name.
    """
    for file in os.listdir(folder):
        if file.startswith(".") and is_own(file.partition("~")[2]):
            path = os.path.join(folder, file)
            try:
                os.unlink(path)
            except OSError as error:
                logger.warning("warning: %s: cannot be removed: %s", path, error.strerror)


def make_parent_folder(path):
    """Make the folder in which a file called `path` is to be written, or raise an InputError."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror.lower()}", file=folder) from None


def retry_transient_errors(read):
    """Return what `read()` returns, called up to three times while its OSError is in TRANSIENT."""
    for wait in RETRY_SECONDS:
        try:
            return read()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
        time.sleep(wait)
    return read()


def open_regular_file(path, mode="rb", **options):
    """`open` a file for reading; an OSError says where it is no regular file, or a POINTER."""
    file = open(path, mode, **options,  # noqa: SIM115
                opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file, but a pipe or a device")
        if os.pread(file.fileno(), len(POINTER), 0) == POINTER:
            raise OSError(errno.EINVAL, "is a pointer of Git LFS: `git lfs pull` fetches the file")
    except OSError:
        file.close()
        raise
    return file


def existing_path(path):
    """The path, or where there is no such file that of the one which was meant.

    What follows the folders that exist may have blanks around its parts, the other normal form of
    Unicode (as names from macOS), or backslashes where slashes belong.
    """
    path = folder = os.fspath(path)
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    rest = path[len(folder):]
    rests = [rest, rest.replace("\\", "/")]
    rests += ["/".join(part.strip() for part in rest.split("/")) for rest in rests]
    rests += [unicodedata.normalize(form, rest) for form in ("NFC", "NFD") for rest in rests]
    return next((folder + rest for rest in rests if os.path.lexists(folder + rest)), path)
