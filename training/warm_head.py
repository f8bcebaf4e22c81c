"""The warm head: train the new classifier on stored features before fine-tuning everything.

Starting fine-tuning from such a head distorts the pretrained features less: Kumar et al.,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022
(https://arxiv.org/abs/2202.10054).
"""
import logging
import time

import numpy as np

from common.mx_compat import mx
from common.progress import Progress
from network.fine_tune import split_head
from training.compute import Alone
from training.data import make_metrics
from training.frozen_stages import FEATURES, NOT_SAVED, FeatureIter, layers_after
from training.module import FineTuningModule
from training.run_files import with_prefix

logger = logging.getLogger("train_multilabel")

BATCH_SIZE = 32
LEARNING_RATE = 0.003
WARM_UP = 0.2  # share of the updates in which the learning rate rises
# The penalty of a weight w on standardised features is w**2 / (2 * this * rows).
INVERSE_PENALTY = 0.0003
LEAST_RATE = 1e-3  # of a class's present labels that its first bias is set for
STANDARDISATION = ("mean", "scale")
ROWS_PER_SUM = 256


def train_warm_head(settings, network, features, compute, this_run):
    """The network with a head trained on `features` from pass_images: checkpoint 0 of the run."""
    files, workers = this_run.files, compute.workers
    # Rank 0 trains on the features of all workers.
    metrics = make_metrics(settings.loss, this_run.lists.train.num_classes, Alone())
    head, scores = map(workers.broadcast, (None, None) if workers.rank else train_head(
        network, features, metrics, compute.contexts[0], settings.flags,
        lambda: this_run.stops.stop_unsaved(NOT_SAVED)))
    scores = {name: float(value) for name, value in scores.items()}
    arg_params = {**network.arg_params,
                  **{name: mx.nd.array(value) for name, value in head.items()}}
    aux_params = network.aux_params
    files.check_finite(arg_params)
    files.save_checkpoint(0, arg_params, aux_params)
    files.close_epoch(0, {"seconds": time.monotonic() - this_run.began},
                      dict(metrics.train.get_global_name_value()), scores, metrics.val.samples(),
                      (arg_params, aux_params))
    files.save_snapshot({}, with_prefix("arg", arg_params), [with_prefix("aux", aux_params)])
    return network._replace(arg_params=arg_params)


def train_head(network, stored, metrics, context, flags, check_stop=lambda: None):
    """Train the classifier of a Network alone, for flags.warm_head_epochs over stored features.

    `stored` and `metrics` are pairs, of training and of validation: features and labels as
    `extract` gives them (or None), and an EvalMetric. What `check_stop` raises after a batch ends
    the training.

    Returns a dict of weight and bias, np.ndarray, by their names in the network, and one of the
    last metrics of validation, empty without it.
    """
    rows = max(len(stored[0][0]), 1)
    num_updates = max(flags.warm_head_epochs * -(-rows // BATCH_SIZE), 1)
    schedule = mx.lr_scheduler.CosineScheduler(num_updates, LEARNING_RATE,
                                               warmup_steps=int(WARM_UP * num_updates))
    head, params = _on_standardised_features(network, *stored[0])
    scores = {}
    progress = Progress("Warm head", num_updates, "batches")
    module = FineTuningModule(head, data_names=[FEATURES], context=context,
                              fixed_param_names=STANDARDISATION, logger=WarmHeadLog(logger, {}))
    module.fit(
        FeatureIter(*stored[0], BATCH_SIZE, flags.seed),
        eval_data=stored[1] and FeatureIter(*stored[1], BATCH_SIZE),
        eval_metric=metrics[0], validation_metric=metrics[1],
        batch_end_callback=[lambda _: progress.update(1), lambda _: check_stop()],
        eval_end_callback=lambda p: scores.update(p.eval_metric.get_global_name_value()),
        arg_params=params, optimizer="adam",
        optimizer_params={"learning_rate": LEARNING_RATE, "lr_scheduler": schedule,
                          "wd": 1 / (INVERSE_PENALTY * rows)},
        num_epoch=flags.warm_head_epochs)
    progress.close()
    params = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
    weight = params["standardised_weight"] * params["scale"]
    shift = (weight * params["mean"]).reshape(len(weight), -1).sum(axis=1)
    classifier = split_head(network.symbol)[1]
    return {f"{classifier}_weight": weight,
            f"{classifier}_bias": params["standardised_bias"] - shift}, scores


def _on_standardised_features(network, values, labels):
    """The network's head on the input `features`, whose weights see standardised features.

    Also its first parameters: no weights, and biases that give each class its rate. The `values`
    have a `mean` and a standard deviation, 1 / `scale`, per channel; shifting and scaling the
    weights in their place costs nothing per image.
    """
    mean, deviation = channel_statistics(values)
    shape = (labels.shape[1], len(mean)) + (1,) * (values.ndim - 2)
    known = labels >= 0
    rate = np.sum(labels, axis=0, where=known) / np.maximum(known.sum(axis=0), 1)
    rate = np.clip(rate, LEAST_RATE, 1 - LEAST_RATE)
    # Large weights of channels that hardly vary let fine-tuning's first steps ruin the backbone.
    scale = 1 / np.maximum(deviation, max(np.median(deviation), 1e-12))
    params = {"standardised_weight": np.zeros(shape),
              "standardised_bias": np.log(rate / (1 - rate)),
              "mean": mean.reshape(1, *shape[1:]), "scale": scale.reshape(1, *shape[1:])}
    variables = {name: mx.sym.Variable(name, shape=value.shape) for name, value in params.items()}
    weight = mx.sym.broadcast_mul(variables["standardised_weight"], variables["scale"])
    shift = mx.sym.sum(mx.sym.broadcast_mul(weight, variables["mean"]), axis=0, exclude=True)
    features, classifier = split_head(network.symbol)
    head = layers_after(network.symbol, features.name)
    head = head(**{f"{classifier}_weight": weight,
                   f"{classifier}_bias": variables["standardised_bias"] - shift})
    return head, {name: mx.nd.array(value) for name, value in params.items()}


def channel_statistics(features):
    """Mean and deviation over the rows of each channel's mean over its positions: (channels,)."""
    total, squares = np.zeros((2, features.shape[1]))
    for start in range(0, len(features), ROWS_PER_SUM):
        rows = features[start:start + ROWS_PER_SUM]
        rows = rows.reshape(*rows.shape[:2], -1).mean(axis=2, dtype=np.float64)
        total += rows.sum(axis=0)
        squares += (rows ** 2).sum(axis=0)
    mean = total / max(len(features), 1)
    return mean, np.sqrt(np.maximum(squares / max(len(features), 1) - mean ** 2, 0))


class WarmHeadLog(logging.LoggerAdapter):
    """Logs "Warm head[" for "Epoch[", to tell its epochs from those of fine-tuning."""

    def process(self, msg, kwargs):
        return msg.replace("Epoch[", "Warm head["), kwargs
