"""What may come from a stranger: checked here before it is used, and nowhere else.

Files that MXNet reads, attributes of checkpoints, snapshots, and whether a network works on images
of a size. The rest of the project imports from here alone.
"""
from network.untrusted.stored_arrays import DAMAGED, check_params, read_arrays  # noqa: F401
from network.untrusted.symbols import (  # noqa: F401
    NO_THRESHOLDS,
    check_attribute,
    check_shapes,
    checked_graph,
    checked_symbol,
    read_attributes,
)
