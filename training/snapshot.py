"""Saving snapshots of a run, from which it goes on as if never stopped; resuming.py reads them.

A snapshot is one file, PREFIX-resume.npz, of arrays and plain numbers; nothing in it is run.

    state               JSON: the run's record, what a resumed run must share with its beginning
                        (settings), and the optimizer's counters (progress)
    arg:NAME            parameters
    optimizer:NAME:N    what the optimizer keeps for a parameter, its momentum for instance
    aux:NAME            running statistics
    metric:NAME:KEY     the metrics of the epoch so far

The snapshot before stays as PREFIX-resume-previous.npz. Of several workers rank 0 writes for all.
In mid-epoch each has statistics and metrics of its own, which have the prefix "worker1/" and so on.
"""
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np

from common.files import atomic_file

VERSION = 2
RUN_ID = "MULTILABEL_RUN_ID"  # environment variable that tools/launch.py sets
WORKER = "worker{}/"


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
    frozen_precision: Optional[str] = None  # of the frozen layers' passes; None before any

    @property
    def position(self):
        """Where the run is, as people count: the first epoch is 1."""
        return f"epoch {self.epoch + 1}, batch {self.batch}"


def snapshot_files(prefix):
    """The newest snapshot's name, and that of the one before."""
    return f"{prefix}-resume.npz", f"{prefix}-resume-previous.npz"


def with_prefix(kind, arrays):
    """Arrays by their names in a snapshot, KIND:NAME; MXNet's as numpy's."""
    return {f"{kind}:{name}": value if isinstance(value, (np.ndarray, np.generic))
            else value.asnumpy() for name, value in arrays.items()}


def save_snapshot(prefix, state, arrays, per_worker):
    """Write a snapshot. Where that fails, the earlier one is still there.

    `state` has "record" (a RunRecord's values), "settings" and "progress", all plain JSON. `arrays`
    is what all workers share, and `per_worker` a list, by rank, of what each has of its own, or of
    rank 0's alone where all have the same: dicts of str to np.ndarray, by `with_prefix`.
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
