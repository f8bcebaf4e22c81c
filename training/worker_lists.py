"""The .lst of a run of several workers: one list for all of them, or one per worker.

    lst = WorkersList("shards/train_{rank}.lst", "shards/{rank}", workers)
"""
import numpy as np

from common.cli import InputError
from reading.lst_file import read_lst
from training.workers import Workers

RANK = "{rank}"


class WorkersList:
    """A list of samples, and its totals over all workers.

    Parameters
    ----------
    path, folder : str
        The .lst, and the folder that its image names are relative to. Without {rank} in `path`
        all workers share the list, and each reads a part of it in each epoch. With {rank} each
        worker has a list of its own; `tools/make_lst.py shard` makes such lists.
    workers : Workers
    num_classes, label_format
        As for `read_lst`.

    Attributes
    ----------
    lst : LstFile or PaddedLst
        The list that this worker reads.
    folder : str
        Where its images are.
    readers : Workers
        The workers that share `lst`.
    num_classes : int
    num_rows : int
        Number of rows over all workers.
    positives, negatives : np.ndarray, (classes,)
        Number of labels 1 and 0 per class, over all workers.
    checksum : str
        Of all workers' lists.

    Raises
    ------
    InputError
        When a list is wrong, or the workers' lists do not fit together.
    """

    def __init__(self, path, folder, workers, num_classes=None, label_format="multi-hot"):
        own = RANK in path and workers.count > 1
        rank = str(workers.rank)
        self.lst = lst = read_lst(path.replace(RANK, rank), num_classes, label_format)
        self.folder = folder.replace(RANK, rank)
        self.readers = Workers() if own else workers
        self.num_rows, self.checksum = len(lst), lst.checksum
        self.num_classes = lst.num_classes
        self.positives, self.negatives = lst.positives, lst.negatives
        if own:
            self._join(path, workers)

    def _join(self, path, workers):
        own = {"rows": np.array(len(self.lst)), "checksum": np.array(self.lst.checksum),
               "positives": self.positives, "negatives": self.negatives}
        parts, total = workers.gather(own), None
        if parts:
            total = {name: np.array([part[name] for part in parts])
                     for name in ("rows", "checksum")}
            total["classes"] = np.array([len(part["positives"]) for part in parts])
            if len(set(total["classes"])) == 1:
                total.update((name, np.sum([part[name] for part in parts], axis=0))
                             for name in ("positives", "negatives"))
        total = workers.broadcast(total)
        if len(set(total["classes"])) > 1:
            raise InputError(f"{path}: the workers' lists have different numbers of classes "
                             f"({', '.join(map(str, total['classes']))}): --num-classes says "
                             "how many there are")
        # A worker with fewer rows would end its epoch early, and the others would wait for it.
        if len(self.lst) < total["rows"].max():
            self.lst = PaddedLst(self.lst, int(total["rows"].max()))
        self.num_rows = int(total["rows"].sum())
        self.checksum = " ".join(total["checksum"])
        self.positives, self.negatives = total["positives"], total["negatives"]


class PaddedLst:
    """An LstFile padded to a length with rows whose labels are unknown (-1)."""

    def __init__(self, lst, length):
        self._lst, self._length = lst, length
        self.path, self.num_classes = lst.path, lst.num_classes

    def __len__(self):
        return self._length

    def labels(self, rows):
        """Labels of rows, as of LstFile; -1 in padding."""
        rows = np.asarray(rows)
        labels = self._lst.labels(self._real(rows))
        labels[rows >= len(self._lst)] = -1
        return labels

    def name(self, row):
        """Image name of a row, as of LstFile; that of the first row for padding."""
        return self._lst.name(int(self._real(row)))

    def line(self, row):
        """Line of a row in the file, as of LstFile; that of the first row for padding."""
        return self._lst.line(int(self._real(row)))

    def _real(self, rows):
        return np.where(np.asarray(rows) < len(self._lst), rows, 0)
