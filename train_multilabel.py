"""Fine-tune a pretrained MXNet network to multi-label classification.

    python train_multilabel.py --model pretrained/efficientnet_lite0 --epoch 0 \\
        --data-train demo/data/train.lst --image-train demo/data/images \\
        --data-val demo/data/val.lst --image-val demo/data/images \\
        --labels demo/data/labels.txt --save-result result --save-name demo --num-epoch 2
    python train_multilabel.py --help
"""
import logging
import os
import time

import numpy as np
from tqdm import tqdm

from common.cli import InputError, run
from common.files import remove_unfinished
from common.mx_compat import choose_devices, mx
from common.version import VERSION
from lst_iter import LstIter, augment_from_args
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision
from network import checkpoint
from network.fine_tune import (
    frozen_parameters,
    get_fine_tune_model,
    load_pretrained,
    training_symbol,
)
from network.shape_check import check_shapes
from reading.class_names import read_class_names
from training.merged_metrics import MergedMetrics
from training.optimization import choose_loss, optimizer_params
from training.snapshot import (
    ResumableModule,
    is_run_file,
    load_snapshot,
    snapshot_files,
    what_must_stay,
)
from training.train_flags import parse_args
from training.training_run import Stopped, TrainingRun, log_to
from training.warm_head import train_head
from training.worker_lists import WorkersList
from training.worker_process import create_kvstore, exit_worker_on_error
from training.workers import Workers

logger = logging.getLogger("train_multilabel")

# Training's mAP is that of the epoch's latest samples, to bound its memory.
TRAINING_MAP_SAMPLES = 20000


def open_iterator(args, images, train):
    """A training or a validation iterator over a WorkersList."""
    return LstIter(
        batch_size=args.batch_size, data_shape=args.image_shape, path_imglist=images.lst,
        path_root=images.folder, shuffle=train, part_index=images.readers.rank,
        num_parts=images.readers.count, seed=args.seed, num_threads=args.data_nthreads,
        bad_images=args.bad_images, augment=augment_from_args(args, train=train))


def test_io(train):
    """Read one epoch and log how fast that went."""
    start, images = time.time(), 0
    for batch in tqdm(train, total=train.num_batches, unit="batch", disable=None):
        images += train.batch_size - batch.pad
    seconds = time.time() - start
    logger.info("Read %d images in %.1f s: %.0f samples/sec", images, seconds, images / seconds)
    return 0


def fit(args, net, arg_params, aux_params, train, val, val_lst, kv, state, snapshot, devices,
        frozen, optimizer):
    """Module.fit with everything around it."""
    compression = {"type": args.gc_type, "threshold": args.gc_threshold}
    module = ResumableModule(
        training_symbol(net, frozen, args.head_lr_mult), context=devices, logger=logger,
        label_names=["softmax_label"], fixed_param_names=frozen,
        compression_params=compression if args.gc_type != "none" else None)
    module.snapshot_optimizer = snapshot and snapshot.optimizer
    state.module = module
    validation = measures(state.metrics.metrics[0].options, state.workers)

    def validated(param):
        absent, present = val_lst.negatives.sum(), val_lst.positives.sum()
        logger.info("Epoch[%d] answering 'no' to everything would score acc %.4f", param.epoch,
                    absent / max(absent + present, 1))
        scores = dict(validation.get_global_name_value())
        state.class_precision = validation.class_precision()
        state.close_epoch(param.epoch, scores)

    params = {"arg_params": arg_params, "aux_params": aux_params, "allow_missing": True,
              "initializer": mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)}
    optimizer = {"kvstore": kv if "dist" in kv.type else args.kv_store,
                 "optimizer": args.optimizer, "optimizer_params": optimizer}
    validate = {"eval_end_callback": validated,
                "eval_batch_end_callback": state.on_validation_batch}
    if state.begin_batch == train.num_batches and not val:
        state.begin_epoch, state.begin_batch = state.begin_epoch + 1, 0
    elif state.begin_batch == train.num_batches:
        # Stopped between an epoch's training and the end of its validation.
        module.bind(train.provide_data, train.provide_label)
        module.init_params(**params)
        module.init_optimizer(**optimizer)
        state.metrics.reset()
        module.score(val, validation, epoch=state.begin_epoch, score_end_callback=validated,
                     batch_end_callback=state.on_validation_batch)
        for name, value in validation.get_name_value():
            logger.info("Epoch[%d] Validation-%s=%f", state.begin_epoch, name, value)
        state.begin_epoch, state.begin_batch = state.begin_epoch + 1, 0
    train.seek(state.begin_epoch, state.begin_batch)
    mx.random.seed(args.seed)
    np.random.seed(args.seed)
    state.seed_batch(state.begin_epoch, state.begin_batch)
    state.epoch_started = time.monotonic()
    module.fit(
        train, eval_data=val, eval_metric=state.metrics, validation_metric=validation,
        batch_end_callback=[
            mx.callback.Speedometer(args.batch_size * state.workers.count, args.disp_batches),
            state.on_batch],
        epoch_end_callback=state.on_epoch, **validate, **optimizer, **params,
        begin_epoch=state.begin_epoch, num_epoch=args.num_epoch)


