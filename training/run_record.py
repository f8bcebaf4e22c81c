"""The position of a run and what it has reached: the plain numbers in a snapshot."""
from dataclasses import dataclass, field
from typing import Optional

from evaluation.history import COLUMNS

METRICS = ("mAP", "loss", "acc")


@dataclass
class RunRecord:
    """Position and results of a run."""

    epoch: int = 0
    batch: int = 0  # so many of the epoch's are done; after the last only validation is left
    best: Optional[dict] = None  # "number" of the best checkpoint, "metric" and its "value"
    since_best: int = 0  # validations since then
    checkpoints: list = field(default_factory=list)  # numbers of those that are kept
    history: list = field(default_factory=list)  # of dicts, a row per epoch; evaluation.history
    seconds: float = 0.0  # spent on the epoch so far

    @classmethod
    def from_json(cls, values):
        """The record whose `asdict` these are; ValueError or TypeError for anything else."""
        record = cls(**values)
        best = record.best
        valid = (
            all(map(_is_count, (record.epoch, record.batch, record.since_best)))
            and _is_number(record.seconds)
            and (best is None or set(best) == {"number", "metric", "value"}
                 and _is_count(best["number"]) and best["metric"] in METRICS
                 and _is_number(best["value"]))
            and isinstance(record.checkpoints, list) and all(map(_is_count, record.checkpoints))
            and isinstance(record.history, list)
            and all(set(row) <= set(COLUMNS) and all(map(_is_number, row.values()))
                    for row in record.history))
        if not valid:
            raise ValueError("not the record of a run")
        return record

    def update_best(self, number, metric, value):
        """Note the validation of a checkpoint; whether it is the best yet."""
        sign = -1 if metric == "loss" else 1
        if self.best is None or sign * value > sign * self.best["value"]:
            self.best = {"number": number, "metric": metric, "value": value}
            self.since_best = 0
            return True
        self.since_best += 1
        return False


def _is_count(value):
    return type(value) is int and 0 <= value < 2 ** 31


def _is_number(value):
    return type(value) is float or _is_count(value)
