"""What the frozen part of a network gives for each image, computed once and stored.

While layers are frozen, what they give for an image never changes, unless the images are cropped
or recoloured at random. So every image passes through them once: the warm head trains on the
features, and an epoch of fine-tuning costs only the last stages, which take the outputs of the
frozen ones before them.
"""
import logging

from common.cli import InputError
from common.mx_compat import mx
from network.fine_tune import split_head
from network.forward_pass import ForwardPass, choose_forward_pass
from network.graph import layers_up_to, params_of
from network.int8 import multiplies_exactly
from network.stages import layers_after
from training.data import Split, open_iterator
from training.settings import Network
from training.stored_features import FeatureIter, collect, extract

logger = logging.getLogger("train_multilabel")

WARM_HEAD_STOPPED = " in the warm head, of which nothing is saved: the same command starts it anew"


def pass_images(settings, network, compute, this_run):
    """Pass each image, and its mirror image where one is needed, once through the frozen layers.

    Training images may pass in int8, validation images pass in float32. Of several workers each
    passes its own images, and rank 0 gets what all of them give. A signal ends the pass. Returns,
    each by the lists, for the warm head and for the stages that are trained, (values, labels); None
    where they are not needed, or there is no list.
    """
    flags, lists, workers = settings.flags, this_run.lists, compute.workers
    outputs = {"features": split_head(network.symbol)[0]}
    mirrors = {"features": bool(flags.warm_head_mirror)}
    if not flags.warm_head_epochs or this_run.snapshot:
        del mirrors["features"]
    if settings.stores_activations:
        # Together with the features, also where these are not stored: in int8 one output may
        # depend on whether there are others, and a resumed run must get what the first one got.
        outputs["stages"] = layers_up_to(network.symbol, settings.last_frozen_layer)
        if flags.num_epoch:
            mirrors["stages"] = bool(flags.random_mirror)
    if not mirrors:
        return None, None
    network = network._replace(symbol=mx.sym.Group([*outputs.values()]))
    iterators = [lst and open_iterator(settings, lst) for lst in lists]
    num_passes = (1 + any(mirrors.values())) * lists.train.num_rows
    forward, reason = _open_forward_pass(settings, network, lists.train, num_passes, compute,
                                         this_run)
    logger.info("Passing %d images once through the frozen layers, in %s: %s",
                sum(lst.num_rows for lst in lists if lst), forward.precision, reason)
    passes = [forward, forward]
    if lists.val and forward.precision != "float32":
        # The best epoch and the thresholds are the checkpoint's, which predicts in float32.
        passes[1] = ForwardPass(*network, iterators[1].provide_data[0], compute.contexts)

    def stop_if_asked():
        this_run.stops.stop_unsaved(
            WARM_HEAD_STOPPED if "features" in mirrors else
            " in the frozen stages: --resume goes on from the snapshot" if this_run.snapshot else
            " in the frozen stages, before anything was saved: the same command starts anew")

    stored = {name: [] for name in ("features", "stages")}
    for lst, iterator, forward in zip(lists, iterators, passes):
        wanted = [None if name not in mirrors else mirrors[name] and lst is lists.train
                  for name in outputs]
        storage = flags.save_result, flags.feature_memory * 1e6
        found = extract(forward, iterator, wanted, *storage, stop_if_asked) if lst else [None] * 2
        for name, values in zip(outputs, found):
            stored[name].append(values and collect(workers, *values, *storage))
    return tuple(stored[name] if name in mirrors else None for name in stored)


def _open_forward_pass(settings, network, lst, num_passes, compute, this_run):
    """The ForwardPass of the frozen layers, in the run's precision, and the reason for that."""
    flags, begun, precision = settings.flags, None, settings.flags.frozen_precision
    why = "--frozen-precision"
    if this_run.snapshot:
        begun = this_run.record.frozen_precision or "float32"
        if precision == "auto":
            precision, why = begun, "as the run began"
            if begun == "int8" and not multiplies_exactly():
                raise InputError("the run began in int8, which this processor does not compute "
                                 "exactly; --frozen-precision int8 goes on all the same",
                                 flag="--resume")
    if compute.workers.count > 1:
        # Processors of several kinds could give different features.
        precision, why = "float32", "as there are several workers"
    # Not as augmented: the ranges of int8 are those of what passes.
    sample = open_iterator(settings, lst, shuffle=True, prefetch=1)
    with sample:
        forward, reason = choose_forward_pass(
            network, sample.provide_data[0], compute.contexts, precision, num_passes,
            lambda: sample.next().data[0])
    reason = reason or why
    if begun not in (None, forward.precision) and not flags.resume_anyway:
        raise InputError(f"the run began in {begun}, and now the frozen layers would be computed "
                         f"in {forward.precision} ({reason}); --resume-anyway goes on all the same",
                         flag="--resume")
    this_run.files.set_frozen_precision(forward.precision)
    return forward, reason


def after_frozen_stages(settings, network, stored):
    """The network after the frozen stages, and a Split that iterates over what these gave.

    `stored` is from `pass_images`.
    """
    train, val = stored
    data = Split(FeatureIter(*train, settings.batch_size, settings.flags.seed,
                             bool(settings.flags.random_mirror)),
                 val and FeatureIter(*val, settings.batch_size))
    rest = layers_after(network.symbol, settings.last_frozen_layer)
    return Network(rest, *params_of(rest, network.arg_params, network.aux_params)), data
