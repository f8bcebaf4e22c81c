"""Files that are whole at any moment, and reads that storage on a network may disturb."""
import contextlib
import errno
import logging
import os
import stat
import tempfile
import time
import unicodedata

from common.cli import InputError

# What network file systems report while a server is busy or has just been replaced (an I/O error,
# a stale handle), and the waits before the second and the third try.
TRANSIENT = (errno.EIO, errno.ESTALE)
RETRY_SECONDS = (0.2, 2.0)
# How files begin that stand in for others which have not been fetched yet, and what to do then.
POINTERS = {
    b"version https://git-lfs": "is a pointer of git lfs, not the file itself: `git lfs pull` "
                                "fetches it",
    b"/annex/objects/": "is a pointer of git-annex, not the file itself: `git annex get` fetches "
                        "it"}

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_file(path):
    """Yields the name of a temporary file, flushed to disk and renamed to `path` at the end.

    Another process sees the earlier file or the new one, never a part. An OSError becomes an
    InputError, and `path` is then as it was.
    """
    path = os.path.abspath(path)
    temporary = None
    try:
        # The same ending, because some writers choose the format by it.
        handle, temporary = tempfile.mkstemp(
            dir=os.path.dirname(path), prefix=".", suffix="~" + os.path.basename(path))
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=path) from error
    finally:
        if temporary is not None:
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


def require_regular_file(path):
    """Raise an InputError where `open_regular_file` would not open `path`; it need not exist."""
    try:
        open_regular_file(path).close()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(error.strerror.lower(), file=path) from None


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
    """`open` a file for reading; an OSError says where it is no regular file, or in POINTERS."""
    nonblocking = getattr(os, "O_NONBLOCK", 0)
    file = open(path, mode, **options,  # noqa: SIM115
                opener=lambda name, flags: os.open(name, flags | nonblocking))
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file, but a pipe or a device")
        start = os.pread(file.fileno(), max(map(len, POINTERS)), 0)
        for pointer, reason in POINTERS.items():
            if start.startswith(pointer):
                raise OSError(errno.EINVAL, reason)
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
