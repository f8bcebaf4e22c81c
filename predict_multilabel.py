"""Predict with a fine-tuned checkpoint, judge it against labels, and draw a report to look at.

    python predict_multilabel.py --model result/multilabel-best --epoch 0 demo/data/images --top 3
    python predict_multilabel.py --model result/multilabel-best --epoch 0 \\
        --data demo/data/val.lst --image demo/data/images --report result/report
"""
import contextlib
import json
import logging
import math
import os
import re
import sys

import numpy as np
from tqdm import tqdm

from common.cli import ArgumentParser, HelpFormatter, InputError, log_to_stderr, run
from common.files import write_atomically
from common.mx_compat import choose_devices
from common.text import printable
from evaluation.classifier import Classifier
from evaluation.evaluation import Evaluation
from evaluation.predictions_file import FORMATS, PredictionsFile
from evaluation.report import write_report
from evaluation.thresholds import fit_thresholds
from reading.image_list import ImageList
from reading.image_reader import Augment
from reading.lst_file import LABEL_FORMATS, read_lst

logger = logging.getLogger("predict_multilabel")


def parse_args(argv=None):
    """The flags; see --help.

    Raises
    ------
    InputError
        When a value is out of its range, or two flags do not go together.
    """
    parser = ArgumentParser(
        description="Predict with a fine-tuned checkpoint, judge it against labels, and draw a "
                    "report to look at. Exit status 1: some images could not be used.",
        allow_abbrev=False, formatter_class=HelpFormatter)
    images = parser.add_argument_group("images")
    images.add_argument("images", nargs="*", metavar="IMAGE", help="image files and folders")
    images.add_argument("--data", metavar="LST", help=".lst with labels, instead of IMAGE")
    images.add_argument("--image", metavar="DIR",
                        help="folder that the names in --data start from (default: the current "
                             "one)")
    images.add_argument("--label-format", choices=LABEL_FORMATS, default="multi-hot",
                        help="a .lst row has one 0 or 1 a class, or the numbers of the classes "
                             "present")
    images.add_argument("--data-nthreads", type=int, metavar="N",
                        help="threads that decode images (default: one a core, 16 at most)")
    images.add_argument("--max-pixels", type=int, default=Augment.max_pixels, metavar="N",
                        help="refuse images of more pixels")

    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, metavar="PREFIX",
                       help="fine-tuned checkpoint: its path before -symbol.json")
    model.add_argument("--epoch", type=int, default=0, metavar="N",
                       help="number of its .params file")
    model.add_argument("--tta", action="store_true",
                       help="average with the prediction for the mirror image")
    model.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a batch")
    model.add_argument("--gpus", metavar="LIST",
                       help="GPUs by number, 0,1 say; '' for the CPU (default: all visible "
                            "GPUs, else the CPU)")

    output = parser.add_argument_group("predictions")
    output.add_argument("--out", metavar="FILE",
                        help="file for the predictions (default: standard output; with --report "
                             "a file in its folder; with --fit-thresholds none)")
    output.add_argument("--format", choices=FORMATS, default="csv",
                        help="a table, or a JSON object per line. In the table, text that begins "
                             "with = + - @ ' a tab or a carriage return has an apostrophe in "
                             "front, so that spreadsheets take it for no formula: a leading "
                             "apostrophe is never part of a name")
    output.add_argument("--top", type=int, metavar="K",
                        help="short form: the K likeliest classes of an image")
    output.add_argument("--above", metavar="P",
                        help="short form: the classes whose probability is above P, or, with the "
                             "word thresholds, above each class's own threshold")

    judging = parser.add_argument_group("judging (with --data)")
    judging.add_argument("--measures", metavar="FILE", help="write all measures as JSON")
    judging.add_argument("--report", metavar="DIR",
                         help="write DIR/index.html: measures, curves, photos")
    judging.add_argument("--fit-thresholds", action="store_true",
                         help="choose a threshold for each class, the one of the best F1, and "
                              "keep them in the checkpoint")
    judging.add_argument("--min-precision", type=float, metavar="P",
                         help="with --fit-thresholds: the best recall at this precision instead")
    return check_args(parser.parse_args(argv))


def check_args(args):
    """Check ranges and what goes together; returns args."""
    if bool(args.images) == bool(args.data):
        raise InputError("give images and folders, or --data with a .lst: one of the two")
    if args.images and args.image:
        raise InputError("--image goes with --data")
    for flag in ("measures", "report", "fit_thresholds"):
        if getattr(args, flag) and not args.data:
            raise InputError(f"--{flag.replace('_', '-')} wants labels: --data with a .lst")
    if args.min_precision is not None and not args.fit_thresholds:
        raise InputError("--min-precision goes with --fit-thresholds")
    if args.min_precision is not None and not 0 <= args.min_precision <= 1:
        raise InputError(f"--min-precision is 0 to 1, not {args.min_precision}")
    for flag, least in (("epoch", 0), ("batch_size", 1), ("top", 1), ("data_nthreads", 1)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag.replace('_', '-')} must be {least} or more, not {value}")
    if args.above not in (None, "thresholds"):
        try:
            above = float(args.above)
        except ValueError:
            above = math.nan
        if not 0 <= above <= 1:
            raise InputError("--above wants a probability, 0 to 1, or the word thresholds, not "
                             f"{args.above!r}")
        args.above = above
    for flag in ("out", "measures"):
        name = getattr(args, flag)
        if name is not None and (not name or os.path.isdir(name)):
            raise InputError(f"--{flag} wants the name of a file, not "
                             + (f"of the folder {name}" if name else "an empty one"))
    args.image = args.image or ""
    if args.report and not args.out:
        args.out = os.path.join(args.report, f"predictions.{args.format}")
    return args


