"""Snapshots of a run in the middle of an epoch, from which it goes on as if never stopped.

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
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from common.cli import InputError
from common.files import atomic_file
from common.mx_compat import mx
from evaluation.history import COLUMNS
from network.untrusted import DAMAGED, check_shapes, read_arrays
from training.train_flags import METRICS

logger = logging.getLogger("train_multilabel")

VERSION = 2
RUN_ID = "MULTILABEL_RUN_ID"  # environment variable that tools/launch.py sets
WORKER = "worker{}/"
WHAT_TO_DO = "without --resume the run starts anew"
# Flags of which, where one differs (--resume-anyway), the optimizer keeps nothing of what it had.
OPTIMIZER_FLAGS = ("--optimizer", "--mom", "--freeze", "--freeze-stages", "--dtype")
KINDS = ("arg", "aux", "metric", "optimizer")


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
            and record.frozen_precision in (None, "float32", "int8")
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
    optimizer_counters: dict  # plain numbers
    arg_params: dict  # this and all below: of name to np.ndarray
    aux_params: dict
    metrics: dict
    optimizer: dict


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
            raise InputError("written by another version of this project, and cannot be read by "
                             f"this one; {WHAT_TO_DO}", file=source)
        record, run_id = RunRecord.from_json(state["record"]), state["run_id"]
        settings, counters = dict(state["settings"]), dict(state["progress"])
    except InputError:
        raise
    except (*DAMAGED, AttributeError):
        raise InputError(f"not a snapshot of a run; {WHAT_TO_DO}", file=source) from None
    if os.environ.get(RUN_ID, run_id) != run_id:
        raise InputError(f"saved by another run than the one to be resumed ({RUN_ID} in the "
                         "environment says which); unset it, or leave out --resume", file=source)
    start = WORKER.format(workers.rank)
    mine = {key[len(start):]: value for key, value in arrays.items() if key.startswith(start)}
    kinds = {kind: {} for kind in KINDS}
    # A worker without arrays of its own has the same as rank 0.
    for key, value in {**arrays, **mine}.items():
        kind, _, name = key.partition(":")
        kinds.get(kind, {})[name] = value
    return Snapshot(source, record, settings, counters, *kinds.values())


def _read_newest(prefix):
    """All arrays of the newest snapshot that is not damaged, and its name as "source"."""
    damaged = None
    for name in snapshot_files(prefix):
        try:
            arrays = read_arrays(name)
            arrays = {**arrays, "state": arrays["state"], "source": np.array(name)}
        except FileNotFoundError:
            continue
        except DAMAGED:
            damaged = name
            continue
        if damaged:
            logger.warning("warning: %s: cut short or damaged: going on from the snapshot before",
                           damaged)
        return arrays
    if damaged:
        raise InputError("cut short or damaged, and there is no other snapshot to go on from; "
                         f"{WHAT_TO_DO}", file=damaged)
    return None


def check_snapshot(snapshot, settings, shared, symbol, train, metrics):
    """The snapshot, with MXNet's arrays as parameters, if the run can go on from it.

    `shared` is what a resumed run must share, `train` the training iterator, `metrics` are
    training's. An InputError names what has changed, or what does not fit the network, the data
    or the metrics.
    """
    flags, before = settings.flags, snapshot.settings
    changed = [name for name, value in shared.items() if before.get(name) != value]
    if changed and not flags.resume_anyway:
        name = changed[0]
        raise InputError(
            f"{name} was {ascii(before.get(name))[:200]} when the run was saved, and is "
            f"{shared[name]!r} now: the run would change; --resume-anyway goes on all the same",
            flag="--resume")
    if set(changed) & set(OPTIMIZER_FLAGS):
        snapshot = snapshot._replace(optimizer=None)
    record = snapshot.record
    if record.best and record.best["metric"] != flags.monitor_metric:
        logger.warning("--monitor-metric was %s and is %s now: the best is chosen anew",
                       record.best["metric"], flags.monitor_metric)
        record.best, record.since_best = None, 0
    _check_metrics(snapshot, train, metrics)
    _check_parameters(snapshot, symbol)
    check_shapes(symbol, snapshot.arg_params, snapshot.aux_params, settings.image_shape,
                 snapshot.source, math.inf)
    return snapshot._replace(**{
        kind: {name: mx.nd.array(value, dtype=value.dtype)
               for name, value in getattr(snapshot, kind).items()}
        for kind in ("arg_params", "aux_params")})


def _check_parameters(snapshot, symbol):
    for names, arrays in (
            (set(symbol.list_arguments()) - {"data", "softmax_label"}, snapshot.arg_params),
            (set(symbol.list_auxiliary_states()), snapshot.aux_params)):
        for name in sorted(names ^ set(arrays)):
            problem = "lacks" if name in names else "has, but the network has not,"
            raise InputError(f"{problem} the parameter {ascii(name)[:100]}; {WHAT_TO_DO}",
                             file=snapshot.source)
        for name, value in arrays.items():
            if value.dtype not in (np.float32, np.float16):
                raise InputError(f"{name} is of type {value.dtype}; {WHAT_TO_DO}",
                                 file=snapshot.source)


def _check_metrics(snapshot, train, metrics):
    record = snapshot.record
    try:
        if record.batch > train.num_batches:
            raise ValueError(f"there is no batch {record.batch} in an epoch")
        if not record.batch:
            return
        metrics.load_state(snapshot.metrics)
        for name, value in snapshot.metrics.items():
            if value.ndim == 2 and value.shape[1] != train.num_classes or not (
                    value.ndim in (0, 2) and np.isfinite(value).all()):
                raise ValueError(f"{name} is not of these classes")
        labels, scores = (snapshot.metrics.get(f"mAP:{key}") for key in ("labels", "scores"))
        if labels is not None and (labels.dtype, scores.dtype, labels.shape) != (
                np.int8, np.float32, scores.shape):
            raise ValueError("mAP's labels and scores do not go together")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the metrics do not fit: {ascii(str(error))[:200]}; {WHAT_TO_DO}",
                         file=snapshot.source) from None
    finally:
        metrics.reset()
