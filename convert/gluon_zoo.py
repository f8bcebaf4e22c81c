"""Networks of MXNet's Gluon model zoo."""
import difflib
import os
import re
import zipfile
from pathlib import Path

from common.cli import InputError
from common.mx_compat import mx
from network import checkpoint
from network.graph import params_of

ANSWER_SECONDS = 10
OTHER_WAYS = "take efficientnet_lite0, a file by --torch-resnet or --onnx, or give --random"


def import_gluon(name, random=False, seed=0):
    """A model of the zoo: symbol, arg_params, aux_params, and the side of its images in pixels.

    `name` is as in `gluon_name`. With `random` it is untrained, from the random seed `seed`;
    otherwise it has the weights of MXNet's model store.
    """
    name = gluon_name(name)
    # The only one of the zoo for larger images.
    size = 299 if name == "inceptionv3" else 224
    if random:
        mx.random.seed(seed)
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


def gluon_name(name):
    """The zoo's own spelling of a name (squeezenet1.1 for squeezenet1_1)."""
    zoo = sorted(mx.gluon.model_zoo.model_store._model_sha1)
    plain = {re.sub("[._]", "", known): known for known in zoo}
    wanted = re.sub("[._]", "", name.lower())
    if wanted not in plain:
        close = difflib.get_close_matches(wanted, plain, n=3, cutoff=0.5) or plain
        raise InputError(f"{{flag}} {name}: not in the model zoo; it has "
                         + ", ".join(plain[match] for match in close), flag="--gluon")
    return plain[wanted]


def _pretrained_gluon(name):
    """A Gluon network with the weights of MXNet's model store, which keeps what it downloaded."""
    import requests  # mxnet brings it

    store = mx.gluon.model_zoo.model_store
    kept = Path(mx.base.data_dir(), "models", f"{name}-{store.short_hash(name)}.params")
    if not kept.is_file():
        # Gluon would try five times without a time limit; so ask first.
        host = os.environ.get("MXNET_GLUON_REPO", store.apache_repo_url).rstrip("/")
        url = f"{host}/gluon/models/{kept.stem}.zip"
        try:
            requests.head(url, timeout=ANSWER_SECONDS).raise_for_status()
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            reason = f"it answers {status}" if status else "it cannot be reached"
            raise InputError(f"{{flag}} {name}: no weights from MXNet's model store: {reason} "
                             f"({host}); {OTHER_WAYS}, or put {kept.name} into {kept.parent}",
                             flag="--gluon") from None
    try:
        return mx.gluon.model_zoo.vision.get_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, mx.MXNetError,
            requests.RequestException) as error:
        raise InputError(f"{{flag}} {name}: download from MXNet's model store failed: {error}; "
                         f"{OTHER_WAYS}", flag="--gluon") from None
