"""From flags to loss options, frozen parameters, learning rates and the optimizer."""
import json
import re
import sys

import numpy as np

import checkpoint
from cli import InputError
from crossentropy_op import loss_options
from mx_compat import mx
from training.warm_head import split_head

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


def frozen_parameters(net, freeze):
    """Names of the parameters that --freeze keeps; the constants of the input always.

    Raises
    ------
    InputError
        When a regular expression matches none, or all.
    """
    parameters = [n for n in net.list_arguments() if n not in ("data", "softmax_label")]
    head = split_head(net)[1]
    if freeze == "backbone":
        chosen = [n for n in parameters if n not in (f"{head}_weight", f"{head}_bias")]
    else:
        chosen = [n for n in parameters if freeze != "none" and re.match(freeze, n)]
        if freeze != "none" and not chosen:
            raise InputError(f"--freeze: no parameter's name matches {freeze!r}; names are "
                             f"like {', '.join(parameters[2:5])}")
        if set(parameters) <= {*chosen, *checkpoint.CONSTANTS}:
            raise InputError(f"--freeze {freeze!r} leaves nothing to train")
    return sorted({*chosen, *checkpoint.CONSTANTS})


def training_symbol(net, frozen, head_lr_mult):
    """The network as it trains.

    Frozen BatchNorms use stored statistics, the head has its own rate, and BatchNorm's gammas
    have no weight decay (MXNet leaves out betas and biases only).
    """
    graph = json.loads(net.tojson())
    head = split_head(net)[1]
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            gamma = graph["nodes"][node["inputs"][1][0]]
            gamma.setdefault("attrs", {})["__wd_mult__"] = "0"
            if gamma["name"] in frozen:
                node.setdefault("attrs", {})["use_global_stats"] = "True"
        if node["name"] in (f"{head}_weight", f"{head}_bias"):
            node.setdefault("attrs", {})["__lr_mult__"] = str(head_lr_mult)
    return mx.sym.load_json(json.dumps(graph))


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
