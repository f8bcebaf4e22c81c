"""CrossEntropyLoss: binary cross-entropy after a sigmoid, as an MXNet custom operator.

    import crossentropy_op  # registers the operator
    net = mx.symbol.sigmoid(data=net, name="sig")
    net = mx.symbol.Custom(data=net, name="softmax", op_type="CrossEntropyLoss", gamma_neg="2")

The output is the probabilities unchanged, so that the same network trains and predicts.
This file needs nothing else of the project: copy it beside any MXNet script.

With p the probability, y the label, w = `pos_weight`, q = max(p - `clip`, 0), the loss of one
decision is the asymmetric loss of Ben-Baruch et al., "Asymmetric Loss For Multi-Label
Classification", ICCV 2021 (https://arxiv.org/abs/2009.14119):

    loss = - w y (1-p)^gamma_pos log(p) - (1-y) q^gamma_neg log(1-q)

At clip 0 and equal gammas it is the focal loss of Lin et al., ICCV 2017
(https://arxiv.org/abs/1708.02002), and at zeros, the default, plain cross-entropy.
"""
from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import re
import sys
import types
import warnings
from typing import Any, Sequence, Union

import numpy as np
from numpy.typing import ArrayLike

# What MXNet 1.9.1 reads from numpy and today's numpy no longer has. Strings are today's names.
# Names that are None only have to exist.
REMOVED_FROM_NUMPY = {
    "bool": bool, "int": int, "PZERO": 0.0, "NZERO": -0.0, "PINF": np.inf, "NINF": -np.inf,
    "Inf": np.inf, "NaN": np.nan, "NAN": np.nan, "compat": types.SimpleNamespace(basestring=str),
    "trapz": "trapezoid", "alltrue": "all", "sometrue": "any", "in1d": "isin", "product": "prod",
    "cumproduct": "cumprod", "row_stack": "vstack", "round_": "round",
    **dict.fromkeys(("msort", "mirr", "npv", "pmt", "ppmt", "pv", "rate"))}
if np.__version__.split(".")[0] != "1":
    REMOVED_FROM_NUMPY["core"] = "_core"


class NumpyForMXNet(types.ModuleType):
    """numpy with the names that it has removed, for MXNet's modules; numpy itself is unchanged."""

    def __getattr__(self, name):
        value = REMOVED_FROM_NUMPY.get(name, name)
        if isinstance(value, str):
            value = getattr(np, value if hasattr(np, value) else name)
        setattr(self, name, value)
        return value


class LaterModule(types.ModuleType):
    """A module that is imported when something of it is first used."""

    def __getattr__(self, name):
        return getattr(importlib.import_module(self.__name__), name)


