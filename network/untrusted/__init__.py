"""What may come from a stranger: checked here before it is used, and nowhere else.

Files that MXNet reads, attributes of checkpoints, snapshots, and whether a network works on images
of a size. The rest of the project imports from here alone.
"""
from network.untrusted.arrays import DAMAGED, read_arrays
from network.untrusted.attributes import NO_THRESHOLDS, check_attribute, read_attributes
from network.untrusted.params import check_params
from network.untrusted.shapes import check_shapes
from network.untrusted.symbols import checked_graph, checked_symbol

__all__ = ["DAMAGED", "NO_THRESHOLDS", "check_attribute", "check_params", "check_shapes",
           "checked_graph", "checked_symbol", "read_arrays", "read_attributes"]
