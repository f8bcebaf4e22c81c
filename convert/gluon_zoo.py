"""Networks of MXNet's Gluon model zoo."""
import os
import zipfile
from pathlib import Path

from common.cli import InputError
from common.mx_compat import mx
from network import checkpoint
from network.graph import params_of

ANSWER_SECONDS = 10


def import_gluon(name, random=False):
    """A model of the zoo: symbol, arg_params, aux_params, and the side of its images in pixels.

    `name` is the zoo's. With `random` the network is untrained, always with the same weights;
    otherwise it has those of MXNet's model store.
    """
    names = sorted(mx.gluon.model_zoo.model_store._model_sha1)
    if name not in names:
        raise InputError(f"{{flag}} {name}: not in the model zoo; it has {', '.join(names)}",
                         flag="--gluon")
    # The only one of the zoo for larger images.
    size = 299 if name == "inceptionv3" else 224
    if random:
        mx.random.seed(0)
        net = mx.gluon.model_zoo.vision.get_model(name)
        net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    else:
        net = _pretrained_gluon(name)
    # Gluon settles some shapes at the first call.
    net(mx.nd.zeros((1, 3, size, size)))
    x, constants = checkpoint.normalised_data(checkpoint.IMAGENET_MEAN, checkpoint.IMAGENET_STD)
    sym = mx.sym.SoftmaxOutput(net(x), name="softmax")
    params = {name: parameter.data() for name, parameter in net.collect_params().items()}
    arg_params, aux_params = params_of(sym, params, params)
    return sym, {**constants, **arg_params}, aux_params, size


def _pretrained_gluon(name):
    """A Gluon network with the weights of MXNet's model store, which keeps what it downloaded."""
    import requests  # mxnet brings it

    store = mx.gluon.model_zoo.model_store
    kept = Path(mx.base.data_dir(), "models", f"{name}-{store.short_hash(name)}.params")
    host = os.environ.get("MXNET_GLUON_REPO", store.apache_repo_url).rstrip("/")
    try:
        if not kept.is_file():  # Gluon would try five times without a time limit; so ask first
            requests.head(f"{host}/gluon/models/{kept.stem}.zip",
                          timeout=ANSWER_SECONDS).raise_for_status()
        return mx.gluon.model_zoo.vision.get_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, mx.MXNetError) as error:
        raise InputError(f"{{flag}} {name}: no weights from MXNet's model store ({error}); take "
                         "efficientnet_lite0, a file by --torch-resnet or --onnx, or give "
                         f"--random, or put {kept.name} into {kept.parent}",
                         flag="--gluon") from None
