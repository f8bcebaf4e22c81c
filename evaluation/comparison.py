"""Another run's measures.json, to show an evaluation beside it.

    other = read_measures("earlier/measures.json", class_names)
    fixed, broken = other.changed(names, wrong)
"""
import os
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from common.files import open_regular_file
from common.json_text import parse_json
from common.text import encodable
from evaluation.bootstrap import bootstrap

MAX_BYTES = 1 << 28


class Comparison(NamedTuple):
    """What the report shows of the other run; NaN where it has no such number."""

    title: str  # its recipe, folder and name
    values: dict  # mAP, ECE and the metrics of its decision rule, by name
    average_precision: np.ndarray  # (classes,)
    shared: np.ndarray  # (classes,), bool: whether it has the class
    mistakes: dict  # by image, the numbers of the classes that it gets wrong
    prob: dict  # by image, its probabilities of the shared classes: np.ndarray; maybe empty

    def changed(self, names, wrong):
        """The decisions that are right only here, and those right only there: two lists.

        `wrong`, bool, is (samples, classes). Each item is a sample and a class; images and classes
        that the other run did not evaluate are left out.
        """
        here, there = np.zeros_like(wrong), np.zeros_like(wrong)
        for s, name in enumerate(map(encodable, names)):
            if name in self.mistakes:
                here[s] = wrong[s] & self.shared
                there[s, self.mistakes[name]] = True
        return [np.argwhere(cells).tolist() for cells in (there & ~here, here & ~there)]

    def differences(self, names, label, prob, wrong):
        """Intervals of the differences to the other run on the images and classes of both.

        Returns the number of these images, and a dict by metric of np.ndarray, (2,): mAP, where the
        probabilities are known, and those of the decisions.
        """
        both = [s for s, name in enumerate(map(encodable, names)) if name in self.mistakes]
        if not both:
            return 0, {}
        part = np.ix_(both, np.flatnonzero(self.shared))
        present = label[part] > 0.5
        their_prob, their_wrong = np.zeros_like(prob), np.zeros_like(wrong)
        for s in both:
            name = encodable(names[s])
            their_prob[s, self.shared] = self.prob.get(name, 0)
            their_wrong[s, self.mistakes[name]] = True
        intervals = bootstrap(label[part], prob[part], {"": present ^ wrong[part]},
                              other=(their_prob[part], {"": present ^ their_wrong[part]}))
        return len(both), {**{name[1]: value for name, value in intervals.items() if name[0] == ""},
                           **({"mAP": intervals["mAP"]} if self.prob else {})}


def read_measures(path, class_names):
    """The Comparison in a file of --measures; an InputError where it is none, or of other classes.

    Its classes are found by their names, in any order.
    """
    try:
        with open_regular_file(path, "r", encoding="utf-8") as file:
            measures = parse_json(file.read(MAX_BYTES))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(str(error), file=path) from None
    try:
        theirs = {item["class"]: number for number, item in enumerate(measures["classes"])}
        place = {theirs[name]: c for c, name in enumerate(class_names) if name in theirs}
        precision = np.full(len(class_names), np.nan)
        shared = np.array([name in theirs for name in class_names])
        for number, c in place.items():
            precision[c] = _number(measures["classes"][number]["AP"])
        values = {name: _number(value) for name, value in [
            ("mAP", measures["mAP"]), ("ECE", measures["ECE"]),
            *measures["decisions"][measures["rule"]].items()]}
        mistakes = {str(name): [place[number] for number in wrong if number in place]
                    for name, wrong in measures["mistakes"].items()}
        order = [theirs[name] for name in class_names if name in theirs]
        prob = {str(name): np.array([float(row[number]) for number in order], np.float32)
                for name, row in measures.get("probabilities", {}).items()}
        recipe = str(measures.get("recipe", "other run"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise InputError("not a file that {flag} of this version wrote", file=path,
                         flag="--measures") from None
    if not place:
        raise InputError("has none of the checkpoint's classes", file=path)
    folder, name = os.path.split(os.path.abspath(path))
    title = f"{recipe} ({os.path.join(os.path.basename(folder), name)})"
    return Comparison(title, values, precision, shared, mistakes, prob)


def _number(value):
    return np.nan if value is None else float(value)
