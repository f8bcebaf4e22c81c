"""Fine-tune a pretrained MXNet network to multi-label classification.

    python train_multilabel.py --model pretrained/efficientnet_lite0 --epoch 0 \\
        --data-train demo/data/train.lst --image-train demo/data/images \\
        --data-val demo/data/val.lst --image-val demo/data/images \\
        --labels demo/data/labels.txt --save-result result --save-name demo --num-epoch 2
    python train_multilabel.py --help
"""
import logging
import math
import time
from typing import NamedTuple, Optional

import numpy as np

from common.cli import InputError, run
from common.mx_compat import mx
from common.version import VERSION
from network import checkpoint
from network.attributes import NO_THRESHOLDS
from network.fine_tune import (
    get_fine_tune_model,
    has_feature_map,
    load_pretrained,
    training_symbol,
)
from network.shape_check import check_shapes, error_line
from network.stages import automatic_stages
from reading.class_names import read_class_names
from reading.data_args import augment_from_args
from training.data import Devices, Network, measure_reading, open_data, open_iterator
from training.description import describe_training
from training.estimate import log_estimate
from training.faster_graph import faster_training
from training.fit_callbacks import FitCallbacks
from training.frozen_stages import can_be_stored, on_stored_activations
from training.log import log_to
from training.merged_metrics import training_metrics, validation_metrics
from training.optimization import INITIALIZER, choose_loss, choose_recipe, training_contexts
from training.resumable_module import ResumableModule
from training.resume import open_run
from training.run_files import RunFiles
from training.snapshot import Snapshot, named
from training.stop_requests import Stopped, StopRequests
from training.train_flags import parse_args
from training.warm_head import WarmHead, train_head
from training.worker_process import create_kvstore, exit_worker_on_error
from training.workers import Workers

logger = logging.getLogger("train_multilabel")


class Job(NamedTuple):
    """What the parts of a run share: its files, requests to stop, and where it goes on from."""

    files: RunFiles
    stops: StopRequests
    snapshot: Optional[Snapshot]


@exit_worker_on_error
def main(argv=None):
    """Train, and log to standard error and to train.log what was reached."""
    args = parse_args(argv)
    contexts = training_contexts(args)
    kv = create_kvstore(args.kv_store)
    with Workers(kv) as workers:
        try:
            return train(args, Devices(contexts, kv, workers))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "Failed to allocate" in str(error):
                raise InputError("out of memory: a smaller --batch-size or --image-shape takes "
                                 "less") from None
            if "MXNetError" in str(error):
                raise InputError(f"{args.model}: MXNet cannot train this network: "
                                 f"{error_line(error)}") from None
            raise


def train(args, devices):
    """Data, network, warm head, fine-tuning; as one of the workers. Returns the exit status."""
    workers = devices.workers
    pretrained = Network(*load_pretrained(args))
    data = open_data(args, pretrained, workers)
    log_to(args.save_result, workers.rank, args.disp_batches is not None)
    if args.test_io:
        measure_reading(data.train)
        return 0
    loss = choose_loss(args, data.train_lst)
    network = build_network(args, pretrained, data, loss)
    recipe = choose_recipe(args, network, data, workers)
    metrics = training_metrics(loss, workers), validation_metrics(loss, workers)
    with open_run(args, network, data, metrics[0], workers) as (files, snapshot):
        if snapshot and files.finished:
            return 0
        job = Job(files, StopRequests(workers), snapshot)
        class_precision = None
        try:
            if not snapshot and workers.count == 1:
                log_estimate(args, network, recipe, data, devices, job.stops)
            if args.warm_head_epochs and not snapshot:
                network, class_precision = train_warm_head(args, network, data, loss, devices, job)
            if args.num_epoch:
                fit(args, network, data, recipe, metrics, devices, job)
        except Stopped as stopped:
            if stopped.status:
                return stopped.status
        if args.num_epoch:
            class_precision = metrics[1].class_precision()
        files.log_summary(class_precision, data.val_lst)
    return 0


