"""The flags of train_multilabel.py, and the checks of their values before anything is read."""
import math
import os
import re
from collections import namedtuple

from common import cli
from common.cli import InputError, at_least, parse_numbers
from crossentropy_op import loss_options
from evaluation.objective import add_objective_args, objective_from_args
from reading.read_options import AREA, add_data_args
from training.module import optimizer_params

# The options of CrossEntropyLoss that each --loss stands for; the flags of the same names win.
LOSSES = {
    "bce": {"gamma_pos": 0.0, "gamma_neg": 0.0, "clip": 0.0},
    "focal": {"gamma_pos": 2.0, "gamma_neg": 2.0, "clip": 0.0},
    "asl": {"gamma_pos": 0.0, "gamma_neg": 4.0, "clip": 0.05}}

METRICS = ("mAP", "loss", "acc")  # by which the best epoch can be chosen

FROM_0, FROM_1 = at_least(0), at_least(1)
AMOUNT = at_least(0, bits=128, kind=float)  # what float32 can hold
MAY_BE_INFINITE = at_least(0, kind=float)


def parse_args(argv=None):
    """The flags by name, a namedtuple; an InputError names a value that is out of its range.

    `described` among them is for the log: the flags that are not as by default, as text, and the
    names of all by group.
    """
    parser = cli.ArgumentParser(
        description="Fine-tune a pretrained MXNet network to multi-label classification.",
        allow_abbrev=False)
    add = parser.add_argument_group("data").add_argument
    add("--data-train", required=True, metavar="LST",
        help="training .lst; of several workers each reads a part, or with {rank} in the name (or "
             "in that of other lists and folders) what is its own")
    add("--image-train", required=True, metavar="DIR",
        help="folder that the names in --data-train start from")
    add("--data-val", metavar="LST", help="validation .lst")
    add("--image-val", metavar="DIR",
        help="folder of the validation images (default: --image-train)")
    add("--num-classes", type=int, metavar="N",
        help="columns of labels (default: as many as the .lst has)")
    add("--num-examples", type=int, metavar="N",
        help="rows of --data-train, to be checked (default: as many as it has)")
    add("--labels", metavar="FILE",
        help="class names in column order, one per line, kept in the checkpoint")
    add_data_args(parser)

    add = parser.add_argument_group("model").add_argument
    add("--model", required=True, metavar="PREFIX", action=cli.CheckpointPrefix,
        help="pretrained checkpoint: its path before -symbol.json")
    add("--epoch", type=FROM_0, default=0, metavar="N",
        help="number of the pretrained .params file")
    add("--layer-before-fullc", metavar="LAYER",
        help="layer that feeds the new classifier (default: what feeds the network's own)")
    add("--image-shape", metavar="C,H,W",
        help="what the network gets; auto: the training images' own aspect, in multiples of 32 "
             "(default: what the checkpoint says, else 3,224,224)")
    add("--image-area", type=at_least(1024), default=AREA, metavar="PIXELS",
        help="area that --image-shape auto aims at, where the images are as large")
    add("--head", choices=["linear", "attention", "auto"], default="linear",
        help="classifier of mean features, or class-specific residual attention (Zhu and Wu, ICCV "
             "2021), which also sees where a class is; auto: attention if features have positions")
    add("--attention", type=AMOUNT, default=0.3, metavar="X",
        help="--head attention: weight of a class's maximum over the positions beside its mean")
    add("--rgb-mean", metavar="R,G,B",
        help="mean of the pixels, 0 to 255, for a checkpoint that does not say how it normalises "
             "them (default: what the network begins with, else ImageNet's)")
    add("--rgb-std", metavar="R,G,B", help="standard deviation likewise")
    add("--freeze", default="none", metavar="WHAT",
        help="parameters to leave as they are: none, backbone (all but the new classifier), or a "
             "regular expression for their names; a frozen BatchNorm uses its stored statistics")
    add("--freeze-stages", type=number_or_auto, default=0, metavar="N",
        help="leave the first N stages (runs of layers of one resolution) as they are; auto: 3 of "
             "small images, 4 of large ones, never the last; each image passes through them once "
             "where only mirroring is random (--squash, --pad-square or --random-crop 0)")
    add("--frozen-precision", choices=["auto", "float32", "int8"], default="auto",
        help="what frozen layers are computed in where each image passes through them once; auto: "
             "int8 where one batch shows that it is faster and as good")
    add("--dtype", choices=["float32", "float16"], default="float32",
        help="type that the backbone computes in; the new head and the loss stay in float32")

    add = parser.add_argument_group(
        "warm head (the new classifier alone, before fine-tuning)").add_argument
    add("--warm-head-epochs", type=FROM_0, default=0, metavar="N",
        help="passes over features that each image gives once; 0 for none")
    add("--warm-head-mirror", action="store_true",
        help="each training image's mirror image gives features too")
    add("--feature-memory", "--warm-head-memory", type=MAY_BE_INFINITE, default=2000, metavar="MB",
        help="features above this, and outputs of frozen stages, go into a memory-mapped file")

    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=sorted(LOSSES), default="bce",
        help="binary cross-entropy, focal, or asymmetric loss")
    add("--gamma-pos", type=float, metavar="G",
        help="focusing of present labels (default: focal 2, asl 0)")
    add("--gamma-neg", type=float, metavar="G",
        help="focusing of absent labels (default: focal 2, asl 4)")
    add("--clip", type=float, metavar="P",
        help="probability below which an absent label costs nothing (default: asl 0.05)")
    add("--pos-weight", default="1", metavar="W",
        help="weight of present labels; auto: absent over present labels per class, 1 to 10")
    add("--label-smoothing", type=float, default=0, metavar="S",
        help="turns labels into y (1 - S) + S / 2")

    add = parser.add_argument_group("training").add_argument
    add("--num-epoch", type=FROM_0, default=2, metavar="N",
        help="epochs of fine-tuning; 0 stops after the warm head")
    add("--batch-size", type=FROM_1, default=64, metavar="N", help="images per batch")
    add("--optimizer", default="sgd", metavar="NAME",
        help="any of MXNet's: sgd, nag, adam, lamb ...")
    add("--lr", type=AMOUNT, help="learning rate (default: 0.001, for adam 0.0001)")
    add("--head-lr-mult", type=AMOUNT, default=1, metavar="X",
        help="factor on the new classifier's learning rate")
    add("--mom", type=AMOUNT, default=0.9, help="momentum, for sgd and nag")
    add("--wd", type=AMOUNT, default=0.0001, help="weight decay; biases and BatchNorms have none")
    add("--clip-gradient", type=AMOUNT, default=0, metavar="X",
        help="limit of each value of the gradient; 0 for none")
    add("--lr-schedule", choices=["step", "cosine", "constant"], default="step",
        help="course of the learning rate")
    add("--lr-factor", type=AMOUNT, default=0.1, help="factor at each of --lr-step-epochs (step)")
    add("--lr-step-epochs", default="5,10", metavar="E,E",
        help="epochs after which the learning rate falls (step)")
    add("--warmup-epochs", type=AMOUNT, default=0, metavar="N",
        help="epochs over which the learning rate rises from 0")
    add("--seed", type=at_least(0, bits=32), default=0,
        help="random seed of the sample order, the augmentation and the new weights")
    add("--monitor-metric", choices=METRICS, default="mAP",
        help="validation metric by which the best epoch is chosen")
    add_objective_args(add)
    add("--early-stop", type=FROM_0, default=0, metavar="N",
        help="stop after N epochs without a better one; 0 for never")
    add("--disp-batches", type=FROM_1, metavar="N",
        help="batches between two of MXNet's lines, shown on the screen too (default: 20, in "
             "train.log alone)")
    add("--test-io", action="store_true",
        help="only read one epoch of --data-train and show the speed")

    add = parser.add_argument_group("checkpoints").add_argument
    add("--save-result", default="result", metavar="DIR",
        help="folder for checkpoints, train.log and NAME-history.csv")
    add("--save-name", default="multilabel", metavar="NAME", help="name of the checkpoints in it")
    add("--keep", type=FROM_0, default=0, metavar="N",
        help="keep only the last N checkpoints (and the best); 0 keeps all")
    add("--checkpoint-minutes", type=MAY_BE_INFINITE, default=10, metavar="M",
        help="minutes between two snapshots in mid-epoch; 0 for none")
    add("--resume", action="store_true",
        help="go on from the newest snapshot of --save-name, if there is one; without it a run "
             "starts anew, and moves earlier files aside")
    add("--resume-anyway", action="store_true",
        help="go on even where the flags or the data have changed")

    add = parser.add_argument_group("devices").add_argument
    add("--gpus", metavar="LIST",
        help="GPUs by number, 0,1 say; '' for the CPU (default: all visible GPUs, else the CPU)")
    add("--kv-store", default="device", choices=[
        "local", "device", "dist_sync", "dist_device_sync", "dist_async", "dist_device_async"],
        help="MXNet's key-value store")
    add("--gc-type", choices=["none", "2bit"], default="none",
        help="compression of gradients between devices or machines")
    add("--gc-threshold", type=AMOUNT, default=0.5, metavar="X",
        help="threshold of 2bit compression")
    args = parser.parse_args(argv)
    changed = " ".join(
        f"--{name.replace('_', '-')}" + (f" {value}" if value is not True else "")
        for name, value in vars(args).items() if value != parser.get_default(name))
    own_groups = parser._action_groups[2:]  # after argparse's two, of --help and the like
    args.described = changed, {group.title: [action.dest for action in group._group_actions]
                               for group in own_groups}
    check_args(args)
    # A tuple, into which nobody can write.
    return namedtuple("Flags", vars(args))(**vars(args))


