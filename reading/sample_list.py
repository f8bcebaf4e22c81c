"""A .lst with the folder of its images, as an iterator reads it."""


class SampleList:
    """Samples of a run, and their totals.

    An iterator reads `lst` (LstFile), whose images are in `folder`; of several workers each reads
    its `shard`, (number, count). `num_rows`, `num_classes`, `checksum`, `positives` and `negatives`
    are as those of an LstFile, but over all workers' lists.
    """

    def __init__(self, lst, folder, shard=(0, 1)):
        self.lst, self.folder, self.shard = lst, folder, shard
        self.num_rows, self.num_classes, self.checksum = len(lst), lst.num_classes, lst.checksum
        self.positives, self.negatives = lst.positives, lst.negatives
