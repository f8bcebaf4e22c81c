"""The labels of a .lst whose rows hold the numbers of the classes that are present."""
from __future__ import annotations

from array import array

import numpy as np

from common.text import quoted
from reading.multi_hot_labels import MAX_CLASSES, WrongLabel, parse_floats


class IndexLabels:
    """The class numbers of all rows in sequence, and where those of each row end (CSR).

    Without `num_classes`, it is the largest class number plus 1.
    """

    def __init__(self, num_classes: int | None) -> None:
        self.expected = num_classes
        self.num_classes = num_classes or 0
        self.classes = array("i")
        self.ends = array("q", [0])

    def add(self, rows: list[bytes]) -> None:
        """Append rows, each the text of its class numbers with a tab after each."""
        limit = self.expected or MAX_CLASSES
        counts = np.array([row.count(b"\t") for row in rows], np.int64)
        text = b"".join(rows)
        if text.translate(None, b"0123456789\t") or b"\t\t" in text or text[:1] in (b"", b"\t"):
            numbers = parse_floats(text)  # single-label lists have 4.000000
        else:
            numbers = np.fromstring(text, np.int64, sep="\t")  # several times as fast
        is_wrong = ~((numbers >= 0) & (numbers < limit) & (numbers == np.trunc(numbers)))
        if is_wrong.any():
            wrong = int(np.argmax(is_wrong))
            place = int(np.searchsorted(counts.cumsum(), wrong, "right"))
            field = text.split(b"\t")[wrong]
            hint = f" ({{flag}} is {limit})" * bool(self.expected)
            raise WrongLabel(place, f"the label {quoted(field)} is not a class "
                                    f"number, 0 to {limit - 1}{hint}")
        numbers = numbers.astype(np.int64)
        keys = np.sort(np.repeat(np.arange(len(rows)), counts) * limit + numbers)
        twice = keys[1:][keys[1:] == keys[:-1]]
        if len(twice):
            place, number = divmod(int(twice[0]), limit)
            raise WrongLabel(place, f"class {number} stands there twice; a row of one 0 or 1 per "
                                    "class needs --label-format multi-hot")
        self.num_classes = max(self.num_classes, int(numbers.max(initial=-1)) + 1)
        self.classes.frombytes(numbers.astype(np.int32).tobytes())
        self.ends.frombytes((self.ends[-1] + counts.cumsum()).tobytes())

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Labels of some rows (int64 numbers): float32, (len(rows), num_classes)."""
        labels = np.zeros((len(rows), self.num_classes), np.float32)
        classes = np.asarray(self.classes, np.int32)
        for label, row in zip(labels, rows.tolist()):
            label[classes[self.ends[row]:self.ends[row + 1]]] = 1
        return labels

    def count(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives: int64, (num_classes,) each, over all `num_rows` rows."""
        positives = np.bincount(self.classes, minlength=self.num_classes).astype(np.int64)
        return positives, num_rows - positives
