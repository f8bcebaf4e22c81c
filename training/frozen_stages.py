"""Training the last stages of a network on stored outputs of the frozen ones before them.

While the first stages are frozen, what they give for an image never changes, unless the images are
cropped or recoloured at random: so every image passes through them once, and an epoch costs only
the stages that are trained.
"""
import logging

from network.forward_pass import ForwardPass
from network.graph import layers_up_to
from network.stages import layers_after
from training.data import Split, open_iterator
from training.settings import Network
from training.stored_features import FeatureIter, extract

logger = logging.getLogger("train_multilabel")


def on_stored_activations(settings, network, lists, compute, check_stop):
    """The network behind the frozen stages, and iterators over what these give, a Split.

    Each image passes through the frozen stages once, and where training mirrors it at random once
    more. What `check_stop` raises after a batch ends that.
    """
    flags, last_frozen_layer = settings.flags, settings.last_frozen_layer
    train, val = (lst and open_iterator(settings, lst) for lst in lists)
    frozen = ForwardPass(layers_up_to(network.symbol, last_frozen_layer), network.arg_params,
                         network.aux_params, train.provide_data[0], compute.contexts)
    logger.info("Frozen stages: passing %d images once through all up to %s",
                sum(lst.num_rows for lst in lists if lst), last_frozen_layer)

    def stored(iterator, mirror, seed):
        values = extract(frozen, iterator, mirror, flags.save_result, flags.feature_memory * 1e6,
                         check_stop)
        return FeatureIter(*values, settings.batch_size, seed, mirror)

    data = Split(stored(train, bool(flags.random_mirror), flags.seed),
                val and stored(val, False, None))
    rest = layers_after(network.symbol, last_frozen_layer)
    return (Network(rest, *({name: params[name] for name in names if name in params}
                            for names, params in ((rest.list_arguments(), network.arg_params),
                                                  (rest.list_auxiliary_states(),
                                                   network.aux_params)))), data)
