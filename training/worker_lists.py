"""The .lst of a run of several workers: one list for all of them, or one per worker."""
import numpy as np

from common.cli import InputError
from reading.lst_file import read_lst
from training.workers import Workers

RANK = "{rank}"


class WorkersList:
    """A list of samples, and its totals over all workers.

    Without {rank} in `path` all workers share the list, and each reads a part of it in each epoch.
    With {rank} each worker has a list of its own; `tools/make_lst.py shard` makes such lists. An
    InputError says what is wrong with a list, or that the workers' lists do not fit together.

    This worker reads `lst`, an LstFile or PaddedLst, which `readers` (Workers) share, and its
    images from `folder`. `num_rows`, `checksum`, `positives` and `negatives` are as those of an
    LstFile, but over all workers' lists.
    """

    def __init__(self, path, folder, workers, num_classes=None, label_format="multi-hot"):
        own = RANK in path and workers.count > 1
        self.readers = Workers() if own else workers
        rank = str(workers.rank)
        self.folder = folder.replace(RANK, rank)
        self.lst = lst = read_lst(path.replace(RANK, rank), num_classes, label_format)
        self.num_rows, self.num_classes, self.checksum = len(lst), lst.num_classes, lst.checksum
        self.positives, self.negatives = lst.positives, lst.negatives
        if own:
            self._join(path, workers)

    def _join(self, path, workers):
        """Take the totals over the workers' own lists."""
        def of_all(**numbers):
            parts = workers.gather({key: np.array(value) for key, value in numbers.items()})
            return workers.broadcast(
                parts and {key: np.array([part[key] for part in parts]) for key in numbers})

        lists = of_all(classes=self.num_classes, rows=len(self.lst), checksum=self.checksum)
        if len(set(lists["classes"])) > 1:
            raise InputError(f"{path}: the workers' lists have different numbers of classes "
                             f"({', '.join(map(str, lists['classes']))}): --num-classes says "
                             "how many there are")
        labels = of_all(positives=self.positives, negatives=self.negatives)
        # A worker with fewer rows would end its epoch early, and the others would wait for it.
        if len(self.lst) < lists["rows"].max():
            self.lst = PaddedLst(self.lst, int(lists["rows"].max()))
        self.num_rows = int(lists["rows"].sum())
        self.checksum = " ".join(lists["checksum"])
        self.positives, self.negatives = (
            labels[key].sum(axis=0) for key in ("positives", "negatives"))


class PaddedLst:
    """An LstFile padded to a length with rows whose labels are unknown (-1)."""

    def __init__(self, lst, length):
        self._lst, self._length = lst, length
        self.path, self.num_classes = lst.path, lst.num_classes

    def __len__(self):
        return self._length

    def labels(self, rows):
        """Labels of some rows, as LstFile's; -1 in padding."""
        rows = np.asarray(rows)
        labels = self._lst.labels(self._real(rows))
        labels[rows >= len(self._lst)] = -1
        return labels

    def name(self, row):
        """File name in a row; that of the first row for padding."""
        return self._lst.name(int(self._real(row)))

    def line(self, row):
        """Line number of a row; that of the first row for padding."""
        return self._lst.line(int(self._real(row)))

    def _real(self, rows):
        return np.where(np.asarray(rows) < len(self._lst), rows, 0)
