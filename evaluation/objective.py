"""The flags that say what thresholds are chosen for; evaluation/thresholds.py chooses them."""
from common.cli import InputError, require


def add_objective_args(add):
    """Declare --threshold-objective and --min-precision; `add` is a parser's add_argument."""
    add("--threshold-objective", choices=["f1", "of1", "precision"],
        help="what thresholds are chosen for: the highest F1 of each class (f1, the default); of "
             "all decisions, by one threshold (of1); the highest recall of each class at "
             "--min-precision (precision)")
    add("--min-precision", type=float, metavar="P",
        help="the least precision, with --threshold-objective precision, which may be left out")


def objective_from_args(args):
    """The objective, as text, of those two flags."""
    least = args.min_precision
    require(least is None or 0 <= least <= 1, "--min-precision", "0 to 1", least)
    objective = args.threshold_objective or ("f1" if least is None else "precision")
    if (objective == "precision") != (least is not None):
        raise InputError("{flag} goes with --threshold-objective precision, and has to be given "
                         "there", flag="--min-precision")
    return objective if least is None else f"precision {least:.6f}"
