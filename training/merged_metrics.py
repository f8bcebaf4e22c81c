"""The metrics of training and of validation, over the samples of all workers."""
import copy

import numpy as np

from common.mx_compat import mx
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision

# Training's mAP is that of the epoch's latest samples, to bound its memory.
TRAINING_MAP_SAMPLES = 20000


class MergedMetrics(mx.metric.CompositeEvalMetric):
    """Metrics whose global values are over the samples of all workers, as if one had seen them all.

    The metrics need methods `state`, `load_state` and `merge`; see multilabel_metric.
    """

    def __init__(self, metrics, workers):
        self._workers = workers
        super().__init__(metrics)
        self._totals = self.metrics  # over all workers, once these are merged

    def reset(self):
        self._merged = None
        super().reset()

    def update(self, labels, preds):
        self._merged = None
        super().update(labels, preds)

    def get_name_value(self):
        """Names and global values: Module.score logs these, and not get_global_name_value."""
        return self.get_global_name_value()

    def get_global_name_value(self):
        """Names and values over all workers, who must all ask."""
        if self._workers.count == 1:
            return super().get_global_name_value()
        if self._merged is None:
            self._totals = self._merge()
            values = dict(pair for metric in self._totals
                          for pair in metric.get_global_name_value())
            self._merged = [(name, float(value))
                            for name, value in self._workers.broadcast(values).items()]
        return self._merged

    def class_precision(self):
        """Average precision of each class, (classes,); None without mAP among the metrics.

        Of several workers only rank 0 knows it, once all have asked for the global values.
        """
        return next((metric.per_class() for metric in self._totals
                     if hasattr(metric, "per_class")), None)

    def state(self):
        """Arrays that `load_state` takes, of this worker's samples."""
        return {f"{metric.name}:{key}": np.asarray(value) for metric in self.metrics
                for key, value in metric.state().items()}

    def load_state(self, state):
        """Go on from what `state` returned; KeyError, ValueError or TypeError for other arrays."""
        self._merged = None
        for metric, part in zip(self.metrics, self._parts(state)):
            metric.load_state(part)

    def _parts(self, state):
        """The state of each metric, from the state of all."""
        return [{key[len(metric.name) + 1:]: value for key, value in state.items()
                 if key.startswith(metric.name + ":")} for metric in self.metrics]

    def _merge(self):
        """The metrics over the samples of all workers; none at ranks above 0."""
        states = self._workers.gather(self.state())
        totals = list(map(copy.copy, self.metrics)) if states else []
        for total, *parts in zip(totals, *map(self._parts, states or ())):
            total.load_state(total.merge(parts))
        return totals


class TrainingMetrics(MergedMetrics):
    """Metrics of training: a Speedometer's lines show this worker's, without those of a ranking."""

    def get_name_value(self):
        """Names and values since reset_local; mAP would sort all samples for each such line."""
        return [pair for metric in self.metrics if not hasattr(metric, "per_class")
                for pair in metric.get_name_value()]


def training_metrics(loss, workers):
    """Loss, accuracy and mAP of training, for these options of the operator."""
    latest = -(-TRAINING_MAP_SAMPLES // workers.count)
    return TrainingMetrics([Loss(loss), Accuracy(), MeanAveragePrecision(latest=latest)], workers)


def validation_metrics(loss, workers):
    """Loss, accuracy and mAP of validation, for these options of the operator."""
    return MergedMetrics([Loss(loss), Accuracy(), MeanAveragePrecision()], workers)
