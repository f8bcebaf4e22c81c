"""One run of training: where it begins, what is saved between batches, and when it stops."""
import contextlib
import logging
import math
import os
import signal
import time

from common.mx_compat import mx
from common.progress import Progress
from common.text import counted
from training.log import IN_FILE
from training.module import Uninterrupted
from training.run_files import RunFiles, RunRecord, locked, move_aside, with_prefix

logger = logging.getLogger("train_multilabel")

# The first of them wins where several workers got different ones.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def open_run(settings, symbol, lists, data, metrics, workers):
    """Lock the folder and name of a run, and find out where it begins: its Run.

    `metrics` are training's.
    """
    flags, prefix, is_writer = settings.flags, settings.prefix, workers.rank == 0
    shared = settings.shared_on_resume(symbol, lists)
    with locked(prefix) if is_writer else contextlib.nullcontext():
        snapshot = None
        if flags.resume or flags.resume_anyway:
            from training.resuming import check_snapshot, load_snapshot  # most runs start anew
            snapshot = load_snapshot(prefix, workers)
            if snapshot:
                snapshot = check_snapshot(snapshot, settings, shared, symbol, data.train, metrics)
            elif is_writer:
                logger.warning("--resume: there is no %s-resume.npz: starting anew", prefix)
        record = snapshot.record if snapshot else RunRecord()
        validation = None
        if lists.val:
            from training.validation import Validation
            validation = Validation(lists.val, flags.threshold_objective)
        files = RunFiles(settings, symbol, validation, shared, record, is_writer)
        run = Run(settings, lists, data, files, snapshot, workers)
        if run.is_over:
            logger.info("--resume: %s has ended this run already, after epoch %d: nothing is left "
                        "to do", "--early-stop" if files.stopped_early else "--num-epoch",
                        record.epoch)
            if not os.path.exists(f"{prefix}-result.json"):  # it was killed just before
                files.write_summary()
        elif is_writer:
            _log_beginning(settings, lists.train, snapshot)
            if not snapshot:
                move_aside(prefix)
            with contextlib.suppress(FileNotFoundError):  # a finished run with further epochs
                os.unlink(f"{prefix}-result.json")
        yield run


def _log_beginning(settings, lst, snapshot):
    """Log the flags, what the list has, what was chosen and why, and where the run begins."""
    flags, (changed, groups) = settings.resolved_flags, settings.flags.described
    for title, names in groups.items():
        logger.info("%s: %s", title, " ".join(f"{name}={flags[name]}" for name in names),
                    extra=IN_FILE)
    logger.info(changed)
    logger.info("%s, %s, %.2f labels per image", counted(lst.num_rows, "training image"),
                counted(lst.num_classes, "class", "classes"), lst.positives.sum() / lst.num_rows)
    for note in settings.notes:
        logger.info(note)
    for warning in settings.warnings:
        logger.warning("warning: %s", warning)
    if snapshot:
        logger.info("Resuming at %s", snapshot.record.position)


