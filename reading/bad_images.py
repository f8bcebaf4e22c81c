"""What becomes of the images that cannot be used: stop, leave them out, or report them."""
from __future__ import annotations

import logging

from common.cli import InputError, require
from common.text import printable
from reading.image_reader import ImageError
from reading.prefetch import Batch

BAD_IMAGES = ("fail", "skip")  # --bad-images
MAX_BAD_SHARE = 0.05  # of an epoch's images, with "skip"

logger = logging.getLogger("lst_iter")


class BadImages:
    """Applies `LstIter`'s argument `bad_images` to its batches."""

    def __init__(self, lst, policy: str) -> None:
        require(policy in (*BAD_IMAGES, "report"), "bad_images", "fail, skip or report", policy)
        self._lst, self._policy = lst, policy
        self._reasons = {}  # for each row that was ever left out
        self.reset()

    def reset(self) -> None:
        """Count from 0, at the beginning of an epoch."""
        self._count = self._num_read = 0

    def check(self, batch: Batch, epoch: int, epoch_size: int, is_last: bool) -> dict[int, str]:
        """Raise what must not be left out of a filled batch, and count and log the rest.

        Returns the slots of the images left out, and why. An InputError is raised when an image
        cannot be used, or, with "skip", too many; nothing is counted then, so that the batch can
        be asked for again.
        """
        path, bad = printable(self._lst.path), {}
        for slot in sorted(batch.errors):
            error, row = batch.errors[slot], int(batch.rows[slot])
            if not isinstance(error, ImageError):
                raise error
            bad[slot] = error.reason
            if self._policy == "report":
                continue
            line = self._lst.line(row)
            if self._policy == "fail":
                raise InputError(f"{error} ({{flag}} skip leaves such images out)", file=path,
                                 line=line, flag="--bad-images") from error
            if row not in self._reasons:
                self._reasons[row] = error.reason
                logger.warning("%s:%d: %s: left out", path, line, error)
        # The exceptions refer to the frames that they were raised in, and these to the batch.
        batch.errors.clear()
        num_images = len(batch.rows) - batch.pad
        num_read = self._num_read + num_images
        count = self._count + sum(slot < num_images for slot in bad)
        if self._policy == "skip" and count:
            # As a share of the whole epoch, so that it does not matter where bad images stand.
            if count / epoch_size > MAX_BAD_SHARE:
                raise InputError(f"{count} of the first {num_read} images of epoch {epoch} cannot "
                                 f"be used, more than {MAX_BAD_SHARE:.0%} of all {epoch_size}: "
                                 f"{next(iter(self._reasons.values()))}", file=path)
            if is_last:
                logger.warning("%s: %d of %d images left out in epoch %d", path, count, num_read,
                               epoch)
        self._num_read, self._count = num_read, count
        return bad
