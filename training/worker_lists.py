"""The .lst of a run of several workers: one list for all of them, or one for each.

    lst = WorkersList("shards/train_{rank}.lst", "shards/{rank}", workers)
"""
import numpy as np

from common.cli import InputError
from reading.lst_file import read_lst
from training.workers import Workers

RANK = "{rank}"


class WorkersList:
    """A list that is read, and what all workers together know of it.

    Parameters
    ----------
    path, folder : str
        The .lst, and where its names start from. Without {rank} in `path` the workers share the
        list, and each reads a part of its own in each epoch. With it each has the list of its
        rank to itself; `tools/make_lst.py shard` makes such lists.
    workers : Workers
    num_classes, label_format
        As `read_lst`.

    Attributes
    ----------
    lst : LstFile
    folder : str
    readers : Workers
        Those who share `lst`.
    num_classes : int
    num_rows : int
        Of all workers, like the following.
    positives, negatives : np.ndarray, (classes,)
    checksum : str

    Raises
    ------
    InputError
        When a list is wrong, or the workers' lists do not go together.
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
        mine = {"rows": np.array(len(self.lst)), "checksum": np.array(self.lst.checksum),
                "positives": self.positives, "negatives": self.negatives}
        parts, together = workers.gather(mine), None
        if parts:
            together = {name: np.array([part[name] for part in parts])
                        for name in ("rows", "checksum")}
            together["classes"] = np.array([len(part["positives"]) for part in parts])
            if len(set(together["classes"])) == 1:
                together.update((name, np.sum([part[name] for part in parts], axis=0))
                                for name in ("positives", "negatives"))
        together = workers.broadcast(together)
        if len(set(together["classes"])) > 1:
            raise InputError(f"{path}: the workers' lists have different numbers of classes "
                             f"({', '.join(map(str, together['classes']))}): --num-classes says "
                             "how many there are")
        # With fewer rows a worker would end its epoch early, and the others wait for ever.
        if len(self.lst) < together["rows"].max():
            self.lst = FilledUp(self.lst, int(together["rows"].max()))
        self.num_rows = int(together["rows"].sum())
        self.checksum = " ".join(together["checksum"])
        self.positives, self.negatives = together["positives"], together["negatives"]


class FilledUp:
    """An LstFile and as many rows more as it takes to reach a length; they count nowhere."""

    def __init__(self, lst, length):
        self._lst, self._length = lst, length
        self.path, self.num_classes = lst.path, lst.num_classes

    def __len__(self):
        return self._length

    def labels(self, rows):
        """As LstFile's; -1 in the further rows."""
        rows = np.asarray(rows)
        labels = self._lst.labels(self._real(rows))
        labels[rows >= len(self._lst)] = -1
        return labels

    def name(self, row):
        """As LstFile's; the first image again for the further rows."""
        return self._lst.name(int(self._real(row)))

    def line(self, row):
        """As LstFile's."""
        return self._lst.line(int(self._real(row)))

    def _real(self, rows):
        return np.where(np.asarray(rows) < len(self._lst), rows, 0)