def build_network(args, pretrained, data, loss):
    """The pretrained network with a new classifier, and what checkpoints say of its input."""
    if args.head == "auto":
        args.head = "attention" if has_feature_map(
            pretrained.symbol, args.layer_before_fullc, args.image_shape) else "linear"
    symbol, arg_params = get_fine_tune_model(
        pretrained.symbol, pretrained.arg_params, data.train.num_classes,
        args.layer_before_fullc, args.dtype,
        args.attention if args.head == "attention" else None, **loss)
    if args.freeze_stages == "auto":
        args.freeze_stages = automatic_stages(symbol, args.image_shape)
    reading = augment_from_args(args, train=False)
    class_names = args.labels and read_class_names(args.labels, data.train.num_classes)
    # Thresholds of an earlier fine-tuning are none of this one's.
    symbol = checkpoint.set_attributes(
        symbol, class_names=class_names, image_shape=args.image_shape, resize=reading.resize,
        fit=reading.fit, full_decode=reading.full_decode, background=reading.background,
        training=describe_training(args, data), version=VERSION, **NO_THRESHOLDS)
    aux_params = {name: pretrained.aux_params[name] for name in symbol.list_auxiliary_states()
                  if name in pretrained.aux_params}
    check_shapes(symbol, arg_params, aux_params, args.image_shape, args.model, math.inf)
    return Network(symbol, arg_params, aux_params)


def train_warm_head(args, network, data, loss, devices, job):
    """The network with a classifier trained on the frozen backbone's features: checkpoint 0.

    Also the average precision of each class on validation, (classes,); None at ranks above 0.
    """
    began = time.monotonic()
    alone = Workers()  # rank 0 trains on the features of all
    metrics = training_metrics(loss, alone), validation_metrics(loss, alone)
    head, scores = train_head(
        network, (open_iterator(args, data.train_lst), data.val), metrics, devices,
        WarmHead(args.warm_head_epochs, args.warm_head_mirror, args.seed, args.save_result,
                 args.warm_head_memory * 1e6),
        lambda _: job.stops.stop_unsaved_run(" in the warm head, of which nothing is saved: the "
                                             "same command starts it anew"))
    network = network._replace(arg_params={**network.arg_params, **head})
    _, arg_params, aux_params = network
    job.files.check_finite(arg_params)
    job.files.save_checkpoint(0, arg_params, aux_params)
    job.files.close_epoch(0, {"seconds": time.monotonic() - began},
                          dict(metrics[0].get_global_name_value()), scores,
                          (arg_params, aux_params))
    job.files.save_snapshot({}, named("arg", arg_params), [named("aux", aux_params)])
    return network, metrics[1].class_precision()


def fit(args, network, data, recipe, metrics, devices, job):
    """Module.fit, which goes on from the job's snapshot where there is one."""
    compression = {"type": args.gc_type, "threshold": args.gc_threshold}
    whole = network[1:]
    if can_be_stored(args, devices.workers):
        network, data = on_stored_activations(args, network, recipe.frontier, data, devices,
                                              job.stops)
    images = data.train.provide_data[0]
    module = ResumableModule(
        faster_training(training_symbol(network.symbol, recipe.frozen, args.head_lr_mult),
                        images, data.train.provide_label[0], devices),
        job.snapshot, whole, data_names=[images.name], context=devices.contexts, logger=logger,
        fixed_param_names=sorted({*recipe.frozen} & {*network.symbol.list_arguments()}),
        compression_params=compression if args.gc_type != "none" else None)
    mx.random.seed(args.seed)
    np.random.seed(args.seed)
    callbacks = FitCallbacks(args, module, data, metrics[0], job.files, job.stops)
    callbacks.seed_batch()
    module.fit(
        data.train, eval_data=data.val, eval_metric=metrics[0], validation_metric=metrics[1],
        batch_end_callback=[
            mx.callback.Speedometer(args.batch_size * devices.workers.count,
                                   args.disp_batches or 20),
            callbacks.on_batch],
        epoch_end_callback=callbacks.on_epoch,
        eval_batch_end_callback=callbacks.on_validation_batch,
        eval_end_callback=callbacks.on_validated,
        kvstore=devices.kv if "dist" in devices.kv.type else args.kv_store,
        optimizer=args.optimizer, optimizer_params=recipe.optimizer,
        initializer=INITIALIZER, arg_params=network.arg_params, aux_params=network.aux_params,
        allow_missing=True, num_epoch=args.num_epoch)


if __name__ == "__main__":
    run(main)