def measures(loss, workers, latest=None):
    """Loss, accuracy and mAP over all workers, for the operator's options.

    With `latest` (samples that mAP keeps) for training, without for validation.
    """
    kept = latest and -(-latest // workers.count)
    return MergedMetrics([Loss(loss), Accuracy(), MeanAveragePrecision(latest=kept)], workers,
                         local=latest is not None)


@exit_worker_on_error
def main(argv=None):
    """Train, and log to standard error and to train.log what came of it."""
    args = parse_args(argv)
    devices = choose_devices(args.gpus)
    if args.dtype == "float16" and devices[0].device_type == "cpu":
        raise InputError("--dtype float16 needs a GPU: MXNet has no float16 convolution for CPUs")
    if args.gc_type != "none" and "dist" not in args.kv_store and len(devices) == 1:
        raise InputError(f"--gc-type {args.gc_type} compresses what several devices or machines "
                         "send each other, but this run has one device")
    kv = create_kvstore(args.kv_store)
    with Workers(kv) as workers:
        try:
            return train_model(args, devices, kv, workers)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "Failed to allocate" not in str(error):
                raise
            raise InputError("out of memory: a smaller --batch-size or --image-shape takes "
                             "less") from None


def train_model(args, devices, kv, workers):
    """What `main` does, as one of the workers; the exit status."""
    sym, arg_params, aux_params = load_pretrained(args)
    train_lst = WorkersList(args.data_train, args.image_train, workers, args.num_classes,
                            args.label_format)
    # make_lst.py shard fills the shorter lists up with a row that does not count.
    fillers = workers.count - 1 if train_lst.lst.path != args.data_train else 0
    if (args.num_examples is not None
            and not 0 <= train_lst.num_rows - args.num_examples <= fillers):
        raise InputError(f"{args.data_train} has {train_lst.num_rows} rows, but --num-examples "
                         f"is {args.num_examples}")
    train = open_iterator(args, train_lst, train=True)
    val_lst = val = None
    if args.data_val:
        val_lst = WorkersList(args.data_val, args.image_val or args.image_train, workers,
                              train.num_classes, args.label_format)
        val = open_iterator(args, val_lst, train=False)
    log_to(args.save_result, workers.rank)
    if args.test_io:
        return test_io(train)

    loss = choose_loss(args, train_lst)
    net, arg_params = get_fine_tune_model(
        sym, arg_params, train.num_classes, args.layer_before_fullc, args.dtype, **loss)
    reading = augment_from_args(args, train=False)
    class_names = args.labels and read_class_names(args.labels, train.num_classes)
    # Thresholds of an earlier fine-tuning are none of this one's.
    net = checkpoint.set_attributes(
        net, class_names=class_names, image_shape=args.image_shape, resize=reading.resize,
        fit=reading.fit, background=reading.background, thresholds=None, thresholds_epoch=None,
        version=VERSION)
    aux_params = {k: aux_params[k] for k in net.list_auxiliary_states() if k in aux_params}
    check_shapes(net, arg_params, aux_params, args.image_shape, args.model)

    prefix = os.path.join(args.save_result, args.save_name)
    state = TrainingRun(
        args, prefix, net, train.num_batches, measures(loss, workers, TRAINING_MAP_SAMPLES),
        what_must_stay(args, net, train_lst, val_lst, workers), train_lst.num_rows, workers)
    snapshot = None
    if state.saves:
        remove_unfinished(args.save_result, lambda name: is_run_file(name, args.save_name))
    if args.resume or args.resume_anyway:
        snapshot = load_snapshot(prefix, workers)
        if not snapshot:
            logger.log(logging.INFO if workers.rank else logging.WARNING,
                       "--resume: there is no %s: starting anew", snapshot_files(prefix)[0])
    logger.info(" ".join(f"{k}={v}" for k, v in sorted(vars(args).items())))
    logger.info("%d training images, %d classes, %.2f labels an image", train_lst.num_rows,
                train.num_classes, train_lst.positives.sum() / train_lst.num_rows)
    if snapshot:
        state.restore(snapshot)
        arg_params, aux_params = snapshot.arg_params, snapshot.aux_params
        check_shapes(net, arg_params, aux_params, args.image_shape, f"{prefix}-resume.npz")
        logger.info("Resuming at epoch %d, batch %d", state.begin_epoch, state.begin_batch)
    elif state.saves and os.path.exists(snapshot_files(prefix)[0]):
        logger.warning("%s holds an earlier run's state: this run starts anew and replaces it "
                       "(--resume would go on from it)", snapshot_files(prefix)[0])
    frozen = frozen_parameters(net, args.freeze)
    # Servers that update for each worker by itself count all workers' batches.
    optimizer = optimizer_params(
        args, train.num_batches * (1 if workers.in_step else workers.count))
    state.catch_signals()
    try:
        if args.warm_head_epochs and not snapshot:
            still = open_iterator(args, train_lst, train=False)
            val_metric = measures(loss, Workers())
            head, scores = train_head(
                net, arg_params, aux_params, still, val, args.warm_head_epochs,
                args.warm_head_mirror, loss, measures(loss, Workers(), TRAINING_MAP_SAMPLES),
                val_metric, devices, args.seed, args.save_result, args.warm_head_memory * 1e6,
                workers, state.on_warm_head_batch)
            arg_params.update(head)
            state.class_precision = val_metric.class_precision()
            state.after_warm_head(arg_params, aux_params, scores)
        if state.stopped_early:
            logger.info("--early-stop has ended this run already")
        elif state.begin_epoch < args.num_epoch:
            fit(args, net, arg_params, aux_params, train, val, val_lst, kv, state, snapshot,
                devices, frozen, optimizer)
    except Stopped as stopped:
        if stopped.status:
            return stopped.status
    state.say_what_was_reached(val_lst and val_lst.positives)
    return 0


if __name__ == "__main__":
    run(main)
