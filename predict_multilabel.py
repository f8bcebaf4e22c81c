"""Predict with a fine-tuned checkpoint, evaluate it against labels, and write a report.

    python predict_multilabel.py --model result/multilabel-best --epoch 0 demo/data/images --top 3
    python predict_multilabel.py --model result/multilabel-best --epoch 0 \\
        --data demo/data/val.lst --image demo/data/images --report result/report
    python predict_multilabel.py --help
"""
import contextlib
import json
import logging
import os
import sys

import numpy as np
from tqdm import tqdm

from common.cli import InputError, log_to_stderr, run
from common.files import existing_path, make_parent_folder
from common.mx_compat import choose_devices
from common.progress import Progress
from common.text import printable
from evaluation.classifier import Classifier
from evaluation.evaluation import Evaluation, LabelledImages, read_measures
from evaluation.pictures import PhotoMaps, PhotoOptions, write_maps
from evaluation.predict_flags import parse_args
from evaluation.predictions_file import PredictionsFile, open_output
from evaluation.report import read_history, write_report
from evaluation.thresholds import DEFAULT, NEVER, choose_thresholds, cross_fitted
from reading.equal_files import shared_rows
from reading.image_list import ImageList, SampleList
from reading.lst_file import read_lst

logger = logging.getLogger("predict_multilabel")


def main(argv=None):
    """Predict, and evaluate where there are labels. Returns 1 when an image could not be used."""
    args = parse_args(argv)
    log_to_stderr(logging.INFO)
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
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(classifier.open(images, args.image, **reading))
        if args.maps:
            predictions = write_maps(classifier.predict_with_maps(batches, devices, args.tta),
                                     args.maps, classifier, images.name)
        else:
            predictions = classifier.predict(batches, devices, args.tta)
        no_file = args.fit_thresholds and not args.out
        file = None if no_file else stack.enter_context(open_output(args.out))
        if args.fit_thresholds:  # which decide what is written
            rows = []
            labelled, num_bad = collect(args, images, predictions, lambda *row: rows.append(row))
            if labelled:
                fit_thresholds(args, classifier, labelled, images)
            write = row_writer(args, classifier, file)
            for row in rows:
                write(*row)
        else:
            write = row_writer(args, classifier, file)
            labelled, num_bad = collect(args, images, predictions, write)
    if num_bad:
        logger.warning("%d of %d images could not be used", num_bad, len(images))
    if labelled:
        maps = PhotoMaps(classifier, devices, **reading) if classifier.has_maps else None
        options = PhotoOptions(args.report_photos, args.max_pixels, maps)
        evaluate(args, classifier, labelled, images, (options, comparison, history))
    return 1 if num_bad else 0


def open_checkpoint(args):
    """The Classifier, with the thresholds that --above asks for."""
    classifier = Classifier(args.model, args.epoch, args.precision)
    if (args.above == "thresholds" and classifier.thresholds_epoch is None
            and not args.fit_thresholds):
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
        raise error.with_flag("the checkpoint's number of classes") from None
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
    name, checksum = classifier.training_list or (None, "")
    if lst.checksum in checksum.split():
        shared = "all"
    else:
        path = os.path.join(os.path.dirname(args.data), name or "")
        if not name or os.path.basename(name) != name or not os.path.isfile(path):
            return
        train = read_lst(path, lst.num_classes, args.label_format)
        count = np.count_nonzero(shared_rows(
            SampleList(train, args.image), SampleList(lst, args.image)))
        if train.checksum not in checksum.split() or not count:
            return
        shared = f"{count} of {len(lst)}"
    logger.warning("warning: %s: the network was trained on %s of these images (%s): metrics are "
                   "too good", args.data, shared, name)


def collect(args, images, predictions, write):
    """Pass each of the `predictions` to `write(name, prob, problem)`; count those with a problem.

    Returns the LabelledImages that could be used, None without --data or where there are none, and
    the number of images that could not be used.
    """
    names, labels, probs, num_bad = [], [], [], 0
    with Progress("Predicting", len(images), "images") as progress:
        for batch, prob in predictions:
            batch_names = [images.name(row) for row in batch.index[:len(prob)]]
            for slot, name in enumerate(batch_names):
                write(name, prob[slot], batch.bad.get(slot))
            good = [slot for slot in range(len(prob)) if slot not in batch.bad]
            num_bad += len(prob) - len(good)
            if args.data:  # else nothing is kept, so that memory stays the same
                label = batch.label[0].asnumpy()[good]
                names += [batch_names[slot] for slot in good]
                labels.append(np.where(label < 0, -1, label > 0.5).astype(np.int8))
                probs.append(prob[good])
            progress.update(len(prob))
    if not names:
        return None, num_bad
    return LabelledImages(names, args.image, np.concatenate(labels), np.concatenate(probs),
                          os.path.basename(args.data)), num_bad


def row_writer(args, classifier, file):
    """A `write` for `collect`; without a file it only tells which images could not be used."""
    if file:
        return PredictionsFile(file, classifier.class_names, classifier.thresholds, args.format,
                               args.top, args.above is not None).write

    def tell(name, _, problem):
        if problem is not None:
            tqdm.write(f"{printable(name)}: {problem}", sys.stderr)
    return tell


def fit_thresholds(args, classifier, labelled, lst):
    """Choose thresholds, keep them in the checkpoint, and log the classes without a choice."""
    thresholds = choose_thresholds(labelled.label, labelled.prob, args.threshold_objective)
    for c in np.flatnonzero(~(labelled.label > 0.5).any(axis=0)):
        logger.warning("warning: %s: no present label to choose a threshold by",
                       classifier.class_names[c])
    if args.min_precision is not None:
        for c in np.flatnonzero(thresholds == NEVER):
            logger.warning("warning: %s: no threshold reaches a precision of %s: the class is "
                           "never predicted", classifier.class_names[c], args.min_precision)
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
    run(main)
