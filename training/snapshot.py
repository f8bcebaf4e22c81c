"""Snapshots of a run in the middle of an epoch, from which it goes on as if never stopped.

A snapshot is one file, PREFIX-resume.npz, of arrays and plain numbers; nothing in it is run.

    state               JSON: the run's record, its settings, and how far the optimizer is
    arg:NAME            parameters
    optimizer:NAME:N    what the optimizer keeps for a parameter, its momentum for instance
    aux:NAME            running statistics
    metric:NAME:KEY     the metrics of the epoch so far

The snapshot before stays as PREFIX-resume-previous.npz. Of several workers rank 0 writes for all.
In mid-epoch each has statistics and metrics of its own, which stand behind "worker1/" and so on.
"""
import io
import json
import os
import struct
import tokenize
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from common.cli import InputError
from common.files import atomic_file, open_regular_file
from evaluation.history import COLUMNS
from training.run_folder import snapshot_files
from training.train_flags import METRICS

VERSION = 2
RUN_ID = "MULTILABEL_RUN_ID"  # environment variable that tools/launch.py sets
WORKER = "worker{}/"
KINDS = ("arg", "aux", "metric", "optimizer")
# What reading a broken file raises.
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError,
           OverflowError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile)


@dataclass
class RunRecord:
    """The position of a run and what it has reached: plain numbers."""

    epoch: int = 0
    batch: int = 0  # so many of the epoch's are done; after the last only validation is left
    best: Optional[dict] = None  # "number" of the best checkpoint, "metric" and its "value"
    since_best: int = 0  # validations since then
    checkpoints: list = field(default_factory=list)  # numbers of those that are kept
    history: list = field(default_factory=list)  # of dicts, a row per epoch; evaluation.history
    seconds: float = 0.0  # spent on the epoch so far

    @property
    def position(self):
        """Where the run is, as people count: the first epoch is 1."""
        return f"epoch {self.epoch + 1}, batch {self.batch}"

    @classmethod
    def from_json(cls, values):
        """The record whose `asdict` these are; ValueError or TypeError for anything else."""
        record = cls(**values)
        best = record.best
        valid = (
            isinstance(record.checkpoints, list) and isinstance(record.history, list)
            and all(map(_is_count, (record.epoch, record.batch, record.since_best,
                                    *record.checkpoints)))
            and _is_number(record.seconds)
            and (best is None or set(best) == {"number", "metric", "value"}
                 and _is_count(best["number"]) and best["metric"] in METRICS
                 and _is_number(best["value"]))
            and all(set(row) <= set(COLUMNS) and all(map(_is_number, row.values()))
                    for row in record.history))
        if not valid:
            raise ValueError("not the record of a run")
        return record


def _is_count(value):
    return type(value) is int and 0 <= value < 2 ** 31


def _is_number(value):
    return type(value) is float or _is_count(value)


class Snapshot(NamedTuple):
    """A snapshot as one worker sees it."""

    source: str  # name of the file
    record: RunRecord
    settings: dict
    progress: dict  # the optimizer's plain numbers
    arg_params: dict  # this and all below: of name to np.ndarray
    aux_params: dict
    metrics: dict
    optimizer: dict


def named(kind, arrays):
    """Arrays by their names in a snapshot; MXNet's as numpy's."""
    return {f"{kind}:{name}": value if isinstance(value, (np.ndarray, np.generic))
            else value.asnumpy() for name, value in arrays.items()}


def save_snapshot(prefix, state, arrays, per_worker):
    """Write a snapshot. Where that fails, the earlier one is still there.

    `state` has "record" (a RunRecord's values), "settings" and "progress", all plain JSON. `arrays`
    is what all workers share, and `per_worker` a list, by rank, of what each has of its own, or of
    rank 0's alone where all have the same: dicts of str to np.ndarray, by `named`.
    """
    arrays = dict(arrays)
    for rank, own in enumerate(per_worker):
        start = WORKER.format(rank) if rank else ""
        arrays.update((start + name, value) for name, value in own.items())
    state = {**state, "version": VERSION, "run_id": os.environ.get(RUN_ID)}
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    # By way of memory: a zip file that cannot be finished complains once more when it is deleted.
    content = io.BytesIO()
    np.savez(content, **arrays)
    newest, previous = snapshot_files(prefix)
    with atomic_file(newest) as name:
        Path(name).write_bytes(content.getbuffer())
        if os.path.exists(newest):
            os.replace(newest, previous)


def load_snapshot(prefix, workers):
    """The newest snapshot that is not damaged, or None: rank 0 reads it, and all get it.

    An InputError says that there are snapshots, but all are damaged, or that it is of another
    version or of another run than the one that tools/launch.py restarts.
    """
    arrays = workers.broadcast(None if workers.rank else _read_newest(prefix))
    if arrays is None:
        return None
    source = arrays.pop("source").item()
    try:
        state = json.loads(arrays.pop("state").tobytes())
        if state.get("version") != VERSION:
            raise InputError(f"{source}: written by another version of this project, and cannot "
                             "be read by this one; without --resume the run starts anew")
        record, run_id = RunRecord.from_json(state["record"]), state["run_id"]
        settings, progress = dict(state["settings"]), dict(state["progress"])
    except InputError:
        raise
    except (*DAMAGED, AttributeError):
        raise InputError(f"{source}: not a snapshot of a run; without --resume the run starts "
                         "anew") from None
    if os.environ.get(RUN_ID, run_id) != run_id:
        raise InputError(f"{source}: saved by another run than the one to be resumed ({RUN_ID} in "
                         "the environment says which); unset it, or leave out --resume")
    start = WORKER.format(workers.rank)
    mine = {key[len(start):]: value for key, value in arrays.items() if key.startswith(start)}
    kinds = {kind: {} for kind in KINDS}
    # A worker without arrays of its own has the same as rank 0.
    for key, value in {**arrays, **mine}.items():
        kind, _, name = key.partition(":")
        kinds.get(kind, {})[name] = value
    return Snapshot(source, record, settings, progress, *kinds.values())


def _read_newest(prefix):
    """All arrays of the newest snapshot that is not damaged, and its name as "source"."""
    damaged = None
    for name in snapshot_files(prefix):
        try:
            arrays = read_arrays(name)
            return {**arrays, "state": arrays["state"], "source": np.array(name)}
        except FileNotFoundError:
            continue
        except DAMAGED:
            damaged = name
    if damaged:
        raise InputError(f"{damaged}: cut short or damaged, and there is no other snapshot to go "
                         "on from; without --resume the run starts anew")
    return None


def read_arrays(path):
    """The arrays of an .npz file that nobody vouches for; one of DAMAGED where it is none.

    They take no more memory than the file is long, because nothing in it may be compressed.
    """
    arrays = {}
    with open_regular_file(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if (any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
                or sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size):
            raise ValueError("compressed entries")
        for entry in entries:
            content = io.BytesIO(archive.read(entry))  # compares the checksum
            if np.lib.format.read_magic(content) != (1, 0):
                raise ValueError("not a plain array")
            shape, transposed, dtype = np.lib.format.read_array_header_1_0(content)
            if dtype.kind not in "fiu":
                raise ValueError("not an array of plain numbers")
            arrays[entry.filename[:-len(".npy")]] = np.ndarray(
                shape, dtype, content.getbuffer(), content.tell(), order="F" if transposed else "C")
    return arrays
