"""What goes on around Module.fit: checkpoints, snapshots, history, signals, early stopping.

A TrainingRun hands Module.fit its callbacks. Everything that it writes is whole at any moment.
"""
import logging
import math
import os
import signal
import sys
import time

import numpy as np
from tqdm import tqdm

from common.cli import InputError
from common.mx_compat import mx
from common.text import LineFormatter
from evaluation.evaluation import best_and_worst
from evaluation.history import write_history
from network import checkpoint
from training.snapshot import optimizer_of, own_arrays, save_snapshot, updater_of

logger = logging.getLogger("train_multilabel")


class Stopped(Exception):
    """The run ends before its last epoch, with this exit status."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class TrainingRun:
    """The callbacks of one run, and what they remember.

    Parameters
    ----------
    args : argparse.Namespace
        Of train_multilabel.py.
    prefix : str
        Of the checkpoints.
    net : mx.sym.Symbol
        As it goes into the checkpoints.
    batches : int
        Batches in an epoch.
    metrics : mx.metric.CompositeEvalMetric
        Of training.
    settings : dict of str to object
        What a resumed run must share; saved in every snapshot.
    images : int
        Rows of all workers in an epoch.
    workers : Workers
        All of them come to the same decisions at the same batch; rank 0 writes the files.
    """

    def __init__(self, args, prefix, net, batches, metrics, settings, images, workers):
        self.args, self.prefix, self.net, self.batches = args, prefix, net, batches
        self.metrics, self.settings, self.images = metrics, settings, images
        self.workers = workers
        self.saves = workers.rank == 0
        self.module = None
        self.has_validation = args.data_val is not None
        self.begin_epoch = self.begin_batch = 0
        self.best = None
        self.class_precision = None  # of the last validation
        self.since_best = 0
        self.history = []
        self.checkpoints = []
        self.signal = None  # what this process got
        self.stopping = None  # what all workers know of; they stop for it together
        self.seconds_before = self.training_seconds = 0.0
        self.epoch_started = self.saved_at = time.monotonic()
        self.draws = any(op in net.tojson() for op in ('"Dropout"', '"_random'))
        self.bar = None

    @property
    def history_file(self):
        """Where history.csv stands."""
        return os.path.join(os.path.dirname(self.prefix), "history.csv")

    def restore(self, snapshot):
        """Go on from a snapshot.

        Raises
        ------
        InputError
            When a setting that the run depends on has changed; it names the first such.
        """
        state = snapshot.state
        for name, value in self.settings.items():
            before = state["settings"].get(name)
            if before != value and not self.args.resume_anyway:
                raise InputError(
                    f"--resume: {name} was {before} when the run was saved, and is {value} now: "
                    "the run would change; --resume-anyway goes on all the same")
        self.begin_epoch, self.begin_batch = state["epoch"], state["batch"]
        self.best, self.since_best = state["best"], state["since_best"]
        if self.best and self.best["metric"] != self.args.monitor_metric:
            logger.warning("--monitor-metric was %s and is %s now: the best is chosen anew",
                           self.best["metric"], self.args.monitor_metric)
            self.best, self.since_best = None, 0
        self.checkpoints = state["checkpoints"]
        self.seconds_before = self.training_seconds = state["seconds"]
        self.history = state["history"]
        for metric in self.metrics.metrics:
            metric.start_from({key[len(metric.name) + 1:]: value
                               for key, value in snapshot.measures.items()
                               if key.startswith(metric.name + ":")})

    def catch_signals(self):
        """From now on SIGTERM and Ctrl-C let the batch end, save, and then stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number, frame):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once

    @property
    def stopped_early(self):
        """Whether --early-stop has ended the run already."""
        return bool(self.args.early_stop and self.since_best >= self.args.early_stop)

    def on_warm_head_batch(self, _):
        """Batch callback of the warm head, of which nothing is saved before its end."""
        if self.signal:
            logger.info("Stopped by %s in the warm head, of which nothing is saved: the same "
                        "command starts it anew", signal.Signals(self.signal).name)
            raise Stopped(128 + self.signal)

    def seed_batch(self, epoch, batch):
        """Make dropout the batch's own, so that a resumed run draws the same."""
        if self.draws:
            place = ((self.args.seed * 1000003 + epoch) * 1000003 + batch) * 1000003
            mx.random.seed((place + self.workers.rank) % 2 ** 31)

    def on_batch(self, param):
        """Batch callback: look after the loss, the clock, and signals."""
        epoch, batch = param.epoch, self._batch(param)
        minutes = (time.monotonic() - self.saved_at) / 60
        due = self.args.checkpoint_minutes and minutes >= self.args.checkpoint_minutes
        loss = self.metrics.metrics[0].global_sum_metric
        if self.workers.in_step:
            due, loss = self._agree(due, loss)
        if not math.isfinite(loss):
            raise InputError(
                f"epoch {epoch}, batch {batch}: the loss is {loss}; {self._what_is_kept()}")
        self._move_bar(epoch, batch)
        if batch + 1 == self.batches:
            return
        if self.workers.in_step:
            if self.stopping or due:
                self.snapshot(epoch, batch + 1)
            self._stop_if_asked(epoch, batch + 1)
        elif self.signal:
            logger.info("Stopped by %s: --resume goes on after the last whole epoch",
                        signal.Signals(self.signal).name)
            raise Stopped(128 + self.signal)
        self.seed_batch(epoch, batch + 1)

    def after_warm_head(self, arg_params, aux_params, validation):
        """Checkpoint 0: the pretrained backbone with the warm head."""
        self._save(0, arg_params, aux_params)
        self._judge(0, validation, arg_params, aux_params)
        if self.saves:
            self._snapshot(0, 0, arg_params, b"", [own_arrays(aux_params, {})])

    def say_what_was_reached(self, support):
        """Log the last validation's classes, where the checkpoints lie, and the best's measure.

        Parameters
        ----------
        support : np.ndarray, (classes,)
            Present labels of validation; None without it.
        """
        if not self.saves:
            return
        if self.class_precision is not None and len(self.class_precision):
            names = checkpoint.get_attributes(self.net).get("class_names")
            names = names or [str(number) for number in range(len(support))]
            for line in best_and_worst(names, self.class_precision, support):
                logger.info("%s", line)
        if self.best:
            logger.info("Best: checkpoint %d, validation %s %.4f, kept as %s-best (--model "
                        "%s-best --epoch 0)", self.best["number"], self.args.monitor_metric,
                        self.best["value"], self.prefix, self.prefix)
        elif self.checkpoints:
            logger.info("Done: %s-%04d.params", self.prefix, self.checkpoints[-1])

    def on_epoch(self, epoch, symbol, arg_params, aux_params):
        """Epoch callback: save a checkpoint, and close the epoch where nothing validates it."""
        self.training_seconds = self.seconds_before + time.monotonic() - self.epoch_started
        if not self.workers.in_step:
            # Once all are here, nobody changes the servers' parameters any more.
            self.workers.sum([])
            self.module.pull_params()
            arg_params, aux_params = self.module.get_params()
        aux_params = self.workers.mean(aux_params)
        self.module.set_params(arg_params, aux_params)
        self._agree()
        self._check_finite({**arg_params, **aux_params}, epoch)
        last = epoch + 1 == self.args.num_epoch
        if last or (epoch + 1) % self.args.save_period == 0:
            self._save(epoch + 1, arg_params, aux_params)
        if not self.has_validation:
            self.close_epoch(epoch, {})
        elif self.stopping:
            self.snapshot(epoch, self.batches)
            self._stop_if_asked(epoch, self.batches)

    def on_validation_batch(self, param):
        """Batch callback of validation: stop where asked to; the epoch's training is saved."""
        self._agree()
        if self.stopping:
            self.snapshot(param.epoch, self.batches)
            self._stop_if_asked(param.epoch, self.batches)

    def close_epoch(self, epoch, validation):
        """Write history and snapshot, keep the best, and stop where nothing improves any more.

        Parameters
        ----------
        epoch : int
        validation : dict of str to float
            Its measures by name; empty without validation.
        """
        now = time.monotonic()
        seconds = self.seconds_before + now - self.epoch_started
        row = {"epoch": epoch, "seconds": seconds,
               "images_per_second": self.images / max(self.training_seconds, 1e-9),
               "learning_rate": self._learning_rate(epoch)}
        row.update((f"train-{k}", v) for k, v in self.metrics.get_global_name_value())
        row.update((f"val-{k}", v) for k, v in validation.items())
        self.history.append(row)
        if self.saves:
            write_history(self.history_file, self.history)
        stop = self._judge(epoch + 1, validation, *self.module.get_params())
        self.seconds_before, self.epoch_started = 0.0, now
        self._agree()
        self.snapshot(epoch + 1, 0)
        if stop or (self.stopping and epoch + 1 < self.args.num_epoch):
            # Module.fit would have logged these after the callback.
            for name, value in validation.items():
                logger.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
        if stop:
            raise Stopped(0)
        if epoch + 1 < self.args.num_epoch:
            self._stop_if_asked(epoch + 1, 0)
            self.seed_batch(epoch + 1, 0)
        self.begin_batch = 0

    def snapshot(self, epoch, batch):
        """Save everything at this position: `batch` batches of `epoch` are done."""
        arg_params, aux_params = self.module.get_params()
        own = own_arrays(aux_params, {
            f"{metric.name}:{key}": np.asarray(value)
            for metric in self.metrics.metrics if batch
            for key, value in metric.state().items()})
        # Between epochs all workers have the same.
        own = self.workers.gather(own) if batch else [own]
        if self.saves:
            self._snapshot(epoch, batch, arg_params, optimizer_of(self.module), own)
        self.saved_at = time.monotonic()

    def _agree(self, due=False, loss=0.0):
        """Whether rank 0 finds a snapshot due, and the loss over all; note all signals."""
        received = [self.signal == number for number in (signal.SIGTERM, signal.SIGINT)]
        due, terminate, interrupt, loss = self.workers.sum(
            [due and self.workers.rank == 0, *received, loss])
        if terminate or interrupt:
            self.stopping = signal.SIGTERM if terminate else signal.SIGINT
        return due, loss

    def _learning_rate(self, epoch):
        updater = updater_of(self.module)
        if updater:
            return updater.optimizer.learning_rate
        # The optimizer that counts is on the servers, and counts every worker's batches.
        schedule = self.module._optimizer.lr_scheduler
        return schedule((epoch + 1) * self.batches * self.workers.count)

    def _snapshot(self, epoch, batch, arg_params, optimizer, own):
        self._check_finite(arg_params, epoch)
        state = {"epoch": epoch, "batch": batch, "settings": self.settings, "best": self.best,
                 "since_best": self.since_best, "checkpoints": self.checkpoints,
                 "history": self.history,
                 "seconds": self.seconds_before + time.monotonic() - self.epoch_started}
        save_snapshot(self.prefix, arg_params, optimizer, state, own)

    def _batch(self, param):
        return param.nbatch + (self.begin_batch if param.epoch == self.begin_epoch else 0)

    def _judge(self, number, validation, arg_params, aux_params):
        """Keep checkpoint `number` if it is the best yet; whether it is time to stop."""
        monitored = self.args.monitor_metric
        if monitored not in validation or math.isnan(validation[monitored]):
            return False
        value = validation[monitored]
        sign = -1 if monitored == "loss" else 1
        if self.best is None or sign * value > sign * self.best["value"]:
            self.best = {"number": number, "value": value, "metric": monitored}
            self.since_best = 0
            if self.saves:
                checkpoint.save(f"{self.prefix}-best", 0, self.net, arg_params, aux_params)
            return False
        self.since_best += 1
        if self.stopped_early:
            logger.info("%s has not been better than checkpoint %d's for %d epochs: stopping",
                        monitored, self.best["number"], self.since_best)
        return self.stopped_early

    def _save(self, number, arg_params, aux_params):
        if not self.saves:
            return
        checkpoint.save(self.prefix, number, self.net, arg_params, aux_params)
        logger.info('Saved checkpoint to "%s-%04d.params"', self.prefix, number)
        self.checkpoints = [n for n in self.checkpoints if n != number] + [number]
        while self.args.keep and len(self.checkpoints) > self.args.keep:
            name = f"{self.prefix}-{self.checkpoints.pop(0):04d}.params"
            if os.path.exists(name):
                os.unlink(name)

    def _check_finite(self, arg_params, epoch):
        for name, value in arg_params.items():
            if not np.isfinite(value.asnumpy()).all():
                raise InputError(
                    f"epoch {epoch}: {name} is no longer finite; {self._what_is_kept()}")

    def _what_is_kept(self):
        kept = ("the last good checkpoint is kept" if self.checkpoints
                else "there is no checkpoint yet")
        return f"{kept}. Try a smaller --lr, --warmup-epochs 1 or --clip-gradient 1"

    def _stop_if_asked(self, epoch, batch):
        if self.stopping:
            logger.info("Stopped by %s, and saved at epoch %d, batch %d: the same command with "
                        "--resume goes on there", self.stopping.name, epoch, batch)
            raise Stopped(128 + self.stopping)

    def _move_bar(self, epoch, batch):
        if self.bar is None:
            self.bar = tqdm(total=self.batches, desc=f"Epoch[{epoch}]", unit="batch",
                            leave=False, disable=None, initial=batch)
        self.bar.update(batch + 1 - self.bar.n)
        if batch + 1 == self.batches:
            self.bar.close()
            self.bar = None


class TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar."""

    def emit(self, record):
        """Write one line to standard error."""
        tqdm.write(self.format(record), file=sys.stderr)


def log_to(folder, rank=0):
    """Log to standard error and, appending, to train.log in the folder, in MXNet's format.

    Ranks above 0 only warn, and write no file.

    Raises
    ------
    InputError
        When the folder or the file cannot be written.
    """
    handlers = [TqdmHandler()]
    try:
        os.makedirs(folder, exist_ok=True)
        if rank == 0:
            handlers.append(logging.FileHandler(os.path.join(folder, "train.log")))
    except OSError as error:
        raise InputError(f"--save-result: {folder}: {error.strerror}") from None
    for handler in handlers:
        handler.setFormatter(LineFormatter("%(asctime)s - %(message)s"))
    logging.raiseExceptions = False  # a full disk is told once, by what could not be saved
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, handlers=handlers,
                        force=True)
