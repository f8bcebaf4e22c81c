"""The flags of predict_multilabel.py."""
import math
import os

from common.cli import (
    ArgumentParser,
    CheckpointPrefix,
    HelpFormatter,
    InputError,
    at_least,
    require,
)
from evaluation.pictures import MAX_PHOTOS
from evaluation.predictions_file import FORMATS
from evaluation.thresholds import add_objective_args, objective_from_args
from reading.image_reader import ReadOptions
from reading.lst_file import LABEL_FORMATS


def parse_args(argv=None):
    """Parse and check the command line; see --help."""
    parser = ArgumentParser(
        description="Predict with a fine-tuned checkpoint, evaluate it against labels, and write "
                    "a report. Exit status 1: some images could not be used.",
        allow_abbrev=False, formatter_class=HelpFormatter)
    images = parser.add_argument_group("images")
    images.add_argument("images", nargs="*", metavar="IMAGE", help="image files and folders")
    images.add_argument("--data", metavar="LST", help=".lst with labels, instead of IMAGE")
    images.add_argument("--image", metavar="DIR",
                        help="folder that the names in --data start from (default: the current "
                             "one)")
    images.add_argument("--label-format", choices=LABEL_FORMATS, default="multi-hot",
                        help="a .lst row has one 1 or 0 per class, the numbers of the classes "
                             "present, or (signed) one 1 or -1 per class")
    images.add_argument("--data-nthreads", type=int, metavar="N",
                        help="threads that decode images (default: one per core, 16 at most)")
    images.add_argument("--full-decode", action="store_true",
                        help="decode JPEGs at full size even where less would do (default: as in "
                             "training)")
    images.add_argument("--max-pixels", type=int, default=ReadOptions.max_pixels, metavar="N",
                        help="refuse images of more pixels")

    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, metavar="PREFIX", action=CheckpointPrefix,
                       help="fine-tuned checkpoint: its path before -symbol.json")
    model.add_argument("--epoch", type=int, default=0, metavar="N",
                       help="number of its .params file")
    model.add_argument("--tta", action="store_true",
                       help="average with the prediction for the mirror image")
    model.add_argument("--precision", choices=["float32", "int8"], default="float32",
                       help="int8: faster on CPUs with VNNI; the log says how far from float32")
    model.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch")
    model.add_argument("--gpus", metavar="LIST",
                       help="GPUs by number, such as 0,1; '' for the CPU (default: all visible "
                            "GPUs, else the CPU)")

    output = parser.add_argument_group("predictions")
    output.add_argument("--out", metavar="FILE",
                        help="file for the predictions (default: standard output; with --report "
                             "a file in its folder; with --fit-thresholds none)")
    output.add_argument("--format", choices=FORMATS, default="csv",
                        help="a table, or a JSON object per line. In the table, text that begins "
                             "with = + - @ ' a tab or a carriage return has an apostrophe put in "
                             "front, so that no spreadsheet runs it as a formula; remove one "
                             "leading apostrophe to get the text back")
    output.add_argument("--top", type=int, metavar="K",
                        help="short form: the K most probable classes of an image")
    output.add_argument("--above", metavar="P",
                        help="short form: the classes whose probability is above P, or, with the "
                             "word thresholds, above each class's own. P decides in the evaluation "
                             "and the report too (default there: the checkpoint's thresholds, if "
                             "it has any, else 0.5)")
    output.add_argument("--maps", metavar="DIR",
                        help="draw where each predicted class was seen: DIR/IMAGE-CLASS.jpg, of "
                             "networks trained with --head attention")

    evaluation = parser.add_argument_group("evaluation (with --data)")
    evaluation.add_argument("--measures", metavar="FILE", help="write all metrics as JSON")
    evaluation.add_argument("--report", metavar="DIR",
                            help="write DIR/index.html (metrics, curves, photos) and measures.json")
    evaluation.add_argument("--report-photos", type=at_least(1), default=MAX_PHOTOS, metavar="N",
                            help="photos in the report at most; of fewer each is larger")
    evaluation.add_argument("--compare", metavar="FILE",
                            help="measures.json of another run: the report shows the differences")
    evaluation.add_argument("--fit-thresholds", action="store_true",
                            help="choose thresholds on these images, as training does on its "
                                 "validation images, and keep them in the checkpoint")
    add_objective_args(evaluation.add_argument)
    return _checked(parser.parse_args(argv))


def _check_objective(args):
    """Check --threshold-objective and --min-precision, and make the first an objective."""
    for flag, value in (("--threshold-objective", args.threshold_objective),
                        ("--min-precision", args.min_precision)):
        if value is not None and not args.fit_thresholds:
            raise InputError("{flag} goes with --fit-thresholds", flag=flag)
    args.threshold_objective = objective_from_args(args)


def _checked(args):
    """Check ranges and combinations of the flags, and fill in what follows from others."""
    if bool(args.images) == bool(args.data):
        raise InputError("give images and folders, or {flag} with a .lst: one of the two",
                         flag="--data")
    if args.images and args.image:
        raise InputError("{flag} goes with --data", flag="--image")
    for flag in ("measures", "report", "fit_thresholds"):
        if getattr(args, flag) and not args.data:
            raise InputError("{flag} needs labels: --data with a .lst",
                             flag=f"--{flag.replace('_', '-')}")
    if args.compare and not args.report:
        raise InputError("{flag} goes with --report", flag="--compare")
    _check_objective(args)
    for flag, least in (("epoch", 0), ("batch_size", 1), ("top", 1), ("data_nthreads", 1)):
        value = getattr(args, flag)
        require(value is None or value >= least, f"--{flag.replace('_', '-')}",
                f"{least} or more", value)
    if args.above not in (None, "thresholds"):
        try:
            probability = float(args.above)
        except ValueError:
            probability = math.nan
        if not 0 <= probability <= 1:
            raise InputError("{flag} wants a probability, 0 to 1, or the word thresholds, not "
                             f"{args.above!r}", flag="--above")
        if args.fit_thresholds:
            raise InputError("{flag} P would not use the thresholds of --fit-thresholds",
                             flag="--above")
        args.above = probability
    for flag in ("out", "measures"):
        name = getattr(args, flag)
        if name is not None and (not name or os.path.isdir(name)):
            raise InputError("{flag} wants the name of a file, not "
                             + (f"of the folder {name}" if name else "an empty one"),
                             flag=f"--{flag}")
    args.image = args.image or ""
    if args.report and not args.out:
        args.out = os.path.join(args.report, f"predictions.{args.format}")
    if args.report and not args.measures:
        args.measures = os.path.join(args.report, "measures.json")
    return args