def write_predictions(args, classifier, predicted, images):
    """Write what `predicted` yields to --out.

    Returns
    -------
    rows : np.ndarray, (samples,)
        Rows of the .lst whose images could be used; label and prob are theirs. Without --data
        nothing is kept, and there are none.
    label : np.ndarray, (samples, classes), int8
    prob : np.ndarray, (samples, classes), float32
    num_bad : int
        Images that could not be used.
    """
    kept = []

    def write(file):
        above = classifier.thresholds if args.above == "thresholds" else args.above
        out = file and PredictionsFile(file, classifier.class_names, classifier.thresholds,
                                       args.format, args.top, above)
        num_bad = 0
        with tqdm(total=len(images), unit="image", disable=None) as bar:
            for batch, prob in predicted:
                rows = batch.index[:len(prob)]
                for slot, row in enumerate(rows):
                    if slot in batch.bad:
                        num_bad += 1
                        if not out:
                            bar.write(f"{printable(images.name(row))}: {batch.bad[slot]}",
                                      sys.stderr)
                        else:
                            out.write_error(images.name(row), batch.bad[slot])
                    elif out:
                        out.write(images.name(row), prob[slot])
                if args.data:
                    good = [slot for slot in range(len(rows)) if slot not in batch.bad]
                    label = batch.label[0].asnumpy()[good]
                    label = np.where(label < 0, -1, label > 0.5).astype(np.int8)
                    kept.append((rows[good], label, prob[good]))
                bar.update(len(rows))
        return num_bad

    num_bad = write(None) if args.fit_thresholds and not args.out else _to_output(args.out, write)
    parts = [np.concatenate(part) for part in zip(*kept)] or [None] * 3
    return (*parts, num_bad)


def _to_output(path, write):
    """Call `write` with a text file: standard output, or one that appears when it is whole."""
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="")
        with _telling("standard output"):
            result = write(sys.stdout)
            sys.stdout.flush()
        return result
    result = []

    def write_file(name):
        with open(name, "w", encoding="utf-8", newline="") as file:
            result.append(write(file))

    # Not the resolved path: that of a pipe in /dev/fd leads to nothing.
    if os.path.exists(path) and not os.path.isfile(path):
        with _telling(path):
            write_file(path)  # a pipe or a device has no place to be renamed into
    else:
        write_atomically(os.path.realpath(path), write_file)
    return result[0]


def read_labels(path, num_classes, label_format):
    """The .lst of labels, which must be as many as the checkpoint has classes."""
    try:
        return read_lst(path, num_classes, label_format)
    except InputError as error:
        # Here the number comes from the checkpoint, not from a flag.
        raise InputError(re.sub(r"--num-classes is (\d+)", r"the checkpoint has \1 classes",
                                str(error))) from None


def choose_thresholds(args, classifier, label, prob):
    """Choose thresholds, keep them in the checkpoint, and say what is odd about them."""
    thresholds, without, unreachable = fit_thresholds(label, prob, args.min_precision)
    for classes, what in ((without, "no present label: the threshold stays 0.5"),
                          (unreachable, f"no threshold reaches a precision of "
                                        f"{args.min_precision}: the answer is always no")):
        for c in classes:
            logger.warning("warning: %s: %s", classifier.class_names[c], what)
    classifier.save_thresholds(thresholds)
    logger.info("Thresholds from %.3f to %.3f written into %s-symbol.json", thresholds.min(),
                thresholds.max(), classifier.prefix)


def main(argv=None):
    """Predict, and judge where there are labels. Returns 1 when an image could not be used."""
    args = parse_args(argv)
    log_to_stderr(logging.INFO)
    devices = choose_devices(args.gpus)
    classifier = Classifier(args.model, args.epoch)
    num_classes = len(classifier.class_names)
    images = (read_labels(args.data, num_classes, args.label_format) if args.data
              else ImageList(args.images, num_classes))
    if classifier.thresholds_epoch not in (None, args.epoch) and not args.fit_thresholds:
        logger.warning("warning: the thresholds were chosen for --epoch %d",
                       classifier.thresholds_epoch)
    # Now, not after an hour of prediction.
    for folder in (args.report, args.measures and os.path.dirname(args.measures)):
        if folder:
            with _telling(folder):
                os.makedirs(folder, exist_ok=True)
    with classifier.open(images, args.image, args.batch_size, args.data_nthreads,
                         max_pixels=args.max_pixels) as batches:
        predicted = classifier.predict(batches, devices, args.tta)
        rows, label, prob, num_bad = write_predictions(args, classifier, predicted, images)
    if num_bad:
        logger.warning("%d of %d images could not be used", num_bad, len(images))
    if args.data and len(rows):
        if args.fit_thresholds:
            choose_thresholds(args, classifier, label, prob)
        chosen = None if classifier.thresholds_epoch is None else classifier.thresholds
        evaluation = Evaluation(classifier.class_names, label, prob, chosen)
        for line in evaluation.lines():
            logger.info("%s", line)
        if args.measures:
            text = json.dumps(evaluation.as_json(), indent=1, ensure_ascii=False)
            _to_output(args.measures, lambda file: file.write(text))
        if args.report:
            names = [images.name(row) for row in rows]
            path = write_report(args.report, classifier, evaluation, names, args.image, label, prob,
                                args.max_pixels)
            logger.info("Report: %s", path)
    return 1 if num_bad else 0


@contextlib.contextmanager
def _telling(path):
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read has seen enough: that is no mistake
    except OSError as error:
        if path == "standard output":
            # What is still in the buffer would fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be written: {reason}") from None


if __name__ == "__main__":
    run(main)
