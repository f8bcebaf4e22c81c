"""Training the last stages of a network on stored outputs of the frozen ones before them.

While the first stages are frozen, what they give for an image never changes, unless the images are
cropped or recoloured at random: so every image passes through them once, and an epoch costs only
the stages that are trained.
"""
import logging

from network.forward_pass import ForwardPass
from network.stages import tail, until
from reading.data_args import augment_from_args
from training.data import Network, open_iterator
from training.stored_features import FeatureIter, extract

logger = logging.getLogger("train_multilabel")


def can_be_stored(args, workers):
    """Whether one worker trains behind frozen stages, on images that are at most mirrored."""
    return bool(args.freeze_stages) and workers.count == 1 and augment_from_args(args).only_mirrors


def on_stored_activations(args, network, frontier, data, devices, stops):
    """The network behind the layer `frontier`, and Data that iterates over what that gives.

    Each image passes through the frozen stages once, and where training mirrors it at random once
    more.
    """
    frozen = ForwardPass(until(network.symbol, frontier), network.arg_params, network.aux_params,
                         data.train.provide_data[0], devices.contexts)
    logger.info("Frozen stages: passing %d images once through all up to %s",
                data.train_lst.num_rows + (data.val_lst.num_rows if data.val_lst else 0), frontier)

    def stored(iterator, mirror, seed):
        values = extract(frozen, iterator, mirror, args.save_result, args.warm_head_memory * 1e6,
                         lambda _: stops.stop_unsaved_run(
                             " in the frozen stages: --resume goes on from what was saved before"))
        return FeatureIter(*values, args.batch_size, seed, mirror)

    train = stored(open_iterator(args, data.train_lst), bool(args.random_mirror), args.seed)
    val = data.val and stored(data.val, False, None)
    rest = tail(network.symbol, frontier)
    return (Network(rest, *({name: params[name] for name in names if name in params}
                            for names, params in ((rest.list_arguments(), network.arg_params),
                                                  (rest.list_auxiliary_states(),
                                                   network.aux_params)))),
            data._replace(train=train, val=val))
