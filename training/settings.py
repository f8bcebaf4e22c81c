"""What a run does, resolved once: from its flags, the pretrained network and the training list.

Nothing writes into flags or settings afterwards.
"""
import hashlib
import json
import math
import os
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from common.text import counted, printable
from common.version import VERSION
from network import checkpoint
from network.fine_tune import find_feature_map, frozen_parameters, get_fine_tune_model
from network.graph import layers_up_to, params_of
from network.untrusted import NO_THRESHOLDS, check_shapes
from reading.classes import ListCounts, label_warnings, read_class_names
from reading.read_options import ReadOptions, read_options_from_args
from training.train_flags import loss_from_flags

# Bounds of the weights that --pos-weight auto gives.
POS_WEIGHTS = (1, 10)

# Flags that may differ in a resumed run: they change where and how fast, not what is trained.
# Images and lists may have moved; the lists' content is compared.
MAY_CHANGE_ON_RESUME = {
    "data_train", "data_val", "image_train", "image_val", "labels", "model", "epoch", "gpus",
    "data_nthreads", "disp_batches", "num_epoch", "early_stop", "monitor_metric", "test_io",
    "save_result", "save_name", "keep", "checkpoint_minutes", "resume",
    "resume_anyway", "described", "warm_head_epochs", "warm_head_mirror", "feature_memory",
    "num_examples", "num_classes", "threshold_objective", "min_precision",
    "frozen_precision"}  # which pass_images compares with what the record says


class Network(NamedTuple):
    """A symbol and its parameters."""

    symbol: mx.sym.Symbol
    arg_params: dict
    aux_params: dict


@dataclass(frozen=True)
class Settings:
    """What a run does. `flags` are as parse_args gives them; where one is `auto`, see here."""

    flags: tuple
    prefix: str  # of the checkpoints and all other files of the run
    batch_size: int  # of each worker
    image_shape: list  # [3, height, width]
    head: str  # linear or attention
    freeze_stages: int
    last_frozen_layer: Optional[str]  # of these stages; None without any
    frozen: list  # names of the parameters that are not trained
    loss: dict  # options of CrossEntropyLoss
    reading: ReadOptions  # of training images; others are read by `reading.plain`
    num_workers: int
    notes: list  # lines for the log: what was chosen and why
    warnings: list  # lines for the log: which classes cannot be learnt or evaluated

    @property
    def stores_activations(self):
        """Whether what the frozen stages give is stored: one worker, at most mirrored images."""
        return (bool(self.freeze_stages) and self.num_workers == 1
                and self.reading.only_mirrors)

    @property
    def resolved_flags(self):
        """A dict of the flags, with what the settings say in place of `auto` and other defaults."""
        flags = self.flags._asdict()
        flags.update({name: value for name, value in self.loss.items() if name in flags},
                     pos_weight=flags["pos_weight"], head=self.head, batch_size=self.batch_size,
                     image_shape=self.image_shape, freeze_stages=self.freeze_stages)
        return flags

    def shared_on_resume(self, symbol, lists):
        """What a resumed run must share with its beginning, as plain JSON by the names to show."""
        shared = {f"--{name.replace('_', '-')}": value
                  for name, value in self.resolved_flags.items()
                  if name not in MAY_CHANGE_ON_RESUME}
        if self.flags.lr_schedule == "cosine":
            shared["--num-epoch"] = self.flags.num_epoch
        names = " ".join(symbol.list_arguments() + symbol.list_auxiliary_states())
        shared["the number of workers"] = self.num_workers
        shared["the number of classes"] = lists.train.num_classes
        shared["the parameter names"] = hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
        shared["the content of --data-train"] = lists.train.checksum
        shared["the content of --data-val"] = lists.val.checksum if lists.val else None
        return json.loads(json.dumps(shared))


def resolve_settings(flags, pretrained, normalisation, lists, workers):
    """The Settings of a run, and the Network that it trains: a new classifier, nothing trained yet.

    `pretrained` is a Network that takes raw pixels, `normalisation` says how it normalises them,
    `lists` are from `read_lists`. All workers call this together. An InputError names a flag that
    does not suit the network or the lists.
    """
    class_names = flags.labels and read_class_names(flags.labels, lists.train.num_classes)
    batch_size, notes = choose_batch_size(flags.batch_size, lists.train.num_rows, workers.count)
    image_shape, why = choose_image_shape(flags, pretrained, lists.train, workers)
    pretrained = pretrained._replace(
        symbol=checkpoint.set_attributes(pretrained.symbol, image_shape=image_shape))
    head = flags.head
    if head == "auto":
        head = "attention" if find_feature_map(
            pretrained.symbol, flags.layer_before_fullc, image_shape) else "linear"
    loss = loss_from_flags(flags, choose_pos_weight(flags.pos_weight, lists.train))
    symbol, arg_params = get_fine_tune_model(
        pretrained.symbol, pretrained.arg_params, lists.train.num_classes,
        flags.layer_before_fullc, flags.dtype,
        flags.attention if head == "attention" else None, **loss)
    frozen = frozen_parameters(symbol, flags.freeze)
    freeze_stages, last_frozen_layer = 0, None
    if flags.freeze_stages:
        from training.frozen_stages import choose_stages  # most runs freeze none
        freeze_stages, last_frozen_layer = choose_stages(symbol, image_shape, flags.freeze_stages)
    if freeze_stages:
        inputs = set(layers_up_to(symbol, last_frozen_layer).list_arguments()) - {"data"}
        frozen = sorted({*frozen, *inputs})
    notes += [*why, f"Normalisation of red, green, blue: {normalisation}"]
    settings = Settings(
        flags=flags, prefix=os.path.join(flags.save_result, flags.save_name),
        batch_size=batch_size, image_shape=image_shape, head=head, freeze_stages=freeze_stages,
        last_frozen_layer=last_frozen_layer, frozen=frozen, loss=loss,
        reading=read_options_from_args(flags), num_workers=workers.count, notes=notes,
        warnings=check_lists(lists, class_names, workers))
    _, aux_params = params_of(symbol, {}, pretrained.aux_params)
    symbol = checkpoint.set_attributes(symbol, class_names=class_names,
                                       **_attributes(settings, lists, normalisation))
    check_shapes(symbol, arg_params, aux_params, image_shape, flags.model, math.inf)
    return settings, Network(symbol, arg_params, aux_params)


