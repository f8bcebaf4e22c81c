"""Predict with a fine-tuned checkpoint, evaluate it against labels, and write a report.

    python predict_multilabel.py --model result/multilabel-best --epoch 0 demo/data/images --top 3
    python predict_multilabel.py --model result/multilabel-best --epoch 0 \\
        --data demo/data/val.lst --image demo/data/images --report result/report
    python predict_multilabel.py --help
"""
import json
import logging
import os

import numpy as np

from common import cli
from common.cli import InputError, at_least
from common.files import existing_path, make_parent_folder
from common.mx_compat import choose_devices
from common.progress import Progress
from common.text import printable
from evaluation.classifier import Classifier
from evaluation.evaluation import Evaluation, LabelledImages, read_measures
from evaluation.objective import add_objective_args, objective_from_args
from evaluation.pictures import MAX_PHOTOS, Photos, write_maps
from evaluation.predictions_file import FORMATS, PredictionsFile, open_output
from evaluation.report import read_history, write_report
from evaluation.thresholds import DEFAULT, NEVER, choose_thresholds, cross_fitted
from reading.classes import named
from reading.equal_files import shared_rows
from reading.image_list import ImageList
from reading.lst_file import SampleList, read_lst
from reading.read_options import add_file_args

logger = logging.getLogger("predict_multilabel")


