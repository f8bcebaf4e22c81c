"""What validation adds to a run: thresholds, metrics at them, baselines, and the best epoch."""
import logging

from common.metrics import average_precision
from evaluation import decisions
from evaluation.decisions import BASELINES
from evaluation.thresholds import choose_thresholds, cross_fitted, with_thresholds
from network import checkpoint

logger = logging.getLogger("train_multilabel")


class Validation:
    """The validation of a run on a SampleList.

    `objective` is what thresholds are chosen for; see evaluation/thresholds.py.
    """

    def __init__(self, lst, objective):
        self.lst, self.objective = lst, objective
        self._samples = {}  # the last ones

    @property
    def baselines(self):
        """What can be scored without looking at the images; see decisions.baselines."""
        return decisions.baselines(self.lst.positives, self.lst.negatives)

    def choose_thresholds(self, samples):
        """Thresholds chosen on Metrics.samples, and a dict of CF1 and OF1 at cross-fitted ones."""
        self._samples = samples
        label, prob = samples["labels"], samples["scores"]
        predicted = cross_fitted(label, prob, self.objective)
        rates = decisions.decision_metrics(decisions.count_decisions(label, predicted))
        return (choose_thresholds(label, prob, self.objective),
                {name: rates[name] for name in ("CF1", "OF1")})

    def symbol_with(self, symbol, thresholds, epoch):
        """The symbol with thresholds for the .params of this number; None: without any."""
        if thresholds is None:
            return symbol
        return with_thresholds(symbol, thresholds, epoch, self.lst.lst.path, self.lst.checksum,
                               self.objective)

    def log_baselines(self, epoch, scores):
        """Log baselines that ignore the images, and warn where the scores are no better."""
        shown = {name: value for name, value in self.baselines.items() if name in ("acc", "mAP")}
        logger.info("Epoch[%d] Baselines: %s", epoch, ", ".join(
            f"{name} {value:.4f} ({BASELINES[name]})" for name, value in shown.items()))
        for name, value in shown.items():
            if scores[name] <= value:
                logger.warning("warning: validation %s %.4f does not beat the baseline %.4f",
                               name, scores[name], value)

    def log_classes(self, symbol):
        """Log the classes with the best and the worst average precision of the last validation."""
        if self._samples:
            names = (checkpoint.get_attributes(symbol).get("class_names")
                     or [str(number) for number in range(self.lst.num_classes)])
            precision = [average_precision(label, score) for label, score in zip(
                self._samples["labels"].T, self._samples["scores"].T)]
            logger.info("Average precision after the last epoch:")
            for line in decisions.best_and_worst(names, precision, self.lst.positives):
                logger.info("%s", line)


def log_best(record, prefix, validation):
    """Log which checkpoint of a RunRecord is the best, kept as `prefix`, and its metrics.

    Returns a dict of "baseline", to compare its value with (None for the loss and, in a resumed
    run, where `validation` is None), and "baseline_is", what reaches that.
    """
    best, every = record.best, validation.baselines if validation else {}
    name, value, baseline = best["metric"], best["value"], every.get(best["metric"])
    beside = f" ({BASELINES[name]} {baseline:.4f})" if baseline is not None else ""
    logger.info("Best: checkpoint %d, validation %s %.4f%s, kept as %s (--model %s --epoch 0)",
                best["number"], name, value, beside, prefix, prefix)
    if baseline is not None and value <= baseline:
        logger.warning("warning: %s %.4f does not beat %s", name, value, BASELINES[name])
    # A snapshot may be a stranger's.
    row = next((row for row in record.history if row.get("epoch") == best["number"]), {})
    if every and {"val-CF1", "val-OF1"} <= set(row):
        logger.info("At its own thresholds: F1 averaged over classes (CF1) %.4f, over all "
                    "decisions (OF1) %.4f; %s: %.4f and %.4f", row["val-CF1"], row["val-OF1"],
                    BASELINES["CF1"], every["CF1"], every["OF1"])
    return {"baseline": baseline, "baseline_is": BASELINES.get(name)}