def number_or_auto(text):
    """The value of --freeze-stages: a number, or "auto"."""
    return text if text == "auto" else FROM_0(text)


def check_args(args):
    """Parse the flags that are lists of numbers, and check the ranges of all."""
    if args.lr is None:
        args.lr = 0.0001 if args.optimizer == "adam" else 0.001
    args.lr_step_epochs = parse_numbers("--lr-step-epochs", args.lr_step_epochs, float)
    first_step = min(args.lr_step_epochs, default=math.inf)
    for is_wrong, flag, problem in (
            (args.lr_factor > 1, "--lr-factor", f"must be 1 or less, not {args.lr_factor}"),
            (args.gc_threshold == 0, "--gc-threshold", "must be above 0, not 0"),
            (not all(0 < epoch < math.inf for epoch in args.lr_step_epochs), "--lr-step-epochs",
             "must be numbers above 0"),
            (args.warmup_epochs and args.warmup_epochs >= args.num_epoch, "--warmup-epochs",
             f"{args.warmup_epochs:g} must be fewer than --num-epoch {args.num_epoch}: the "
             "learning rate would never be reached"),
            (args.lr_schedule == "step" and args.warmup_epochs > first_step, "--warmup-epochs",
             f"{args.warmup_epochs:g} must not be more than the first of --lr-step-epochs, "
             f"{first_step:g}: the learning rate would never be reached"),
            (args.early_stop and not args.data_val, "--early-stop",
             "needs validation images: --data-val"),
            (not args.save_name or os.path.basename(args.save_name) != args.save_name,
             "--save-name", f"is a name in the folder --save-result, not {args.save_name!r}"),
            (args.save_name.endswith("-best"), "--save-name",
             "must not end in -best, as the best checkpoint of another run does"),
            (args.num_epoch == 0 and not args.warm_head_epochs, "--num-epoch",
             "0 trains nothing without --warm-head-epochs")):
        if is_wrong:
            raise InputError(f"{{flag}} {problem}", flag=flag)
    if args.image_shape and args.image_shape != "auto":
        args.image_shape = cli.parse_image_shape(args.image_shape)
    args.rgb_mean = parse_numbers("--rgb-mean", args.rgb_mean, float, 3)
    args.rgb_std = parse_numbers("--rgb-std", args.rgb_std, float, 3)
    args.threshold_objective = objective_from_args(args)
    optimizer_params(args, 1)
    loss_from_flags(args, 1 if args.pos_weight == "auto" else args.pos_weight)
    try:
        re.compile(args.freeze)
    except re.error as error:
        raise InputError(str(error), flag="--freeze") from None


def loss_from_flags(flags, pos_weight):
    """Options of CrossEntropyLoss: those of --loss, and the flags of the options' names."""
    given = {name: getattr(flags, name, None) for name in loss_options()}
    options = {**LOSSES[flags.loss], **{n: v for n, v in given.items() if v is not None}}
    try:
        return loss_options(**{**options, "pos_weight": pos_weight})
    except ValueError as error:
        raise InputError(str(error)) from None
