"""Measures over the samples of all workers."""
import copy

import numpy as np

from common.mx_compat import mx


class MergedMetrics(mx.metric.CompositeEvalMetric):
    """Measures whose totals are over the samples of all workers, as if one had seen them all.

    Parameters
    ----------
    metrics : list of mx.metric.EvalMetric
        With methods `state`, `start_from` and `merge`; see multilabel_metric.
    workers : Workers
    local : bool
        Whether what is since reset_local, for a Speedometer, stays this worker's. Module.score
        asks for that too: not for validation.
    """

    def __init__(self, metrics, workers, local=True):
        self._workers, self._local = workers, local
        self._merged = self._class_precision = None
        super().__init__(metrics)

    def reset(self):
        """Forget all samples."""
        self._merged = None
        super().reset()

    def update(self, labels, preds):
        """Add this worker's batch."""
        self._merged = None
        super().update(labels, preds)

    def get_name_value(self):
        """Names and values since reset_local of this worker, or with `local` off as the global."""
        return super().get_name_value() if self._local else self.get_global_name_value()

    def get_global_name_value(self):
        """Names and values over all workers, who must all ask."""
        if self._workers.count == 1:
            return super().get_global_name_value()
        if self._merged is None:
            self._merged = self._merge()
        return self._merged

    def class_precision(self):
        """Average precision of each class, (classes,), by the mAP among the measures.

        Of several workers only rank 0 knows it, once all have asked for the global values.
        """
        if self._workers.count == 1:
            self._class_precision = self._of_classes(self.metrics)
        return self._class_precision

    @staticmethod
    def _of_classes(metrics):
        return next((m.per_class() for m in metrics if hasattr(m, "per_class")), None)

    def _merge(self):
        mine = {f"{metric.name}:{key}": np.asarray(value) for metric in self.metrics
                for key, value in metric.state().items()}
        parts, values = self._workers.gather(mine), None
        if parts:
            values, totals = {}, []
            for metric in self.metrics:
                start = metric.name + ":"
                total = copy.copy(metric)
                total.start_from(metric.merge([
                    {key[len(start):]: value for key, value in part.items()
                     if key.startswith(start)} for part in parts]))
                total.reset()
                values.update(total.get_global_name_value())
                totals.append(total)
            self._class_precision = self._of_classes(totals)
        return [(name, float(value)) for name, value in self._workers.broadcast(values).items()]
