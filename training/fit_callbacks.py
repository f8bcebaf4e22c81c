"""The callbacks of Module.fit: when a run saves, validates, and stops."""
import logging
import math
import time

from common.metrics import BASELINES, baselines
from common.mx_compat import mx
from common.progress import Progress
from training.snapshot import named
from training.stop_requests import Stopped

logger = logging.getLogger("train_multilabel")


class FitCallbacks:
    """What happens after each batch and each epoch; `metrics` are those of training."""

    def __init__(self, args, module, data, metrics, files, stops):
        self.args, self.module, self.data, self.metrics = args, module, data, metrics
        self.files, self.record = files, files.record
        self.stops, self.workers = stops, stops.workers
        self.num_batches = data.train.num_batches
        self.progress = None
        self.saved_at = time.monotonic()
        # The first epoch may have begun before the run was resumed.
        self.epoch_began = self.saved_at - self.record.seconds
        self.training_seconds = self.record.seconds  # without the epoch's validation
        self.draws = any(op in module.symbol.tojson() for op in ('"Dropout"', '"_random'))

    def seed_batch(self):
        """Make dropout the next batch's own, so that a resumed run draws the same."""
        if self.draws:
            place = (self.args.seed * 1000003 + self.record.epoch) * 1000003 + self.record.batch
            mx.random.seed((place * 1000003 + self.workers.rank) % 2 ** 31)

    def on_batch(self, _):
        """Batch callback: look after the loss, the clock, and signals."""
        record = self.record
        minutes = (time.monotonic() - self.saved_at) / 60
        due = self.args.checkpoint_minutes and minutes >= self.args.checkpoint_minutes
        loss = self.metrics.metrics[0].global_sum_metric
        if self.workers.synchronous:
            due, loss = self.stops.agree(due, loss)
        if not math.isfinite(loss):
            raise self.files.not_finite(f"the loss is {loss}")
        record.batch += 1
        mean_loss = dict(self.metrics.metrics[0].get_global_name_value())["loss"]
        self._show_progress("Epoch", record.batch, self.num_batches, f"loss {mean_loss:.4g}")
        if record.batch == self.num_batches:
            return
        if self.workers.synchronous:
            self._stop_if_asked(due)
        else:
            self.stops.stop_unsaved_run(": --resume goes on after the last whole epoch")
        self.seed_batch()

    def on_epoch(self, epoch, symbol, arg_params, aux_params):
        """Epoch callback: save a checkpoint, and close the epoch where nothing validates it."""
        self.training_seconds = self._seconds()
        if self.workers.count > 1 or not self.workers.synchronous:
            arg_params, aux_params = self._merge_params(arg_params, aux_params)
        self.stops.agree()
        self.files.check_finite({**arg_params, **aux_params})
        if epoch + 1 == self.args.num_epoch or (epoch + 1) % self.args.save_period == 0:
            self.files.save_checkpoint(epoch + 1, arg_params, aux_params)
        if self.data.val:
            self._stop_if_asked()
        else:
            self._close_epoch({})

    def on_validation_batch(self, param):
        """Batch callback of validation: stop where asked to; the epoch's training is saved."""
        self._show_progress("Validation", param.nbatch + 1, self.data.val.num_batches)
        self.stops.agree()
        self._stop_if_asked()

    def on_validated(self, param):
        """Callback of a finished validation."""
        scores = dict(param.eval_metric.get_global_name_value())
        lst = self.data.val_lst
        scored = baselines(lst.positives, lst.negatives)
        logger.info("Epoch[%d] Baselines: %s", param.epoch, ", ".join(
            f"{name} {scored[name]:.4f} ({BASELINES[name]})" for name in ("acc", "mAP")))
        for name in ("acc", "mAP"):
            if self.files.writes and scores.get(name, math.nan) <= scored[name]:
                logger.warning("warning: validation %s %.4f does not beat the baseline %.4f",
                               name, scores[name], scored[name])
        self._close_epoch(scores)

    def _close_epoch(self, scores):
        """Write history and snapshot, keep the best, and stop where nothing improves any more."""
        record, seconds = self.record, self._seconds()
        self.epoch_began = time.monotonic()  # what is written now counts for the next one
        updates = (record.epoch + 1) * self.num_batches * self.workers.count
        self.files.close_epoch(record.epoch + 1, {
            "seconds": seconds,
            "images_per_second": self.data.train_lst.num_rows / max(self.training_seconds, 1e-9),
            "learning_rate": self.module.learning_rate(updates)},
            dict(self.metrics.get_global_name_value()), scores, self.module.get_params())
        record.epoch, record.batch = record.epoch + 1, 0
        self.stops.agree()
        self._save_snapshot()
        if self.files.stopped_early:
            logger.info("%s has not been better than epoch %d's for %d epochs: stopping",
                        self.args.monitor_metric, record.best["number"], record.since_best)
            raise Stopped(0)
        if record.epoch < self.args.num_epoch:
            self.stops.stop_saved_run(record)
            self.seed_batch()

    def _merge_params(self, arg_params, aux_params):
        """The parameters of all workers, and the mean of their running statistics."""
        if not self.workers.synchronous:
            # Once all are here, nobody changes the servers' parameters any more.
            self.workers.sum([])
            self.module.pull_params()
            arg_params, aux_params = self.module.get_params()
        aux_params = self.workers.mean(aux_params)
        self.module.set_params(arg_params, aux_params)
        return arg_params, aux_params

    def _seconds(self):
        """Time spent on the epoch so far."""
        return time.monotonic() - self.epoch_began

    def _show_progress(self, what, done, total, note=""):
        """One more of an epoch's batches is done."""
        if self.progress is None:
            self.progress = Progress(f"{what} {self.record.epoch + 1} of {self.args.num_epoch}",
                                     total, "batches", done - 1)
        self.progress.update(1, note)
        if done == total:
            self.progress.close()
            self.progress = None

    def _stop_if_asked(self, due=False):
        if due or self.stops.agreed:
            self._save_snapshot()
        self.stops.stop_saved_run(self.record)

    def _save_snapshot(self):
        """Save everything at the record's position."""
        record = self.record
        record.seconds = self._seconds()
        arg_params, aux_params = self.module.get_params()
        self.files.check_finite(arg_params)
        own = {**named("aux", aux_params),
               **(named("metric", self.metrics.state()) if record.batch else {})}
        # Between epochs all workers have the same.
        per_worker = self.workers.gather(own) if record.batch else [own]
        if self.files.writes:
            progress, optimizer = self.module.optimizer_state()
            self.files.save_snapshot(
                progress, {**named("arg", arg_params), **named("optimizer", optimizer)},
                per_worker)
        self.saved_at = time.monotonic()
