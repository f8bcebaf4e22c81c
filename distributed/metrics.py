"""Metrics over the samples of all workers."""
import copy

from multilabel_metric import Metrics


class MergedMetrics(Metrics):
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

    def load_state(self, state):
        self._merged = None
        super().load_state(state)

    def get_global_name_value(self):
        """Names and values over all workers, who must all ask."""
        if self._merged is None:
            self._totals = self._merge()
            values = dict(pair for metric in self._totals
                          for pair in metric.get_global_name_value())
            self._merged = [(name, float(value))
                            for name, value in self._workers.broadcast(values).items()]
        return self._merged

    def samples(self):
        """As Metrics'; only rank 0 has them, once all have asked for the global values."""
        return next((metric.state() for metric in self._totals
                     if hasattr(metric, "per_class")), {})

    def _merge(self):
        """The metrics over the samples of all workers; none at ranks above 0."""
        states = self._workers.gather(self.state())
        totals = list(map(copy.copy, self.metrics)) if states else []
        for total, *parts in zip(totals, *map(self.parts, states or ())):
            total.load_state(total.merge(parts))
        return totals
