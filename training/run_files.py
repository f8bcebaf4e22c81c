"""The files of one run, by folder and name: its lock, checkpoints, history, result and snapshots.

An earlier run's files of the name are moved aside, none is overwritten. A snapshot, from which a
run goes on as if never stopped (resuming.py reads it), is one file, PREFIX-resume.npz, of arrays
and plain numbers; nothing in it is run.

    state               JSON: the run's record, what a resumed run must share with its beginning
                        (settings), and the optimizer's counters (progress)
    arg:NAME            parameters
    optimizer:NAME:N    what the optimizer keeps for a parameter, its momentum for instance
    aux:NAME            running statistics
    metric:NAME:KEY     the metrics of the epoch so far

The snapshot before stays as PREFIX-resume-previous.npz. Of several workers rank 0 writes for all.
In mid-epoch each has statistics and metrics of its own, which have the prefix "worker1/" and so on.
"""
import contextlib
import fcntl
import io
import json
import logging
import math
import os
import re
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np

from common.cli import InputError
from common.files import atomic_file, remove_unfinished
from evaluation.history import history_files, write_history
from network import checkpoint

logger = logging.getLogger("train_multilabel")

VERSION = 2
RUN_ID = "MULTILABEL_RUN_ID"  # environment variable that tools/launch.py sets


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


def is_run_file(file, name):
    """Whether `file` is one that a run called `name` writes, its lock and train.log left out."""
    return re.fullmatch(
        re.escape(name) + r"-(symbol\.json|\d{4,}\.params|best-symbol\.json|best-0000\.params|"
        r"history\.(csv|png)|result\.json|resume(-previous)?\.npz)", file) is not None


def with_prefix(kind, arrays):
    """Arrays by their names in a snapshot, KIND:NAME; MXNet's as numpy's."""
    return {f"{kind}:{name}": value if isinstance(value, (np.ndarray, np.generic))
            else value.asnumpy() for name, value in arrays.items()}


@contextlib.contextmanager
def locked(prefix):
    """Keep other runs from the folder and the name, and clear away what a killed one was writing.

    The lock ends with the process. On a network folder it holds where the file system passes
    locks on.
    """
    folder, name = os.path.split(prefix)
    if any(os.path.exists(file) for file in history_files(f"{prefix}-best")):
        raise InputError(f"{{flag}} {name}: its best checkpoint would overwrite those of the run "
                         f"{name}-best in this folder; choose another name", flag="--save-name")
    path = os.path.join(folder, f".{name}.lock")
    handle = _lock(path)
    try:
        remove_unfinished(folder or ".", lambda file: is_run_file(file, name))
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(handle)


def _lock(path):
    """Descriptor of the locked file, which says who has the lock."""
    while True:
        try:
            # Not through a link, by which a stranger's folder could name any file.
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", file=path) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = ascii(os.read(handle, 100).decode(errors="replace"))[1:-1]
            os.close(handle)
            raise InputError(f"another run ({owner or 'just starting'}) writes there; wait for its "
                             "end, or choose another --save-name", file=path) from None
        except OSError as error:
            logger.warning("warning: %s: no lock against a second run: %s", path, error.strerror)
            return handle
        # The run before may have removed the file since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                with contextlib.suppress(OSError):  # a full disk
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
        os.close(handle)


def move_aside(prefix):
    """Move files of earlier runs, where there are any, into a dated folder, which is returned."""
    folder, name = os.path.split(prefix)
    files = [file for file in os.listdir(folder or ".") if is_run_file(file, name)]
    if not files:
        return None
    target = f"{prefix}-until-{time.strftime('%Y-%m-%d-%H%M%S')}"
    try:
        while os.path.exists(target):
            target += "+"
        os.mkdir(target)
        for file in files:
            os.replace(os.path.join(folder, file), os.path.join(target, file))
    except OSError as error:
        raise InputError(f"the earlier run cannot be moved there: {error.strerror}",
                         file=target) from None
    logger.info("The files of the earlier run of this name are in %s now", target)
    return target


