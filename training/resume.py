"""How a run begins: its lock, and a snapshot to go on from, or the earlier run moved aside."""
import contextlib
import hashlib
import json
import logging
import math
import os

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from network.shape_check import check_shapes
from training.log import IN_FILE
from training.run_files import RunFiles
from training.run_folder import locked, move_aside, snapshot_files
from training.snapshot import RunRecord, load_snapshot

logger = logging.getLogger("train_multilabel")

# Flags that may differ in a resumed run: they change where and how fast, not what is trained.
# Images and lists may have moved; the lists' content is compared.
FREE_ON_RESUME = {
    "data_train", "data_val", "image_train", "image_val", "labels", "model", "epoch", "gpus",
    "data_nthreads", "disp_batches", "num_epoch", "early_stop", "monitor_metric", "test_io",
    "save_result", "save_name", "save_period", "keep", "checkpoint_minutes", "resume",
    "resume_anyway", "described", "warm_head_epochs", "warm_head_mirror", "warm_head_memory",
    "num_examples", "num_classes"}
# Where one of these differs (--resume-anyway), the optimizer keeps nothing of what it had.
OPTIMIZER_SETTINGS = ("--optimizer", "--mom", "--freeze", "--dtype")
WHAT_TO_DO = "without --resume the run starts anew"


@contextlib.contextmanager
def open_run(args, network, data, metrics, workers):
    """Lock the folder and name of a run: its RunFiles, and the snapshot that it goes on from.

    Without a snapshot (None) the run starts anew, and an earlier run's files are moved aside.
    """
    prefix = os.path.join(args.save_result, args.save_name)
    writes = workers.rank == 0
    settings = resume_settings(args, network.symbol, data, workers)
    with locked(prefix) if writes else contextlib.nullcontext():
        resume = args.resume or args.resume_anyway
        snapshot = load_snapshot(prefix, workers) if resume else None
        if snapshot:
            snapshot = check_snapshot(snapshot, args, network, data, settings, metrics)
        elif resume:
            logger.log(logging.WARNING if writes else logging.INFO,
                       "--resume: there is no %s: starting anew", snapshot_files(prefix)[0])
        record = snapshot.record if snapshot else RunRecord()
        files = RunFiles(args, network.symbol, settings, record, writes)
        if snapshot and files.finished:
            logger.info("--resume: %s has ended this run already, after epoch %d: nothing is left "
                        "to do", "--early-stop" if files.stopped_early else "--num-epoch",
                        record.epoch)
        else:
            changed, groups = args.described
            for title, names in groups.items():
                logger.info("%s: %s", title, " ".join(f"{n}={getattr(args, n)}" for n in names),
                            extra=IN_FILE)
            logger.info(changed)
            logger.info("%d training images, %d classes, %.2f labels per image",
                        data.train_lst.num_rows, data.train.num_classes,
                        data.train_lst.positives.sum() / data.train_lst.num_rows)
            if data.why_shape:
                logger.info(data.why_shape)
            if snapshot:
                logger.info("Resuming at %s", record.position)
        earlier = move_aside(prefix) if writes and not snapshot else None
        if earlier:
            logger.info("The files of the earlier run of this name are in %s now", earlier)
        yield files, snapshot


def resume_settings(args, symbol, data, workers):
    """What a resumed run must share with its beginning, by the names to show."""
    flags = {f"--{key.replace('_', '-')}": value for key, value in vars(args).items()
             if key not in FREE_ON_RESUME}
    if args.lr_schedule == "cosine":
        flags["--num-epoch"] = args.num_epoch
    flags["the number of workers"] = workers.count
    flags["the number of classes"] = data.train.num_classes
    names = " ".join(symbol.list_arguments() + symbol.list_auxiliary_states())
    flags["the network's checksum"] = hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
    flags["the content of --data-train"] = data.train_lst.checksum
    flags["the content of --data-val"] = data.val_lst.checksum if data.val_lst else None
    return json.loads(json.dumps(flags))


def check_snapshot(snapshot, args, network, data, settings, metrics):
    """The snapshot, with MXNet's arrays as parameters, if the run can go on from it.

    An InputError names a setting that has changed, or what does not fit the network, the data or
    the metrics.
    """
    changed = [name for name, value in settings.items() if snapshot.settings.get(name) != value]
    if changed and not args.resume_anyway:
        name = changed[0]
        raise InputError(
            f"--resume: {name} was {ascii(snapshot.settings.get(name))[:200]} when the run was "
            f"saved, and is {settings[name]!r} now: the run would change; --resume-anyway goes on "
            "all the same")
    if set(changed) & set(OPTIMIZER_SETTINGS):
        snapshot = snapshot._replace(optimizer=None)
    record = snapshot.record
    if record.best and record.best["metric"] != args.monitor_metric:
        logger.warning("--monitor-metric was %s and is %s now: the best is chosen anew",
                       record.best["metric"], args.monitor_metric)
        record.best, record.since_best = None, 0
    _check_metrics(snapshot, data.train, metrics)
    _check_parameters(snapshot, network.symbol)
    check_shapes(network.symbol, snapshot.arg_params, snapshot.aux_params, args.image_shape,
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
            raise InputError(f"{snapshot.source}: {problem} the parameter {ascii(name)[:100]}; "
                             f"{WHAT_TO_DO}")
        for name, value in arrays.items():
            if value.dtype not in (np.float32, np.float16):
                raise InputError(f"{snapshot.source}: {name} is of type {value.dtype}; "
                                 f"{WHAT_TO_DO}")


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
        raise InputError(f"{snapshot.source}: the metrics do not fit: {ascii(str(error))[:200]}; "
                         f"{WHAT_TO_DO}") from None
    finally:
        metrics.reset()
