"""From flags to devices, loss options, learning rates and the optimizer."""
import sys
from typing import NamedTuple, Optional

import numpy as np

from common.cli import InputError
from common.mx_compat import choose_devices, mx
from crossentropy_op import loss_options
from network.fine_tune import frozen_parameters
from network.stages import find_frontier, until

# Bounds of the weights that --pos-weight auto gives.
POS_WEIGHTS = (1, 10)

# Of the new classifier's weights.
INITIALIZER = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)


class Recipe(NamedTuple):
    """What is frozen, and the optimizer's parameters with the schedule."""

    frozen: list  # names of parameters
    frontier: Optional[str]  # the last layer of the frozen stages; None without --freeze-stages
    optimizer: dict


def training_contexts(args):
    """Contexts for --gpus, if --dtype and --gc-type suit these devices."""
    contexts = choose_devices(args.gpus)
    if args.dtype == "float16" and contexts[0].device_type == "cpu":
        raise InputError("--dtype float16 needs a GPU: MXNet has no float16 convolution for CPUs")
    if args.gc_type != "none" and "dist" not in args.kv_store and len(contexts) == 1:
        raise InputError(f"--gc-type {args.gc_type} compresses what several devices or machines "
                         "send each other, but this run has one device")
    return contexts


def choose_loss(args, lst):
    """Options of CrossEntropyLoss for the flags."""
    weight = args.pos_weight
    if weight == "auto":
        weight = np.clip(lst.negatives / np.maximum(lst.positives, 1), *POS_WEIGHTS).round(4)
    elif len(weight.split(",")) not in (1, lst.num_classes):
        raise InputError(f"--pos-weight: {len(weight.split(','))} weights, but {lst.num_classes} "
                         "classes; one for all of them will do")
    return loss_options(weight, args.gamma_pos, args.gamma_neg, args.clip, args.label_smoothing)


def choose_recipe(args, network, data, workers):
    """The Recipe for the flags."""
    # Servers that update for each worker by itself count all workers' batches.
    batches = data.train.num_batches * (1 if workers.synchronous else workers.count)
    warmup = {"base_lr": args.lr, "warmup_steps": int(args.warmup_epochs * batches)}
    steps = sorted({int(epoch * batches) for epoch in args.lr_step_epochs} - {0})
    if args.lr_schedule == "cosine":
        scheduler = mx.lr_scheduler.CosineScheduler(max(args.num_epoch * batches, 1), **warmup)
    elif args.lr_schedule == "step" and steps:
        scheduler = mx.lr_scheduler.MultiFactorScheduler(steps, args.lr_factor, **warmup)
    else:
        scheduler = mx.lr_scheduler.FactorScheduler(sys.maxsize, 1, **warmup)
    params = {"learning_rate": args.lr, "wd": args.wd, "lr_scheduler": scheduler,
              "multi_precision": args.dtype == "float16"}
    if args.optimizer in ("sgd", "nag"):
        params["momentum"] = args.mom
    if args.clip_gradient:
        params["clip_gradient"] = args.clip_gradient
    try:
        mx.optimizer.create(args.optimizer, **params)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"--optimizer {args.optimizer}: {error}") from None
    frozen, frontier = frozen_parameters(network.symbol, args.freeze), None
    if args.freeze_stages:
        frontier = find_frontier(network.symbol, args.image_shape, args.freeze_stages)
        inputs = set(until(network.symbol, frontier).list_arguments()) - {"data"}
        frozen = sorted({*frozen, *inputs})
    return Recipe(frozen, frontier, params)