class RunFiles:
    """Saves the results of a run under its prefix, and keeps its record.

    `validation` is a Validation or None, `shared` what a resumed run must share with this one. Only
    one worker `is_writer`; all keep the record, because all decide by it.
    """

    def __init__(self, settings, symbol, validation, shared, record, is_writer):
        self.flags, self.prefix, self.symbol = settings.flags, settings.prefix, symbol
        self.validation, self.shared = validation, shared
        self.record, self.is_writer = record, is_writer
        if record.frozen_precision:
            self.set_frozen_precision(record.frozen_precision)

    def set_frozen_precision(self, precision):
        """Keep in the record, and in what checkpoints say, how frozen layers were computed."""
        self.record.frozen_precision = precision
        described = checkpoint.get_attributes(self.symbol).get("training", {})
        self.symbol = checkpoint.set_attributes(
            self.symbol, training={**described, "frozen layers": f"in {precision} while training"})

    def save_checkpoint(self, number, arg_params, aux_params):
        """Write a checkpoint, and remove those that --keep does not keep."""
        if self.is_writer:
            checkpoint.save(self.prefix, number, self.symbol, arg_params, aux_params)
            logger.info('Saved checkpoint to "%s-%04d.params"', self.prefix, number)
        record = self.record
        record.checkpoints.append(number)
        while self.flags.keep and len(record.checkpoints) > self.flags.keep:
            surplus = record.checkpoints.pop(0)
            if self.is_writer:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.prefix}-{surplus:04d}.params")

    def update_best(self, number, scores, thresholds, arg_params, aux_params):
        """Save checkpoint `number` as the best if its scores on validation are."""
        record, metric = self.record, self.flags.monitor_metric
        value = scores.get(metric, math.nan)
        if math.isnan(value):
            return
        sign = -1 if metric == "loss" else 1
        if record.best and not sign * value > sign * record.best["value"]:
            record.since_best += 1
            return
        record.best, record.since_best = {"number": number, "metric": metric, "value": value}, 0
        if self.is_writer:
            training = {**checkpoint.get_attributes(self.symbol)["training"],
                        "checkpoint": str(number)}
            symbol = self.validation.symbol_with(self.symbol, thresholds, 0)
            checkpoint.save(f"{self.prefix}-best", 0,
                            checkpoint.set_attributes(symbol, training=training),
                            arg_params, aux_params)

    def close_epoch(self, number, row, training, scores, samples, params):
        """Add an epoch to the history, keep the best, and log a line; epoch 0 is the warm head.

        `row` are further columns of the history, `training` and `scores` dicts of metrics, of
        training and of validation. Thresholds are chosen on the validation's `samples`
        (Metrics.samples), where there are any.
        """
        thresholds = None
        if samples:
            thresholds, rates = self.validation.choose_thresholds(samples)
            scores = {**scores, **rates}
            if self.is_writer and number in self.record.checkpoints[-1:]:
                checkpoint.save_symbol(self.prefix, self.validation.symbol_with(
                    self.symbol, thresholds, number))
        self.record.history.append({
            "epoch": number, **row, **{f"train-{name}": value for name, value in training.items()},
            **{f"val-{name}": value for name, value in scores.items()}})
        if self.is_writer:
            write_history(self.prefix, self.record.history)
        self.update_best(number, scores, thresholds, *params)
        best = self.record.best
        logger.info("%s: %.0f s%s%s%s",
                    f"Epoch {number} of {self.flags.num_epoch}" if number else "Warm head",
                    row["seconds"], _scores_shown("training", training),
                    _scores_shown("validation", scores), "" if not best else
                    ", the best so far" if best["number"] == number else
                    "; best {metric} {value:.4f} (epoch {number})".format(**best))

    def save_snapshot(self, optimizer_counters, arrays, per_worker):
        """Write a snapshot at the record's position. Where that fails, the earlier one remains.

        `arrays` is what all workers share, and `per_worker` a list, by rank, of what each has of
        its own, or of rank 0's alone where all have the same: dicts by `with_prefix`.
        """
        if not self.is_writer:
            return
        arrays = dict(arrays)
        for rank, own in enumerate(per_worker):
            start = f"worker{rank}/" if rank else ""
            arrays.update((start + name, value) for name, value in own.items())
        state = {"version": VERSION, "run_id": os.environ.get(RUN_ID),
                 "record": asdict(self.record), "progress": optimizer_counters,
                 "settings": self.shared}
        arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        # By way of memory: a zip file that cannot be finished complains once more when it is
        # deleted.
        content = io.BytesIO()
        np.savez(content, **arrays)
        newest, previous = snapshot_files(self.prefix)
        with atomic_file(newest) as name:
            Path(name).write_bytes(content.getbuffer())
            if os.path.exists(newest):
                os.replace(newest, previous)

    @property
    def stopped_early(self):
        """Whether --early-stop ends the run here."""
        return bool(self.flags.early_stop and self.record.since_best >= self.flags.early_stop)

    @property
    def finished(self):
        """Whether nothing of the run is left to do."""
        return self.stopped_early or self.record.epoch >= self.flags.num_epoch

    def check_finite(self, params):
        """Raise an InputError that names the first of the parameters that is not finite."""
        for name, value in params.items():
            if not np.isfinite(value.asnumpy()).all():
                raise self.not_finite(f"{name} is no longer finite")

    def not_finite(self, reason):
        """The InputError that ends a run whose numbers have left their range."""
        kept = ("the last good checkpoint is kept" if self.record.checkpoints
                else "there is no checkpoint yet")
        return InputError(f"{self.record.position}: {reason}; {kept}."
                          " Try a smaller --lr, --warmup-epochs 1 or --clip-gradient 1")

    def write_summary(self):
        """Log the classes of the last validation, where the checkpoints are, and the best scores.

        The last two also go into NAME-result.json: "checkpoint" and "epoch" as --model and --epoch
        take them, and "best" (None without validation), with "number", "metric", "value",
        "baseline" and "baseline_is", what reaches that (None for the loss).
        """
        if not self.is_writer:
            return
        if self.validation:
            self.validation.log_classes(self.symbol)
        best, last = self.record.best, self.record.checkpoints[-1:]
        result = {"checkpoint": self.prefix, "epoch": last[0] if last else None, "best": None}
        if best:
            from training.validation import log_best  # without validation nothing is best
            scored = log_best(self.record, f"{self.prefix}-best", self.validation)
            result = {"checkpoint": f"{self.prefix}-best", "epoch": 0, "best": {**best, **scored}}
        elif last:
            logger.info("Done: %s-%04d.params", self.prefix, last[0])
        with atomic_file(f"{self.prefix}-result.json") as name:
            Path(name).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _scores_shown(title, metrics):
    shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("loss", "mAP") if name in metrics)
    return shown and f"; {title} {shown}"
