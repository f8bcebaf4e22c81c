"""The .lst of a run of several workers: one list for all of them, or one per worker."""
import numpy as np

from common.cli import InputError
from reading.image_list import SampleList
from reading.lst_file import read_lst

RANK = "{rank}"


def read_list(path, folder, workers, num_classes=None, label_format="multi-hot"):
    """The SampleList of this worker, whose totals are over all workers.

    Without {rank} in `path` all workers share the list, and each reads a part of it in each epoch.
    With {rank} each worker has a list of its own; `tools/make_lst.py shard` makes such lists. An
    InputError says what is wrong with a list, or that the workers' lists do not fit together.
    """
    rank = str(workers.rank)
    lst = read_lst(path.replace(RANK, rank), num_classes, label_format)
    folder = folder.replace(RANK, rank)
    if RANK in path and workers.count > 1:
        return _joined(SampleList(lst, folder), path, workers)
    return SampleList(lst, folder, (workers.rank, workers.count))


def _joined(lst, path, workers):
    """The workers' own lists with their totals; shorter ones are padded."""
    def of_all(**numbers):
        parts = workers.gather({key: np.array(value) for key, value in numbers.items()})
        return workers.broadcast(
            parts and {key: np.array([part[key] for part in parts]) for key in numbers})

    lists = of_all(classes=lst.num_classes, rows=lst.num_rows, checksum=lst.checksum)
    if len(set(lists["classes"])) > 1:
        raise InputError("the workers' lists have different numbers of classes "
                         f"({', '.join(map(str, lists['classes']))}): {{flag}} says how many "
                         "there are", file=path, flag="--num-classes")
    labels = of_all(positives=lst.positives, negatives=lst.negatives)
    # A worker with fewer rows would end its epoch early, and the others would wait for it.
    if lst.num_rows < lists["rows"].max():
        lst.lst = PaddedLst(lst.lst, int(lists["rows"].max()))
    lst.num_rows = int(lists["rows"].sum())
    lst.checksum = " ".join(lists["checksum"])
    lst.positives, lst.negatives = (labels[key].sum(axis=0) for key in ("positives", "negatives"))
    return lst


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
