"""Import MXNet 1.9.1, its last release, on the numpy and Python releases that came later.

    from mx_compat import mx

MXNet 1.9.1 reads `numpy.bool`, which numpy 1.24 removed; the old meaning was Python's bool.
"""
import numpy as np

if "bool" not in np.__dict__:
    np.bool = bool

import mxnet as mx  # noqa: E402

__all__ = ["mx"]
