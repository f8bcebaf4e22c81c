"""Whether a network works on images of a size, with its parameters and a sensible amount of memory.

    check_shapes(net, arg_params, aux_params, (3, 224, 224), "net-symbol.json")
"""
import contextlib
import io
import math

import numpy as np

from common.cli import InputError

# Values that one layer may give for one image, and all layers together. At 1024x1024 pixels VGG-16
# gives 67 million in its largest layer, and ResNet-152 gives 1.6 billion in all.
LARGEST_LAYER = 1 << 26
LARGEST_SUM = 1 << 31


@contextlib.contextmanager
def mxnet_errors(what):
    """Raise an InputError that begins with `what` in place of any error of MXNet's."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        # MXNet chooses the class by the text. This one has a better message in train_multilabel.py.
        if "Failed to allocate" in str(error):
            raise
        raise InputError(f"{what}: {error_line(error)}") from None


def error_line(error):
    """What an MXNetError says, without its stack."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("Traceback", "  File"))),
                type(error).__name__)


def check_shapes(net, arg_params, aux_params, image_shape, source):
    """Check shapes and types of all layers and parameters, without computing anything.

    Parameters
    ----------
    net : mx.sym.Symbol
    arg_params, aux_params : dict of str to mx.nd.NDArray
        There may be fewer or more than the network has.
    image_shape : sequence of 3 ints
    source : str
        File or checkpoint that an error names.

    Returns
    -------
    tuple of int
        Shape of the network's first output for one image.

    Raises
    ------
    InputError
        When the network does not work on such images, has a parameter of another shape, or
        makes more of an image than LARGEST_LAYER or LARGEST_SUM.
    """
    if "data" not in net.list_arguments():
        raise InputError(f"{source}: this network has no input called data")
    layers = net.get_internals()
    raw = "rgb_mean" in net.list_arguments()
    does_not_work = f"{source}: the network does not work on images of {list(image_shape)}"
    # infer_shape prints the shapes given before it raises.
    with mxnet_errors(does_not_work), contextlib.redirect_stdout(io.StringIO()):
        shapes, outputs, aux_shapes = layers.infer_shape(data=(1, *image_shape))
        if shapes is None:
            raise InputError(f"{source}: shapes of the network's layers do not follow from its "
                             "input's")
        if layers.infer_type(data=np.uint8 if raw else np.float32)[0] is None:
            raise InputError(f"{source}: types of the network's layers do not follow from its "
                             "input's")
    known = [*zip(net.list_arguments(), shapes), *zip(net.list_auxiliary_states(), aux_shapes)]
    for name, shape in known:
        value = arg_params.get(name, aux_params.get(name))
        if value is not None and value.shape != shape:
            raise InputError(f"{does_not_work}: {name} is {value.shape}, but has to be {shape}; is "
                             "it another network's?")
    inputs = set(net.list_inputs())
    sizes = [math.prod(shape) if min(shape, default=1) > 0 else math.inf
             for name, shape in zip(layers.list_outputs(), outputs) if name not in inputs]
    if max(sizes, default=0) > LARGEST_LAYER or sum(sizes) > LARGEST_SUM:
        raise InputError(f"{source}: for an image of {list(image_shape)} its largest layer has "
                         f"{max(sizes):.3g} values and all together {sum(sizes):.3g}; at most "
                         f"{LARGEST_LAYER:.3g} and {LARGEST_SUM:.3g} are computed")
    return net.infer_shape(data=(1, *image_shape))[1][0]