class Run(Uninterrupted):
    """One run of training, as FineTuningModule.fit asks it what to do between batches.

    `files` (RunFiles) has the record of where the run is, `snapshot` is what it goes on from, or
    None, `stops` has the requests to stop it, by which all methods may raise Stopped.
    """

    def __init__(self, settings, lists, data, files, snapshot, workers):
        self.flags, self.lists, self.workers = settings.flags, lists, workers
        self.num_batches = data.train.num_batches
        self.num_validation_batches = data.val.num_batches if data.val else 0
        self.files, self.record, self.snapshot = files, files.record, snapshot
        self.stops = StopRequests(workers)
        self.began = time.monotonic()
        self._progress = None

    @property
    def is_over(self):
        """Whether the run that is to be resumed has ended already."""
        return bool(self.snapshot) and self.files.finished

    @property
    def epoch(self):
        """The epoch to begin with."""
        return self.record.epoch

    def begin(self, module, train_data):
        """Take over the snapshot's optimizer, and go to the next batch of training."""
        self._saved_at = time.monotonic()
        # The first epoch may have begun before the run was resumed.
        self._epoch_began = self._saved_at - self.record.seconds
        self._training_seconds = self.record.seconds  # without the epoch's validation
        if self.snapshot:
            from training.resuming import load_optimizer_state  # most runs start anew
            epoch, batch = self.record.epoch, self.record.batch
            load_optimizer_state(module, self.snapshot)
            train_data.seek(*((epoch + 1, 0) if batch == self.num_batches else (epoch, batch)))

    def begin_epoch(self, metrics):
        """Take over the snapshot's metrics in its epoch; False if only validation is left of it."""
        if self.record.batch:
            metrics.load_state(self.snapshot.metrics)
        return self.record.batch < self.num_batches

    def before_batch(self):
        """Make random numbers (of dropout, of the optimizer) this batch's own."""
        place = (self.flags.seed * 1000003 + self.record.epoch) * 1000003 + self.record.batch
        mx.random.seed((place * 1000003 + self.workers.rank) % 2 ** 31)

    def after_batch(self, module, metrics):
        record, minutes = self.record, (time.monotonic() - self._saved_at) / 60
        number, snapshot_due = None, 0 < self.flags.checkpoint_minutes <= minutes
        loss = metrics.metrics[0].global_sum_metric
        if self.workers.synchronous:
            number, snapshot_due, loss = self.stops.exchange(snapshot_due, loss)
        if not math.isfinite(loss):
            raise self.files.not_finite(f"the loss is {loss}")
        record.batch += 1
        mean_loss = dict(metrics.metrics[0].get_global_name_value())["loss"]
        self._show_progress("Epoch", record.batch, self.num_batches, f"loss {mean_loss:.4g}")
        if record.batch == self.num_batches:
            return  # `after_training` saves
        if not self.workers.synchronous:
            self.stops.stop_unsaved(": --resume goes on after the last whole epoch")
        else:
            self._save_if_asked(module, metrics, number, snapshot_due)

    def after_training(self, module, metrics):
        self._training_seconds = self._seconds()
        self.workers.merge_params(module)
        arg_params, aux_params = module.get_params()
        self.files.check_finite({**arg_params, **aux_params})
        self.files.save_checkpoint(self.record.epoch + 1, arg_params, aux_params)
        if self.lists.val:
            self._save_if_asked(module, metrics, self.stops.exchange()[0])

    def after_validation_batch(self, module, metrics, nbatch):
        self._show_progress("Validation", nbatch + 1, self.num_validation_batches)
        self._save_if_asked(module, metrics, self.stops.exchange()[0])

    def after_epoch(self, module, metrics, validation_metrics):
        """Write history and snapshot, keep the best, and stop where nothing improves any more."""
        record, scores, samples = self.record, {}, {}
        if validation_metrics:
            scores = dict(validation_metrics.get_global_name_value())
            samples = validation_metrics.samples()
            if self.files.is_writer:
                self.files.validation.log_baselines(record.epoch, scores)
        seconds = self._seconds()
        self._epoch_began = time.monotonic()  # what is written now counts for the next one
        updates = (record.epoch + 1) * self.num_batches * self.workers.count
        self.files.close_epoch(record.epoch + 1, {
            "seconds": seconds,
            "images_per_second": self.lists.train.num_rows / max(self._training_seconds, 1e-9),
            "learning_rate": module.learning_rate(updates)},
            dict(metrics.get_global_name_value()), scores, samples, module.get_params())
        record.epoch, record.batch = record.epoch + 1, 0
        number, _, _ = self.stops.exchange()
        is_over = self.files.finished
        self._save_if_asked(module, metrics, None if is_over else number, snapshot_due=True)
        if self.files.stopped_early:
            logger.info("%s has not been better than epoch %d's for %d epochs: stopping",
                        self.flags.monitor_metric, record.best["number"], record.since_best)
        return is_over

    def _seconds(self):
        return time.monotonic() - self._epoch_began

    def _show_progress(self, what, done, total, note=""):
        if self._progress is None:
            self._progress = Progress(f"{what} {self.record.epoch + 1} of {self.flags.num_epoch}",
                                      total, "batches", done - 1)
        self._progress.update(1, note)
        if done == total:
            self._progress.close()
            self._progress = None

    def _save_if_asked(self, module, metrics, number, snapshot_due=False):
        """Save a snapshot where one is due or a worker got signal `number`, and stop for that."""
        if snapshot_due or number:
            self._save_snapshot(module, metrics)
        if number:
            self.stops.stop(number, f", and saved at {self.record.position}: the same command "
                                    "with --resume goes on there")

    def _save_snapshot(self, module, metrics):
        record = self.record
        record.seconds = self._seconds()
        arg_params, aux_params = module.get_params()
        self.files.check_finite(arg_params)
        own = {**with_prefix("aux", aux_params),
               **(with_prefix("metric", metrics.state()) if record.batch else {})}
        # Between epochs all workers have the same.
        per_worker = self.workers.gather(own) if record.batch else [own]
        counters, optimizer = module.optimizer_state()
        self.files.save_snapshot(
            counters, {**with_prefix("arg", arg_params), **with_prefix("optimizer", optimizer)},
            per_worker)
        self._saved_at = time.monotonic()


class Stopped(SystemExit):
    """A signal ends the run, with the exit status `code`."""


class StopRequests:
    """The signals that the workers got; all of them stop at the same batch.

    From its construction on, a signal is noted, to let the batch end and be saved. A second SIGTERM
    or Ctrl-C ends the process at once. SIGHUP is not noted where it was ignored before (nohup).
    """

    def __init__(self, workers):
        self.workers = workers
        self.received = None  # by this process
        for number in SIGNALS:
            if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):
                signal.signal(number, self._note)

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        for either in (signal.SIGTERM, signal.SIGINT):
            signal.signal(either, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closing terminal sends several
        if self.workers.rank == 0:
            # Not by way of sys.stderr, which the signal may have found in the middle of a line.
            with contextlib.suppress(OSError):  # the terminal may be closed
                os.write(2, f"\n{self.received.name}: finishing this batch, then saving; once more "
                            "stops now, without saving\n".encode())

    def exchange(self, snapshot_due=False, loss=0.0):
        """Of all workers together: a signal or None, rank 0's `snapshot_due`, the losses' sum."""
        received = [self.received == number for number in SIGNALS]
        snapshot_due, *received, loss = self.workers.sum(
            [snapshot_due and self.workers.rank == 0, *received, loss])
        number = next((number for number, count in zip(SIGNALS, received) if count), None)
        return number, snapshot_due, loss

    def stop(self, number, where):
        """Log by which signal and `where` the run stops, and raise Stopped."""
        logger.info("Stopped by %s%s", number.name, where)
        raise Stopped(128 + number)

    def stop_unsaved(self, where):
        """Stop if this process got a signal; nothing is saved, and `where` says why."""
        if self.received:
            self.stop(self.received, where)
