"""What a run writes: checkpoints, the best of them, the history, and snapshots."""
import contextlib
import logging
import math
import os
from dataclasses import asdict

import numpy as np

from common.cli import InputError
from common.metrics import BASELINES, baselines
from evaluation.class_table import best_and_worst
from evaluation.history import write_history
from network import checkpoint
from training.snapshot import save_snapshot

logger = logging.getLogger("train_multilabel")


class RunFiles:
    """Saves the results of a run under its prefix, and keeps its record.

    `settings` are what a resumed run must share. Only one worker `writes`; all keep the record,
    because all decide by it.
    """

    def __init__(self, args, symbol, settings, record, writes):
        self.args, self.symbol, self.settings, self.record = args, symbol, settings, record
        self.writes = writes
        self.prefix = os.path.join(args.save_result, args.save_name)

    def save_checkpoint(self, number, arg_params, aux_params):
        """Write a checkpoint, and remove those that --keep does not keep."""
        if not self.writes:
            return
        checkpoint.save(self.prefix, number, self.symbol, arg_params, aux_params)
        logger.info('Saved checkpoint to "%s-%04d.params"', self.prefix, number)
        record = self.record
        record.checkpoints = [n for n in record.checkpoints if n != number] + [number]
        while self.args.keep and len(record.checkpoints) > self.args.keep:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.prefix}-{record.checkpoints.pop(0):04d}.params")

    def update_best(self, number, scores, arg_params, aux_params):
        """Save checkpoint `number` as the best if its scores on validation are."""
        record, metric = self.record, self.args.monitor_metric
        value = scores.get(metric, math.nan)
        if math.isnan(value):
            return
        sign = -1 if metric == "loss" else 1
        if record.best and not sign * value > sign * record.best["value"]:
            record.since_best += 1
            return
        record.best, record.since_best = {"number": number, "metric": metric, "value": value}, 0
        if self.writes:
            checkpoint.save(f"{self.prefix}-best", 0, self.symbol, arg_params, aux_params)

    def close_epoch(self, number, row, training, validation, params):
        """Add an epoch to the history, keep the best, and log a line; epoch 0 is the warm head.

        `row` are further columns of the history, `training` and `validation` dicts of metrics.
        """
        self.record.history.append({
            "epoch": number, **row, **{f"train-{name}": value for name, value in training.items()},
            **{f"val-{name}": value for name, value in validation.items()}})
        if self.writes:
            write_history(self.prefix, self.record.history)
        self.update_best(number, validation, *params)
        best = self.record.best
        logger.info("%s: %.0f s%s%s%s",
                    f"Epoch {number} of {self.args.num_epoch}" if number else "Warm head",
                    row["seconds"], _shown("training", training),
                    _shown("validation", validation), "" if not best else
                    ", the best so far" if best["number"] == number else
                    "; best {metric} {value:.4f} (epoch {number})".format(**best))

    def save_snapshot(self, progress, arrays, per_worker):
        """Write a snapshot at the record's position; see snapshot.save_snapshot."""
        if self.writes:
            save_snapshot(self.prefix, {"record": asdict(self.record), "progress": progress,
                                        "settings": self.settings}, arrays, per_worker)

    @property
    def stopped_early(self):
        """Whether --early-stop ends the run here."""
        return bool(self.args.early_stop and self.record.since_best >= self.args.early_stop)

    @property
    def finished(self):
        """Whether nothing of the run is left to do."""
        return self.stopped_early or self.record.epoch >= self.args.num_epoch

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

    def log_summary(self, class_precision, val_lst):
        """Log the classes of the last validation, where the checkpoints are, and the best score.

        `class_precision` is the average precision of each class, (classes,); None or empty without
        a validation list, `val_lst`.
        """
        if not self.writes:
            return
        if class_precision is not None and len(class_precision):
            names = (checkpoint.get_attributes(self.symbol).get("class_names")
                     or [str(number) for number in range(val_lst.num_classes)])
            for line in best_and_worst(names, class_precision, val_lst.positives):
                logger.info("%s", line)
        best = self.record.best
        if best:
            name, value = best["metric"], best["value"]
            scored = val_lst and baselines(val_lst.positives, val_lst.negatives).get(name)
            beside = f" ({BASELINES[name]} {scored:.4f})" if scored is not None else ""
            logger.info("Best: checkpoint %d, validation %s %.4f%s, kept as %s-best (--model "
                        "%s-best --epoch 0)", best["number"], name, value, beside, self.prefix,
                        self.prefix)
            if scored is not None and value <= scored:
                logger.warning("warning: %s %.4f does not beat %s", name, value, BASELINES[name])
        elif self.record.checkpoints:
            logger.info("Done: %s-%04d.params", self.prefix, self.record.checkpoints[-1])


def _shown(title, metrics):
    shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("loss", "mAP") if name in metrics)
    return shown and f"; {title} {shown}"
