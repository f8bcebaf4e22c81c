"""Fine-tune a pretrained MXNet network to multi-label classification.

    python train_multilabel.py --model pretrained/efficientnet_lite0 --epoch 0 \\
        --data-train demo/data/train.lst --image-train demo/data/images \\
        --data-val demo/data/val.lst --image-val demo/data/images \\
        --labels demo/data/labels.txt --save-result result --save-name demo --num-epoch 2
    python train_multilabel.py --help
"""
import logging

import numpy as np

from common.cli import InputError, is_out_of_memory, log_to_stderr, run
from common.mx_compat import error_line, mx
from network.fine_tune import (  # noqa: F401  the first is for others to import
    get_fine_tune_model,
    load_pretrained,
    training_symbol,
)
from training.compute import check_limits, open_compute
from training.data import check_normalisation, make_metrics, measure_reading, open_data, read_lists
from training.faster_graph import faster_training
from training.log import log_to
from training.module import INITIALIZER, FineTuningModule, optimizer_params
from training.run import Stopped, open_run
from training.settings import Network, resolve_settings
from training.train_flags import parse_args

logger = logging.getLogger("train_multilabel")


def main(argv=None):
    """Train, and log to standard error and to train.log what was reached."""
    flags = parse_args(argv)
    with open_compute(flags) as compute:
        try:
            return train(flags, compute)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise InputError("out of memory: a smaller --batch-size or --image-shape takes "
                                 "less") from None
            # simple_bind replaces an MXNetError by a plain RuntimeError.
            if isinstance(error, mx.MXNetError) or isinstance(error.__context__, mx.MXNetError):
                raise InputError(f"{flags.model}: MXNet cannot train this network: "
                                 f"{error_line(error)}") from None
            raise


def train(flags, compute):
    """Data, network, warm head, fine-tuning; as one of the workers. Returns the exit status."""
    workers = compute.workers
    log_to_stderr(logging.WARNING if workers.rank else logging.INFO)  # until it has its folder
    *pretrained, normalisation = load_pretrained(flags.model, flags.epoch, flags.rgb_mean,
                                                 flags.rgb_std, flags.dtype)
    lists = read_lists(flags, workers)
    settings, network = resolve_settings(flags, Network(*pretrained), normalisation, lists, workers)
    log_to(flags.save_result, workers.rank, flags.disp_batches is not None)
    check_limits(settings, network, compute)
    data = open_data(settings, lists)
    if flags.test_io:
        measure_reading(data.train)
        return 0
    metrics = make_metrics(settings.loss, lists.train.num_classes, workers)
    with open_run(settings, network.symbol, lists, data, metrics.train, workers) as this_run:
        if this_run.is_over:
            return 0
        if workers.rank == 0 and flags.dtype == "float32":
            for warning in check_normalisation(pretrained, lists.train, settings.image_shape,
                                               settings.reading.plain):
                logger.warning("warning: %s", warning)
        try:
            if this_run.snapshot:
                network = network._replace(arg_params=this_run.snapshot.arg_params,
                                           aux_params=this_run.snapshot.aux_params)
            features = outputs = None
            if flags.warm_head_epochs or settings.stores_activations:
                from training.frozen_stages import pass_images, train_warm_head  # for few runs
                features, outputs = pass_images(settings, network, compute, this_run)
            if features:
                network = train_warm_head(settings, network, features, compute, this_run)
                del features  # frees their memory
            if flags.num_epoch:
                fit(settings, network, data, outputs, metrics, compute, this_run)
        except Stopped as stopped:
            return stopped.code
        this_run.files.write_summary()
        return 0


def fit(settings, network, data, outputs, metrics, compute, this_run):
    """Fine-tune by Module.fit, from the beginning of `this_run` on.

    `outputs` are those of frozen stages by pass_images, to train on in place of images, or None.
    """
    flags, workers, full_params = settings.flags, compute.workers, network[1:]
    if outputs:
        from training.frozen_stages import after_frozen_stages  # which most runs do not need
        network, data = after_frozen_stages(settings, network, outputs)
    images, labels = data.train.provide_data[0], data.train.provide_label[0]
    symbol = training_symbol(network.symbol, settings.frozen, flags.head_lr_mult)
    compression = {"type": flags.gc_type, "threshold": flags.gc_threshold}
    module = FineTuningModule(
        faster_training(symbol, images, labels, compute), full_params, data_names=[images.name],
        context=compute.contexts, logger=logger,
        fixed_param_names=sorted({*settings.frozen} & {*network.symbol.list_arguments()}),
        compression_params=compression if flags.gc_type != "none" else None)
    # Servers that update for each worker by itself count all workers' batches.
    batches = data.train.num_batches * (1 if workers.synchronous else workers.count)
    params = optimizer_params(flags, batches)
    if not workers.synchronous:  # no snapshot has the servers' counters
        trained = this_run.epoch * data.train.num_batches + this_run.record.batch
        params["begin_num_update"] = trained * workers.count
    mx.random.seed(flags.seed)
    np.random.seed(flags.seed)
    module.fit(
        data.train, eval_data=data.val, eval_metric=metrics.train, validation_metric=metrics.val,
        batch_end_callback=mx.callback.Speedometer(settings.batch_size * workers.count,
                                                   flags.disp_batches or 20),
        kvstore=compute.kvstore, optimizer=flags.optimizer, optimizer_params=params,
        initializer=INITIALIZER, arg_params=network.arg_params, aux_params=network.aux_params,
        allow_missing=True, num_epoch=flags.num_epoch, run=this_run)


if __name__ == "__main__":
    run(main)
