"""The flags of predict_multilabel.py."""
import math
import os

from common import cli
from common.cli import InputError
from evaluation.pictures import MAX_PHOTOS
from evaluation.predictions_file import FORMATS
from evaluation.thresholds import add_objective_args, objective_from_args
from reading.image_reader import ReadOptions
from reading.lst_file import LABEL_FORMATS


def parse_args(argv=None):
    """Parse and check the command line; see --help."""
    parser = cli.ArgumentParser(
        description="Predict with a fine-tuned checkpoint, evaluate it against labels, and write "
                    "a report. Exit status 1: some images could not be used.",
        allow_abbrev=False)
    add = parser.add_argument_group("images").add_argument
    add("images", nargs="*", metavar="IMAGE", help="image files and folders")
    add("--data", metavar="LST", help=".lst with labels, instead of IMAGE")
    add("--image", metavar="DIR",
        help="folder that the names in --data start from (default: the current one)")
    add("--label-format", choices=LABEL_FORMATS, default="multi-hot",
        help="a .lst row has one 1 or 0 per class, the numbers of the classes present, or (signed) "
             "one 1 or -1 per class")
    add("--data-nthreads", type=int, metavar="N",
        help="threads that decode images (default: one per core, 16 at most)")
    add("--full-decode", action="store_true",
        help="decode JPEGs at full size even where less would do (default: as in training)")
    add("--max-pixels", type=int, default=ReadOptions.max_pixels, metavar="N",
        help="refuse images of more pixels")

    add = parser.add_argument_group("model").add_argument
    add("--model", required=True, metavar="PREFIX", action=cli.CheckpointPrefix,
        help="fine-tuned checkpoint: its path before -symbol.json")
    add("--epoch", type=int, default=0, metavar="N", help="number of its .params file")
    add("--tta", action="store_true", help="average with the prediction for the mirror image")
    add("--precision", choices=["float32", "int8"], default="float32",
        help="int8: faster on CPUs with VNNI; the log says how far from float32")
    add("--batch-size", type=int, default=64, metavar="N", help="images per batch")
    add("--gpus", metavar="LIST",
        help="GPUs by number, such as 0,1; '' for the CPU (default: all visible GPUs, else the "
             "CPU)")

    add = parser.add_argument_group("predictions").add_argument
    add("--out", metavar="FILE",
        help="file for the predictions (default: standard output; with --report a file in its "
             "folder; with --fit-thresholds none)")
    add("--format", choices=FORMATS, default="csv",
        help="a table, or a JSON object per line. In the table, text that begins with = + - @ ' a "
             "tab or a carriage return has an apostrophe put in front, so that no spreadsheet runs "
             "it as a formula; remove one leading apostrophe to get the text back")
    add("--top", type=int, metavar="K",
        help="short form: the K most probable classes of an image, and which are predicted")
    add("--above", metavar="P",
        help="short form: the classes whose probability is above P, or, with the word thresholds, "
             "above each class's own. P decides in the evaluation and the report too (default "
             "there: the checkpoint's thresholds, if it has any, else 0.5)")
    add("--maps", metavar="DIR",
        help="draw where each predicted class was seen: DIR/ROW-IMAGE-CLASS.jpg, of networks "
             "trained with --head attention")

    add = parser.add_argument_group("evaluation (with --data)").add_argument
    add("--measures", metavar="FILE", help="write all metrics as JSON")
    add("--report", metavar="DIR",
        help="write DIR/index.html (metrics, curves, photos) and measures.json")
    add("--report-photos", type=cli.at_least(1), default=MAX_PHOTOS, metavar="N",
        help="photos in the report at most; of fewer each is larger")
    add("--compare", metavar="FILE",
        help="measures.json of another run: the report shows the differences")
    add("--fit-thresholds", action="store_true",
        help="choose thresholds on these images, as training does on its validation images, and "
             "keep them in the checkpoint")
    add_objective_args(add)
    return _checked(parser.parse_args(argv))


def _checked(args):
    """Check ranges and combinations of the flags, and fill in what follows from others."""
    if bool(args.images) == bool(args.data):
        raise InputError("give images and folders, or {flag} with a .lst: one of the two",
                         flag="--data")
    for name in ("measures", "report", "fit_thresholds"):
        if getattr(args, name) and not args.data:
            raise InputError("{flag} needs labels: --data with a .lst", flag=_flag(name))
    for name, needed in (("image", "data"), ("compare", "report"),
                         ("threshold_objective", "fit_thresholds"),
                         ("min_precision", "fit_thresholds")):
        if getattr(args, name) not in (None, "") and not getattr(args, needed):
            raise InputError(f"{{flag}} goes with {_flag(needed)}", flag=_flag(name))
    args.threshold_objective = objective_from_args(args)
    for name, least in (("epoch", 0), ("batch_size", 1), ("top", 1), ("data_nthreads", 1)):
        value = getattr(args, name)
        cli.require(value is None or value >= least, _flag(name), f"{least} or more", value)
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
    for name in ("out", "measures"):
        file = getattr(args, name)
        if file is not None and (not file or os.path.isdir(file)):
            raise InputError("{flag} wants the name of a file, not "
                             + (f"of the folder {file}" if file else "an empty one"),
                             flag=_flag(name))
    args.image = args.image or ""
    if args.report:
        args.out = args.out or os.path.join(args.report, f"predictions.{args.format}")
        args.measures = args.measures or os.path.join(args.report, "measures.json")
    return args


def _flag(name):
    return f"--{name.replace('_', '-')}"
