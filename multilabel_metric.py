"""Metrics of multi-label classification, as mx.metric.EvalMetric.

    from multilabel_metric import Accuracy, Loss, MeanAveragePrecision
    module.fit(..., eval_metric=mx.metric.CompositeEvalMetric([Loss(), MeanAveragePrecision()]))

Labels are (batch, classes): 1 present, 0 absent, below 0 unknown. Unknown labels count nowhere,
and neither do rows that hold nothing else, such as those that only pad the last batch.
"""
from __future__ import annotations

from typing import Any, Dict, Iterable, Sequence

import numpy as np

from common.metrics import average_precision
from common.mx_compat import mx
from crossentropy_op import cross_entropy

State = Dict[str, Any]  # arrays: a metric's samples so far, empty where there are none


class _Metric(mx.metric.EvalMetric):
    """A metric whose samples can be saved, resumed, and merged with those of other workers.

    Subclasses add a batch of one device in `_add`. Their `state` returns the samples so far as a
    dict of arrays, empty where there are none, and `load_state` goes on from such a dict.
    """

    # Makes one array of several states' arrays.
    _combine: Any = staticmethod(sum)

    @classmethod
    def merge(cls, states: Iterable[State]) -> State:
        """The state over the samples of several metrics."""
        states = [state for state in states if state]
        return {key: cls._combine([state[key] for state in states])
                for key in (states[0] if states else ())}

    def update(self, labels: Sequence[mx.nd.NDArray], preds: Sequence[mx.nd.NDArray]) -> None:
        """Add a batch: lists of one (batch, classes) array per device."""
        for label, prob in zip(labels, preds):
            self._add(label.asnumpy(), prob.asnumpy())


class MeanAveragePrecision(_Metric):
    """mAP: the mean of average precision over the classes that have a present label.

    It keeps about the `latest` samples only, or for None every label and score since the last
    reset, 5 bytes each. reset_local (a Speedometer calls it) forgets nothing.

    >>> metric = MeanAveragePrecision()
    >>> metric.update([mx.nd.array([[1, 0], [0, 1]])], [mx.nd.array([[.9, .2], [.1, .7]])])
    >>> metric.get()
    ('mAP', 1.0)
    """

    @staticmethod
    def _combine(parts: list[np.ndarray]) -> np.ndarray:
        """The samples of all parts in turn, as the rows of a list are dealt out to workers."""
        turns = np.concatenate([np.arange(len(part)) for part in parts])
        return np.concatenate(parts)[np.argsort(turns, kind="stable")]

    def __init__(self, latest: int | None = None, name: str = "mAP", **options: Any) -> None:
        super().__init__(name, **options)
        self.latest = latest

    def reset(self) -> None:
        self.labels, self.scores = [], []

    def state(self) -> State:
        """Labels, int8, and scores, float32, so far: both (samples, classes)."""
        if not self.labels:
            return {}
        return {"labels": np.concatenate(self.labels), "scores": np.concatenate(self.scores)}

    def load_state(self, state: State) -> None:
        self.reset()
        if state:
            self.labels, self.scores = [state["labels"]], [state["scores"]]

    def _add(self, label, score):
        counts = (label >= 0).any(axis=1)
        # 1, 0 and -1 are all that a ranking needs of a label.
        self.labels.append(np.where(label < 0, -1, label > 0.5).astype(np.int8)[counts])
        self.scores.append(score[counts])
        while self.latest and sum(map(len, self.labels[1:])) >= self.latest:
            del self.labels[0], self.scores[0]

    def get(self) -> tuple[str, float]:
        """Name and value; NaN where nothing was present."""
        values = self.per_class()
        values = values[~np.isnan(values)]
        return self.name, float(values.mean()) if len(values) else float("nan")

    def per_class(self) -> np.ndarray:
        """Average precision of each class, (classes,), NaN where nothing was present."""
        state = self.state()
        if not state:
            return np.empty(0)
        return np.array([average_precision(label, score)
                         for label, score in zip(state["labels"].T, state["scores"].T)])


class _Mean(_Metric):
    """A sum over a count, since the last reset and since the last reset_local.

    `of_batch(label, prob)` returns the two for one batch.
    """

    def state(self) -> State:
        """Sum and count since the last reset."""
        return {"sum": np.float64(self.global_sum_metric), "count": np.int64(self.global_num_inst)}

    def load_state(self, state: State) -> None:
        self.sum_metric = self.global_sum_metric = float(state["sum"])
        self.num_inst = self.global_num_inst = int(state["count"])

    def _add(self, label, prob):
        total, count = self.of_batch(label, prob)
        self.sum_metric += total
        self.global_sum_metric += total
        self.num_inst += count
        self.global_num_inst += count


class Loss(_Mean):
    """What training minimises: cross_entropy summed over classes, averaged over samples.

    `loss` is a dict of the operator's options; see crossentropy_op.loss_options.
    """

    def __init__(self, loss: dict[str, Any] | None = None, name: str = "loss",
                 **options: Any) -> None:
        super().__init__(name, has_global_stats=True, **options)
        self.loss = loss or {}

    def of_batch(self, label: np.ndarray, prob: np.ndarray) -> tuple[float, int]:
        """Sum of losses, and number of samples."""
        loss = cross_entropy(prob, label, **self.loss).sum()
        return loss, int((label >= 0).any(axis=1).sum())


class Accuracy(_Mean):
    """Share of all decisions, at a probability of 0.5, that agree with the label.

    Where labels are rare it is high for a network that has learnt nothing: predicting
    "absent" for everything scores the share of absent labels.
    """

    def __init__(self, name: str = "acc", **options: Any) -> None:
        super().__init__(name, has_global_stats=True, **options)

    def of_batch(self, label: np.ndarray, prob: np.ndarray) -> tuple[int, int]:
        """Number of correct decisions, and of all decisions."""
        known = label >= 0
        return int(((prob > 0.5) == (label > 0.5))[known].sum()), int(known.sum())


class Metrics(mx.metric.CompositeEvalMetric):
    """Several of these metrics, whose samples can be saved and resumed together."""

    def get_name_value(self):
        """Names and values since reset_local, for a Speedometer's lines.

        Without mAP, which would sort all samples for each line.
        """
        return [pair for metric in self.metrics if not hasattr(metric, "per_class")
                for pair in metric.get_name_value()]

    def samples(self):
        """The labels and scores of mAP's `state`; without mAP among the metrics an empty dict."""
        return next((metric.state() for metric in self.metrics
                     if hasattr(metric, "per_class")), {})

    def state(self):
        """Arrays that `load_state` takes, of all metrics' samples."""
        return {f"{metric.name}:{key}": np.asarray(value) for metric in self.metrics
                for key, value in metric.state().items()}

    def load_state(self, state):
        """Go on from what `state` returned; KeyError, ValueError or TypeError for other arrays."""
        for metric, part in zip(self.metrics, self.parts(state)):
            metric.load_state(part)

    def parts(self, state):
        """The state of each metric, a list, from the state of all."""
        return [{key[len(metric.name) + 1:]: value for key, value in state.items()
                 if key.startswith(metric.name + ":")} for metric in self.metrics]
