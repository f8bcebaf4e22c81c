"""Labelled images and their predictions, from which metrics and report are made."""
from dataclasses import dataclass

import numpy as np


@dataclass
class LabelledImages:
    """Images of a .lst with their labels and predicted probabilities.

    Attributes
    ----------
    names : list of str
        File names.
    root : str
        Folder that the names start from.
    label : np.ndarray, (samples, classes), int8
        1 present, 0 absent, -1 unknown.
    prob : np.ndarray, (samples, classes), float32
    """

    names: list
    root: str
    label: np.ndarray
    prob: np.ndarray
