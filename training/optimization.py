"""From flags to loss options, frozen parameters, learning rates and the optimizer."""
import sys

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from crossentropy_op import loss_options

# Bounds of the weights that --pos-weight auto gives.
POS_WEIGHTS = (1, 10)


def choose_loss(args, lst):
    """Options of CrossEntropyLoss for the flags."""
    weight = args.pos_weight
    if weight == "auto":
        weight = np.clip(lst.negatives / np.maximum(lst.positives, 1), *POS_WEIGHTS).round(4)
    elif len(weight.split(",")) not in (1, lst.num_classes):
        raise InputError(f"--pos-weight: {len(weight.split(','))} weights, but {lst.num_classes} "
                         "classes; one for all of them will do")
    return loss_options(weight, args.gamma_pos, args.gamma_neg, args.clip, args.label_smoothing)


def optimizer_params(args, batches):
    """What Module.init_optimizer wants, learning-rate schedule included."""
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
    return params