class MXNetLoader(importlib.machinery.SourceFileLoader):
    """Loads a module of MXNet in which `import numpy` gives NumpyForMXNet.

    `distutils`, which Python 3.12 removed, is replaced, too: MXNet only compares versions with it.
    Where scipy.stats and scikit-learn are installed, importing them would double the time, for a
    mode of quantization and a base class of the deprecated FeedForward. So the one is imported when
    it is used, and the other counts as not installed unless it is loaded already.
    """

    numpy = NumpyForMXNet("numpy")
    scipy = types.SimpleNamespace(stats=LaterModule("scipy.stats"))
    distutils = types.SimpleNamespace(**dict.fromkeys(
        ("StrictVersion", "LooseVersion"),
        lambda version: [int(number) for number in re.findall(r"\d+", version)]))

    def exec_module(self, module):
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MXNet's code is no longer maintained
            super().exec_module(module)

    def _import(self, name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and name == "distutils.version":
            return self.distutils
        if level == 0 and (name == "scipy.stats" or name == "scipy" and "stats" in fromlist):
            return self.scipy
        if level == 0 and name == "sklearn.base" and "sklearn" not in sys.modules:
            raise ImportError(name)
        imported = builtins.__import__(name, globals, locals, fromlist, level)
        return self.numpy if imported is np else imported


def find_spec(name, path, target=None):
    """Find one of MXNet's modules as Python does, for MXNetLoader; None for any other module."""
    if name.partition(".")[0] != "mxnet":
        return None
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        spec.loader = MXNetLoader(spec.loader.name, spec.loader.path)
    return spec


if "mxnet" not in sys.modules:
    sys.meta_path.insert(0, types.SimpleNamespace(find_spec=find_spec))

import mxnet as mx  # noqa: E402

# Below this, 1/(p(1-p)) is no longer formed: float32 ends at 1e-38, and weights need room.
SMALLEST = 1e-30
LARGEST_FLOAT16 = 65504.0
Number = Union[float, str]  # options come from Python, or as text from MXNet


def loss_options(pos_weight: Number | Sequence[Number] = 1.0, gamma_pos: Number = 0.0,
                 gamma_neg: Number = 0.0, clip: Number = 0.0, label_smoothing: Number = 0.0,
                 grad_scale: Number = 1.0) -> dict[str, Any]:
    """Check the options of the loss, given as numbers or as text, and return them as a dict.

    pos_weight       weight of the present labels, 1e-6 to 1e6: one number, or one per class ("2.0"
                     or "1.0,3.5"); a float or a tuple of floats in the dict
    gamma_pos,       focusing parameters, 0 to 100: how much less easy present and easy absent
    gamma_neg        labels count
    clip             probability margin below which an absent label has no loss, 0 to 0.99
    label_smoothing  s turns labels into y (1 - s) + s / 2; 0 to 0.99
    grad_scale       factor on loss and gradient, 1e-6 to 1e6

    ValueError: a value is not a number, or is outside its range.
    """
    if isinstance(pos_weight, str):
        pos_weight = [w for w in pos_weight.strip("()[] ").split(",") if w.strip()]
    weights = [_in_range("pos_weight", w, 1e-6, 1e6) for w in np.atleast_1d(pos_weight)]
    if not weights:
        raise ValueError("CrossEntropyLoss: pos_weight is empty")
    return {
        "pos_weight": weights[0] if len(weights) == 1 else tuple(weights),
        "gamma_pos": _in_range("gamma_pos", gamma_pos, 0, 100),
        "gamma_neg": _in_range("gamma_neg", gamma_neg, 0, 100),
        "clip": _in_range("clip", clip, 0, 0.99),
        "label_smoothing": _in_range("label_smoothing", label_smoothing, 0, 0.99),
        "grad_scale": _in_range("grad_scale", grad_scale, 1e-6, 1e6),
    }


def _in_range(name: str, value: Number, smallest: float, largest: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"CrossEntropyLoss: {name} must be a number, not {value!r}") from None
    if not smallest <= number <= largest:
        raise ValueError(f"CrossEntropyLoss: {name} must be from {smallest} to {largest}, "
                         f"not {number}")
    # MXNet refuses scalars that float32 cannot hold, such as 1e-311.
    return number if number > SMALLEST else 0.0


def cross_entropy(prob: ArrayLike, label: ArrayLike, **options: Any) -> np.ndarray:
    """The loss that the operator's gradient minimises, in numpy; options as `loss_options`.

    `prob`, 0 to 1, and `label`, 1 present, 0 absent, in between soft, below 0 unknown, are (batch,
    classes). Returns the loss of each decision in nats, (batch, classes), float64: 0 where the
    label is unknown, NaN where `prob` is. The logarithms are clipped where float32 ends, so that
    the loss of a wrong probability of 0 or 1 is large, not infinite.

    >>> cross_entropy([[0.5, 0.5]], [[1, -1]]).round(4).tolist()
    [[0.6931, 0.0]]
    """
    o = loss_options(**options)
    p = np.asarray(prob, np.float64)
    label = np.asarray(label, np.float64)
    y = label * (1 - o["label_smoothing"]) + o["label_smoothing"] / 2
    q = np.maximum(p - o["clip"], 0)
    positive = (1 - p) ** o["gamma_pos"] * np.log(np.maximum(p, 1e-38))
    negative = q ** o["gamma_neg"] * np.log(np.maximum(1 - q, 2.0 ** -25))
    loss = -o["grad_scale"] * (np.asarray(o["pos_weight"]) * y * positive + (1 - y) * negative)
    return np.where(label < 0, 0.0, loss)


class CrossEntropyLoss(mx.operator.CustomOp):
    """Forward: the probabilities. Backward: the derivative of the loss by the probability.

    It is computed as the derivative by the logit, which is bounded, divided by p(1-p), the
    derivative of the sigmoid, by which MXNet multiplies it again. So nothing overflows, and the
    gradient of a logit is exactly p - y for plain cross-entropy, or 0 where p is 0 or 1 in float32.
    In float16 the quotient is clipped at 65504, so that the gradient of a present label decreases
    below a logit of about -11: compute the head in float32 (a Cast in front of it) where that
    matters.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.plain = options == loss_options()
        self.options = options
        self.pos_weight = None

    def forward(self, is_train, req, in_data, out_data, aux):
        self.assign(out_data[0], req[0], in_data[0])

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        """Write or add the gradient of the probabilities; that of the label is 0."""
        dtype = np.float64 if in_data[0].dtype == np.float64 else np.float32
        p, label = (array.astype(dtype, copy=False) for array in in_data)
        by_logit = p - label if self.plain else self._by_logit(p, label)
        by_logit *= label >= 0
        gradient = by_logit / mx.nd.maximum(p * (1 - p), SMALLEST)
        if in_grad[0].dtype == np.float16:
            gradient = gradient.clip(-LARGEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16)
        self.assign(in_grad[0], req[0], gradient)
        self.assign(in_grad[1], req[1], 0)

    def _by_logit(self, p, label):
        o = self.options
        if self.pos_weight is None:
            weights = np.reshape(o["pos_weight"], (1, -1))
            self.pos_weight = mx.nd.array(weights, ctx=p.context, dtype=p.dtype)
        y = label * (1 - o["label_smoothing"]) + o["label_smoothing"] / 2
        absent = 1 - p
        positive = absent ** o["gamma_pos"] * (
            o["gamma_pos"] * p * mx.nd.log(mx.nd.maximum(p, SMALLEST)) - absent)
        q = mx.nd.maximum(p - o["clip"], 0)
        focusing = o["gamma_neg"] * mx.nd.log1p(-mx.nd.minimum(q, 1 - 2.0 ** -24))
        negative = q ** o["gamma_neg"] * p * (
            absent / mx.nd.maximum(1 - q, SMALLEST)
            - absent * focusing / mx.nd.maximum(q, SMALLEST))
        if o["clip"]:
            negative *= p > o["clip"]
        positive = mx.nd.broadcast_mul(positive, self.pos_weight)
        return o["grad_scale"] * (y * positive + (1 - y) * negative)


@mx.operator.register("CrossEntropyLoss")
class CrossEntropyLossProp(mx.operator.CustomOpProp):
    """Inputs `data` (probabilities) and `label`, both (batch, classes); output as `data`.

    Options are text, as MXNet passes them; see `loss_options`. An invalid option is an MXNetError
    when shapes are inferred. Where the two input shapes differ, MXNet's error names both.
    """

    def __init__(self, **options: str) -> None:
        super().__init__(need_top_grad=False)
        self.error: Exception | None = None
        try:
            self.loss_options = loss_options(**options)
        except (TypeError, ValueError) as error:
            # Raising in this constructor crashes MXNet 1.9.1; infer_shape may raise.
            self.error = error

    def list_arguments(self) -> list[str]:
        """With name="softmax" the label is called `softmax_label`."""
        return ["data", "label"]

    def infer_shape(self, in_shape: list[list[int]]) -> tuple[list, list, list]:
        """The label's shape and the output's are the data's."""
        if self.error is not None:
            raise self.error
        data = in_shape[0]
        weights = np.size(self.loss_options["pos_weight"])
        if weights > 1 and weights != data[-1]:
            raise ValueError(
                f"CrossEntropyLoss: {weights} values in pos_weight, but {data[-1]} classes")
        return [data, data], [data], []

    def infer_type(self, in_type: list) -> tuple[list, list, list]:
        """The label may have another type than the data."""
        data = in_type[0]
        return [data, data if in_type[1] is None else in_type[1]], [data], []

    def create_operator(self, ctx, in_shapes, in_dtypes) -> CrossEntropyLoss:
        return CrossEntropyLoss(self.loss_options)