def choose_batch_size(batch_size, num_rows, num_workers=1):
    """The batch size of each worker, at most its share of the rows, and lines for the log."""
    most = -(-num_rows // num_workers)
    if batch_size <= most:
        return batch_size, []
    return most, [f"Batch size {most}, not {batch_size}: there are no more images"]


def choose_image_shape(flags, pretrained, lst, workers):
    """[3, height, width] for --image-shape, and lines for the log; rank 0 decides about `auto`."""
    own = checkpoint.get_attributes(pretrained.symbol).get("image_shape", [3, 224, 224])
    if flags.image_shape is None:
        check_shapes(*pretrained, own, f"{flags.model}-symbol.json")
    if flags.image_shape != "auto":
        return flags.image_shape or own, []
    from reading.image_shape import best_shape, median_size  # for `auto` alone
    shape, why = own, "the checkpoint's, because no training image can be read"
    size = None if workers.rank else median_size(lst.lst, lst.folder, flags.max_pixels)
    if size is not None:
        found = best_shape(*size, flags.image_area)
        try:
            check_shapes(*pretrained, found, flags.model, math.inf)
            shape, why = found, "for training images of {:.0f}x{:.0f} pixels in the median".format(
                *size)
        except InputError:
            why = "the checkpoint's, because the network does not work on {1}x{2}".format(*found)
    shape = workers.broadcast({"shape": np.array(shape)})["shape"].tolist()
    return shape, [f"Image shape {','.join(map(str, shape))} (height, width): {why}"]


def check_lists(lists, class_names, workers):
    """Warnings about classes without present or absent labels, and images in both lists.

    An InputError is raised where no label of a list is present, or no image of validation is new.
    """
    names = class_names or list(map(str, range(lists.train.num_classes)))
    warnings = []
    for lst in filter(None, lists):
        warnings += label_warnings(
            ListCounts(lst.lst.path, lst.num_rows, lst.positives, lst.negatives), names)
    if lists.val and workers.rank == 0:
        from reading.equal_files import check_validation  # not needed without validation
        warnings += filter(None, [check_validation(*lists)])
    return warnings


def choose_pos_weight(pos_weight, lst):
    """The value of --pos-weight as CrossEntropyLoss takes it, `auto` worked out."""
    if pos_weight == "auto":
        return np.clip(lst.negatives / np.maximum(lst.positives, 1), *POS_WEIGHTS).round(4)
    count = len(pos_weight.split(","))
    if count not in (1, lst.num_classes):
        raise InputError(f"{count} weights, but {lst.num_classes} classes; one for all of them "
                         "will do", flag="--pos-weight")
    return pos_weight


def _attributes(settings, lists, normalisation):
    """What the run's checkpoints say of their input and their training, by checkpoint's names.

    Files are named without folders.
    """
    flags, reading = settings.flags, settings.reading
    height, width = settings.image_shape[1:]
    fit = {"pad": "padded", "squash": "squashed", "crop": "cropped"}[reading.fit]
    recipe = [settings.head + f" ({flags.attention:g})" * (settings.head == "attention") + " head"]
    if flags.warm_head_epochs:
        recipe.append(counted(flags.warm_head_epochs, "epoch") + " of the new classifier alone"
                      + ", with mirror images" * flags.warm_head_mirror)
    if flags.num_epoch:
        frozen = f"{settings.freeze_stages} stages" if settings.freeze_stages else flags.freeze
        recipe.append(f"{counted(flags.num_epoch, 'epoch')} of fine-tuning by {flags.optimizer}, "
                      f"learning rate {flags.lr:g} ({flags.lr_schedule}), frozen: {frozen}")
    recipe.append(f"loss {flags.loss}, batches of {settings.batch_size}")
    names = {lst: printable(os.path.basename(lst.lst.path)) for lst in lists if lst}
    training = {
        "pretrained network": printable(os.path.basename(flags.model)),
        "image size": f"{height}x{width}, {fit}", "recipe": "; ".join(recipe),
        **{f"{used} list": f"{names[lst]}, {lst.num_rows:,} images"
           for used, lst in zip(("training", "validation"), lists) if lst},
        "normalisation": normalisation}
    return {
        "image_shape": settings.image_shape, "resize": reading.resize, "fit": reading.fit,
        "full_decode": reading.full_decode, "background": reading.background,
        "training": training, "version": VERSION,
        "training_list": [names[lists.train], lists.train.checksum[:1000]],
        **NO_THRESHOLDS}  # those of an earlier fine-tuning do not apply to the new network