def main(argv=None):
    """Predict, and evaluate where there are labels. Returns 1 when an image could not be used."""
    args = parse_args(argv)
    cli.log_to_stderr(logging.INFO)
    devices = choose_devices(args.gpus)
    classifier = open_checkpoint(args)
    images = list_images(args, len(classifier.class_names))
    reading = {"batch_size": args.batch_size, "num_threads": args.data_nthreads,
               "max_pixels": args.max_pixels}
    if args.full_decode:  # else as in training
        reading["full_decode"] = True
    if args.data:
        warn_of_training_images(args, classifier, images)
    # These now, so that a mistake does not show after an hour of prediction.
    comparison = args.compare and read_measures(args.compare, classifier.class_names)
    for folder in filter(None, (args.report, args.maps, os.path.dirname(args.measures or ""))):
        make_parent_folder(os.path.join(folder, "file"))
    history = read_history(classifier.prefix) if args.report else []
    with classifier.open(images, args.image, **reading) as batches, open_output(args.out) as file:
        predictions = classifier.predict(batches, devices, args.tta, bool(args.maps))
        if args.maps:
            predictions = write_maps(predictions, args.maps, classifier, images.name)
        write = PredictionsFile(file, classifier.class_names, classifier.thresholds, args.format,
                                args.top, args.above is not None).write
        labelled, bad = collect(args, images, predictions, write)
    if bad:
        logger.warning("%d of %d images could not be used, the first: %s", len(bad), len(images),
                       bad[0])
    if labelled and args.fit_thresholds:
        fit_thresholds(args, classifier, labelled, images)
    if labelled:
        photos = Photos(classifier, devices, args.report_photos, **reading)
        evaluate(args, classifier, labelled, images, (photos, comparison, history))
    return 1 if bad else 0


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
    add_file_args(add)

    add = parser.add_argument_group("model").add_argument
    add("--model", required=True, metavar="PREFIX", action=cli.CheckpointPrefix,
        help="fine-tuned checkpoint: its path before -symbol.json")
    add("--epoch", type=at_least(0), default=0, metavar="N", help="number of its .params file")
    add("--tta", action="store_true", help="average with the prediction for the mirror image")
    add("--precision", choices=["float32", "int8"], default="float32",
        help="int8: faster on CPUs with VNNI; the log says how far from float32")
    add("--batch-size", type=at_least(1), default=64, metavar="N", help="images per batch")
    add("--gpus", metavar="LIST",
        help="GPUs by number, such as 0,1; '' for the CPU (default: all visible GPUs, else the "
             "CPU)")

    add = parser.add_argument_group("predictions").add_argument
    add("--out", metavar="FILE",
        help="file for the predictions (default: standard output; with --report a file in its "
             "folder)")
    add("--format", choices=FORMATS, default="csv",
        help="a table, or a JSON object per line. In the table, text that begins with = + - @ ' a "
             "tab or a carriage return has an apostrophe put in front, so that no spreadsheet runs "
             "it as a formula; remove one leading apostrophe to get the text back")
    add("--top", type=at_least(1), metavar="K",
        help="short form: the K most probable classes of an image, and which are predicted")
    add("--above", type=probability, metavar="P",
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
    add("--report-photos", type=at_least(1), default=MAX_PHOTOS, metavar="N",
        help="photos in the report at most; of fewer each is larger")
    add("--compare", metavar="FILE",
        help="measures.json of another run: the report shows the differences")
    add("--fit-thresholds", action="store_true",
        help="choose thresholds on these images, as training does on its validation images, and "
             "keep them in the checkpoint; no predictions are written")
    add_objective_args(add)
    return _checked(parser.parse_args(argv))


def probability(text):
    return text if text == "thresholds" else float(text)


def _checked(args):
    """Check ranges and combinations of the flags, and fill in what follows from others."""
    if bool(args.images) == bool(args.data):
        raise InputError("give images and folders, or {flag} with a .lst: one of the two",
                         flag="--data")
    for name, needed in (("image", "data"), ("measures", "data"), ("report", "data"),
                         ("fit_thresholds", "data"), ("compare", "report"),
                         ("threshold_objective", "fit_thresholds"),
                         ("min_precision", "fit_thresholds")):
        if getattr(args, name) and not getattr(args, needed):
            raise InputError(f"{{flag}} goes with {_flag(needed)}", flag=_flag(name))
    args.threshold_objective = objective_from_args(args)
    cli.require(args.above in (None, "thresholds") or 0 <= args.above <= 1, "--above",
                "a probability, 0 to 1, or the word thresholds", args.above)
    for name in ("out", "above", "top"):
        if args.fit_thresholds and getattr(args, name) is not None:
            raise InputError("{flag} is for predictions, which --fit-thresholds does not write",
                             flag=_flag(name))
    for name in ("out", "measures"):
        if os.path.isdir(getattr(args, name) or ""):
            raise InputError("{flag} wants the name of a file, not of a folder",
                             file=getattr(args, name), flag=_flag(name))
    args.image = args.image or ""
    if args.report:
        args.out = args.out or os.path.join(args.report, f"predictions.{args.format}")
        args.measures = args.measures or os.path.join(args.report, "measures.json")
    if args.fit_thresholds:
        args.out = os.devnull
    return args


def _flag(name):
    return f"--{name.replace('_', '-')}"


def open_checkpoint(args):
    """The Classifier, with the thresholds that --above asks for."""
    classifier = Classifier(args.model, args.epoch, args.precision)
    if args.above == "thresholds" and classifier.thresholds_epoch is None:
        raise InputError("has none for {flag} thresholds; --fit-thresholds with --data chooses "
                         "them", file=f"{args.model}-symbol.json", flag="--above")
    if args.maps and not classifier.has_maps:
        raise InputError("has no class maps: only networks trained with --head attention have",
                         file=f"{args.model}-symbol.json")
    if args.above not in (None, "thresholds"):
        classifier.use_threshold(args.above)
    if classifier.thresholds_epoch not in (None, args.epoch) and not args.fit_thresholds:
        logger.warning("warning: the thresholds were chosen for --epoch %d",
                       classifier.thresholds_epoch)
    return classifier


def list_images(args, num_classes):
    """The images to predict: those of the .lst, or those named on the command line."""
    if not args.data:
        return ImageList(args.images, num_classes)
    try:
        lst = read_lst(args.data, num_classes, args.label_format)
    except InputError as error:
        if error.flag != "--num-classes":
            raise
        raise error.at(flag="the checkpoint's number of classes") from None
    if not any(os.path.exists(existing_path(os.path.join(args.image, lst.name(row))))
               for row in range(len(lst))):
        raise InputError(f"{printable(lst.name(0))} and all others are not in "
                         f"{args.image or 'the current folder'}: {{flag}} DIR says where the names "
                         "start from", file=args.data, line=lst.line(0), flag="--image")
    return lst


def warn_of_training_images(args, classifier, lst):
    """Warn where the network was trained on images of --data, as far as that can be found out.

    The checkpoint has the name and the checksum of its training list. The images are compared where
    that list is beside --data.
    """
    name, checksum = classifier.training_list or ("", "")
    shared = "all"
    if lst.checksum not in checksum.split():
        path = os.path.join(os.path.dirname(args.data), os.path.basename(name))
        try:
            train = read_lst(path, lst.num_classes, args.label_format)
        except InputError:  # none there, or another list of this name
            return
        count = train.checksum in checksum.split() and np.count_nonzero(
            shared_rows(SampleList(train, args.image), SampleList(lst, args.image)))
        if not count:
            return
        shared = f"{count} of {len(lst)}"
    logger.warning("warning: %s: the network was trained on %s of these images (%s): metrics are "
                   "too good", args.data, shared, name)


def collect(args, images, predictions, write):
    """Pass each of the `predictions` to `write(name, prob, problem)`.

    Returns the LabelledImages that could be used, None without --data or where there are none, and
    the names of the others with their problems.
    """
    names, labels, probs, bad = [], [], [], []
    with Progress("Predicting", len(images), "images") as progress:
        for batch, prob, _ in predictions:
            batch_names = [images.name(row) for row in batch.index[:len(prob)]]
            for slot, name in enumerate(batch_names):
                write(name, prob[slot], batch.bad.get(slot))
            good = [slot for slot in range(len(prob)) if slot not in batch.bad]
            bad += [f"{printable(batch_names[slot])}: {problem}"
                    for slot, problem in batch.bad.items() if slot < len(prob)]
            if args.data:  # else nothing is kept, so that memory stays the same
                label = batch.label[0].asnumpy()[good]
                names += [batch_names[slot] for slot in good]
                labels.append(np.where(label < 0, -1, label > 0.5).astype(np.int8))
                probs.append(prob[good])
            progress.update(len(prob))
    if not names:
        return None, bad
    return LabelledImages(names, args.image, np.concatenate(labels), np.concatenate(probs),
                          os.path.basename(args.data)), bad


def fit_thresholds(args, classifier, labelled, lst):
    """Choose thresholds, keep them in the checkpoint, and log the classes without a choice."""
    thresholds = choose_thresholds(labelled.label, labelled.prob, args.threshold_objective)
    for found, problem in ((~(labelled.label > 0.5).any(axis=0),
                            "no present label to choose a threshold by"),
                           (thresholds == NEVER, "never predicted, for want of precision")):
        if found.any():
            names = [classifier.class_names[c] for c in np.flatnonzero(found)]
            logger.warning("warning: %s: %s", named(names), problem)
    classifier.save_thresholds(thresholds, lst, args.threshold_objective)
    logger.info("Thresholds from %.3f to %.3f written into %s-symbol.json", thresholds.min(),
                thresholds.max(), classifier.prefix)


def evaluate(args, classifier, labelled, lst, report):
    """Log the metrics, and write --measures and --report, of which `report` are further parts."""
    thresholds = predicted = None
    if (classifier.thresholds != DEFAULT).any():
        thresholds = classifier.thresholds
        if classifier.fitted_on(lst):
            predicted = cross_fitted(labelled.label, labelled.prob,
                                     classifier.thresholds_objective)
    evaluation = Evaluation(classifier.class_names, labelled.label, labelled.prob, thresholds,
                            predicted)
    for line in evaluation.lines():
        logger.info("%s", line)
    if args.measures:
        with open_output(args.measures) as file:
            recipe = classifier.training.get("recipe", os.path.basename(classifier.prefix))
            json.dump({"recipe": recipe, **evaluation.as_json(labelled.names)}, file,
                      ensure_ascii=False)
    if args.report:
        path = write_report(args.report, classifier, evaluation, labelled, *report)
        logger.info("Report: %s", path)


if __name__ == "__main__":
    cli.run(main)
