"""Reading a snapshot, which a stranger may have written, and whether a run can go on from it."""
import json
import logging
import math
import os
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from evaluation.history import COLUMNS
from network.untrusted import DAMAGED, check_shapes, read_arrays
from training.module import OPTIMIZER_COUNTERS, leaves
from training.run_files import RUN_ID, VERSION, RunRecord, snapshot_files
from training.train_flags import METRICS

logger = logging.getLogger("train_multilabel")

WHAT_TO_DO = "without --resume the run starts anew"
# Flags of which, where one differs (--resume-anyway), the optimizer keeps nothing of what it had.
OPTIMIZER_FLAGS = ("--optimizer", "--mom", "--freeze", "--freeze-stages", "--dtype")
KINDS = ("arg", "aux", "metric", "optimizer")


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
        record, run_id = _record(state["record"]), state["run_id"]
        settings, counters = dict(state["settings"]), dict(state["progress"])
    except InputError:
        raise
    except (*DAMAGED, AttributeError):
        raise InputError(f"not a snapshot of a run; {WHAT_TO_DO}", file=source) from None
    if os.environ.get(RUN_ID, run_id) != run_id:
        raise InputError(f"saved by another run than the one to be resumed ({RUN_ID} in the "
                         "environment says which); unset it, or leave out --resume", file=source)
    start = f"worker{workers.rank}/"
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
            arrays = {**read_arrays(name), "source": np.array(name)}
        except FileNotFoundError:
            continue
        except DAMAGED:
            arrays = {}
        if "state" not in arrays:
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


def _record(values):
    """The RunRecord whose `asdict` these are; ValueError or TypeError for anything else."""
    record = RunRecord(**values)
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


def load_optimizer_state(module, snapshot):
    """Take over the optimizer's state from a Snapshot, unless it is on servers.

    An InputError says what of it is missing or does not fit.
    """
    if not module.updater or not snapshot.optimizer_counters:
        return
    optimizer, source = module.updater.optimizer, snapshot.source
    for name in OPTIMIZER_COUNTERS:
        if hasattr(optimizer, name):
            value = snapshot.optimizer_counters.get(name)
            if type(value) is not type(getattr(optimizer, name)) or not 0 <= value < 2 ** 31:
                raise InputError(f"the optimizer's {name} is missing or wrong", file=source)
            setattr(optimizer, name, value)
    # Counts of single parameters, of which a new optimizer has none, begin with this.
    optimizer.begin_num_update = optimizer.num_update
    if snapshot.optimizer is None or not optimizer.num_update:
        return
    for name, weights in module.trained_weights():
        for key, weight in weights.items():
            state = optimizer.create_state_multi_precision(key, weight)
            for number, leaf in enumerate(leaves(state)):
                value = snapshot.optimizer.get(f"{name}:{number}", np.empty(0))
                if (value.shape, value.dtype) != (leaf.shape, leaf.dtype):
                    raise InputError(f"the optimizer's state of {name} is missing or does not "
                                     f"fit; {WHAT_TO_DO}", file=source)
                leaf[:] = mx.nd.array(value, leaf.context, leaf.dtype)
            module.updater.states[key] = state
            module.updater.states_synced[key] = True
