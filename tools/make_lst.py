"""Make, check and divide .lst files: which images there are, and which labels they carry.

    python tools/make_lst.py csv labels.csv --prefix data/photos
    python tools/make_lst.py check data/photos_train.lst data/photos_val.lst --path-root photos
    python tools/make_lst.py suspects --model pretrained/efficientnet_lite0 \\
        --data data/photos_train.lst --image photos --out suspects.csv
    python tools/make_lst.py next --model pretrained/efficientnet_lite0 \\
        --data labelled.lst --image photos --candidates photos/new --num 100 --out next.lst

From CSV, JSON lines, SageMaker's manifests, .rec, Pascal VOC, COCO or one folder per class, writes
PREFIX_train.lst, PREFIX_val.lst and PREFIX_labels.txt, and prints how often each class occurs.
"""
import logging
import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from common.cli import InputError, log_to_stderr, require, run
from common.files import make_parent_folder
from common.label_errors import suspects
from common.text import MAX_LINE, counted, printable
from datasets import divide, label_table
from datasets.check_lst import check, clean_rows, summarise
from datasets.image_sources import read_folders, read_rec, read_voc
from datasets.json_sources import read_coco, read_jsonl, read_manifest
from datasets.make_lst_flags import SUSPECTS_SHOWN, build_parser
from datasets.text_sources import read_csv
from reading import contact_sheet
from reading.classes import ListCounts, absent_warning, names_beside, read_class_names
from reading.image_file import IMAGE_ENDINGS, read_image
from reading.image_list import ImageList, walk_images
from reading.lst_file import read_lst
from reading.read_options import ReadOptions

SUSPECT_SIDE = 200  # pixels of an image on the sheet of --show
REASONS_SHOWN = 3  # classes beside an image to label next


def make(args):
    """The subcommands that turn a source into .lst files."""
    bad_input = label_table.BadInput(args.skip_bad)
    listed = read_class_names(args.classes) if args.classes else None
    if args.drop_unlisted and not listed:
        raise InputError("{flag} goes with --classes FILE", flag="--drop-unlisted")
    _check_fractions(args)
    # voc and folders found the images themselves, and folders has merged equal ones.
    path_root = getattr(args, "path_root", "")
    table = label_table.build_table(
        SOURCES[args.command](args, bad_input), bad_input, listed, args.drop_unlisted,
        args.min_count, path_root, getattr(args, "suffix", ""))
    labels = table.labels
    image_root = getattr(args, "root", path_root)
    lists, notes = divide.split_table(
        table, {"val": args.val_fraction, "test": args.test_fraction}, args.seed, image_root,
        args.group_regex)
    files = {title: f"{args.prefix}_{title}.lst" for title in lists}
    names_file = f"{args.prefix}_labels.txt"
    make_parent_folder(args.prefix)
    label_table.write_together([
        *(label_table.lst_file(files[title], rows, labels[rows],
                               [table.names[row] for row in rows], args.label_format)
          for title, rows in lists.items()),
        label_table.lines_file(names_file, table.classes)])

    parts = [label_table.part(title, labels[rows]) for title, rows in lists.items()]
    print(label_table.format_table(table.classes, parts))
    if table.left_out:
        notes.append(f"left out: {len(table.left_out)} classes, {sum(table.left_out.values())} "
                     "labels: " + ", ".join(f"{printable(name)} {count}"
                                            for name, count in table.left_out.most_common()))
    if bad_input.count:
        notes.append(f"left out as bad: {bad_input.count}")
    if path_root is None:
        notes.append("whether the images exist, and whether some are equal, was not checked; "
                     "--path-root DIR checks it")
        if not any(name.lower().endswith(IMAGE_ENDINGS) for name in table.names):
            notes.append("no name ends as those of images do: --suffix .jpg adds an ending")
    flag = "--absent -1" if getattr(args, "absent", "-1") is None else None
    notes.append(absent_warning(parts[0]._replace(title=files["train"]), table.classes, flag))
    for note in filter(None, notes):
        print(f"\n{note}")
    print(f"\nwritten: {', '.join([*files.values(), names_file])}\nnext: "
          + _next_command(files, names_file, image_root, args.label_format))


def _check_fractions(args):
    for title, fraction in (("val", args.val_fraction), ("test", args.test_fraction)):
        flag, file = f"--{title}-fraction", f"{args.prefix}_{title}.lst"
        require(0 <= fraction < 1, flag, "from 0 to below 1", fraction)
        if fraction == 0 and os.path.exists(file):
            raise InputError("is there from an earlier run and would not fit the new list: remove "
                             "it or choose another --prefix", file=file)
    if args.val_fraction + args.test_fraction >= 1:
        raise InputError("{flag} and --test-fraction together leave nothing to train on",
                         flag="--val-fraction")


def _next_command(files, names_file, image_root, label_format):
    """The command that trains on new lists; run_train.sh works in the project's folder."""
    def path(name):
        return shlex.quote(os.path.abspath(name))

    images = "DIR_OF_IMAGES" if image_root is None else path(image_root)
    val = path(files["val"]) if "val" in files else ""
    return (f"DATA_TRAIN={path(files['train'])} IMAGE_TRAIN={images} DATA_VAL={val} "
            f"IMAGE_VAL={images} LABELS={path(names_file)} sh {path(ROOT / 'run_train.sh')}"
            + " --label-format indices" * (label_format == "indices"))


def run_check(args):
    """The subcommand `check`. Returns the exit status: 1 when there were problems."""
    roots = args.path_root * (len(args.lst) if len(args.path_root) == 1 else 1)
    if len(roots) != len(args.lst):
        raise InputError("{flag} is one folder, or one for each list", flag="--path-root")
    if args.fix and not (len(set(map(os.path.abspath, args.fix))) == len(args.fix)
                         == len(args.lst)):
        raise InputError("{flag} wants a file of its own for each list", flag="--fix")
    for root in roots:
        if not os.path.isdir(root):
            raise InputError("no such folder ({flag})", file=root, flag="--path-root")
    lists, names = _read_lists(args.lst, args)
    findings = check(lists, roots, names, args.data_nthreads, args.max_pixels)

    for kind, texts in findings.problems.items():
        for text in texts:
            print(printable(f"{text} [{kind}]", MAX_LINE))
    has_problems = any(findings.problems.values())
    print("\n" * has_problems + summarise(findings), end="\n\n")
    counts = [ListCounts(os.path.basename(lst.path), len(lst), lst.positives, lst.negatives)
              for lst in lists]
    print(label_table.format_table(names, counts))
    for warning in filter(None, (absent_warning(count, names) for count in counts)):
        print(f"\n{warning}")
    if args.fix:
        # All of them before the first is written, so that an error leaves none behind.
        clean = [clean_rows(lists, findings, number) for number in range(len(lists))]
        label_table.write_together([label_table.lst_file(path, *content, lst.label_format)
                                    for path, content, lst in zip(args.fix, clean, lists)])
        for path, (ids, _, _), lst in zip(args.fix, clean, lists):
            print(f"{path}: {len(ids)} of {len(lst)} rows")
    elif has_problems:
        print(f"\n--fix writes lists without them; it takes {counted(len(lists), 'file name')}")
    return int(has_problems)


def run_suspects(args):
    """The subcommand `suspects`."""
    from datasets.feature_classifiers import extract_features, out_of_fold  # slow: imports MXNet

    (lst,), names = _read_lists([args.data], args)
    if len(lst) < args.folds:
        raise InputError(f"{len(lst)} images, fewer than {{flag}} {args.folds}", file=args.data,
                         flag="--folds")
    make_parent_folder(args.out)
    features, labels, _ = extract_features(args, lst)
    prob = out_of_fold(features, labels, args.folds, args.seed)
    samples, classes = suspects(labels, prob)
    places = list(zip(samples.tolist(), classes.tolist()))
    listed = places[:args.num]
    cells = [[lst.line(s), lst.name(s), names[c], f"{labels[s, c]:g}", f"{prob[s, c]:.4f}"]
             for s, c in listed]
    label_table.write_together([label_table.csv_file(
        args.out, ["row", "name", "class", "label", "probability"], cells)])
    print(f"{args.out}: {len(places)} of {np.count_nonzero(labels >= 0)} labels are likely wrong; "
          + (f"the {len(listed)} most contradicted" if listed != places else
             "most contradicted first"))
    if args.show and listed:
        shown = listed[:SUSPECTS_SHOWN]
        pixels = np.empty((len(shown), 3, SUSPECT_SIDE, SUSPECT_SIDE), np.uint8)
        for (s, _), image in zip(shown, pixels):
            read_image(os.path.join(args.image, lst.name(s)), image, ReadOptions(fit="pad"))
        make_parent_folder(args.show)
        contact_sheet.save(args.show, pixels, [
            f"row {lst.line(s)}: {names[c]} {labels[s, c]:g}, probability {prob[s, c]:.2f}"
            for s, c in shown])
        print(f"{args.show}: the first {len(shown)}")
    bad = np.count_nonzero((labels < 0).all(axis=1))
    if bad:
        print(f"images without a known label, or that cannot be read: {bad}")


def run_next(args):
    """The subcommand `next`."""
    from datasets.feature_classifiers import choose_next, extract_features  # slow: imports MXNet

    (lst,), class_names = _read_lists([args.data], args)
    root = os.path.abspath(args.image)
    labels = lst.labels(range(len(lst)))
    paths = [os.path.join(root, lst.name(row)) for row in range(len(lst))]
    known = np.flatnonzero((labels >= 0).any(axis=1))
    labelled = [paths[row] for row in known]
    candidates = list(walk_images(os.path.abspath(args.candidates))) if args.candidates else paths
    taken = set(labelled)
    candidates = [path for path in candidates if path not in taken]
    if not labelled or not candidates:
        raise InputError("has no known label to learn from" if not labelled else
                         "has no image without a known label",
                         file=(labelled and args.candidates) or args.data)
    if os.path.commonpath([root, *map(os.path.abspath, candidates)]) != root:
        raise InputError("is not in {flag}, where the names of images start", flag="--image",
                         file=args.candidates or args.data)
    make_parent_folder(args.out)
    images = ImageList(labelled + candidates, lst.num_classes)
    features, _, readable = extract_features(args, images)
    if not (readable[:len(labelled)].any() and readable[len(labelled):].any()):
        raise InputError("the labelled images, or all others, cannot be read ({flag})",
                         file=args.data, flag="--image")
    labels = np.concatenate([labels[known], images.labels(candidates)])[readable]
    chosen, gains, prob = choose_next(features[readable], labels, args.num)
    names = [os.path.relpath(images.name(row), root) for row in np.flatnonzero(readable)[chosen]]
    ids = range(int(lst.ids.max()) + 1, int(lst.ids.max()) + 1 + len(names))
    unknown = np.full((len(names), lst.num_classes), -1)
    label_table.write_together([label_table.lst_file(args.out, ids, unknown, names)])
    for name, gain, row in zip(names, gains, prob):
        print(printable(name, None) + ": " + ", ".join(
            f"{printable(class_names[c])} {row[c]:.2f}"
            for c in np.argsort(-gain, kind="stable")[:REASONS_SHOWN]))
    print(f"{args.out}: {len(names)} of {len(candidates)} images to label next, each above with "
          "the classes that it was chosen for and their probabilities")
    if not readable.all():
        print(f"images that cannot be read: {np.count_nonzero(~readable)}")


def _read_lists(paths, args):
    """The LstFiles of some paths, which must have the same classes, and the names of these."""
    names = read_class_names(args.labels) if args.labels else None
    try:
        lists = [read_lst(path, names and len(names), args.label_format) for path in paths]
    except InputError as error:
        if error.flag == "--num-classes":  # what the number of classes is called in training
            error = error.at(flag="the number of names in --labels")
        raise error from None
    most = max(lst.num_classes for lst in lists)
    for number, lst in enumerate(lists):
        if lst.num_classes == most:
            continue
        if args.label_format != "indices":
            raise InputError(f"{lst.num_classes} labels per row, but another list has {most}",
                             file=lst.path)
        lists[number] = read_lst(lst.path, most, "indices")  # its last classes do not occur
    return lists, names or names_beside(paths[0], most) or list(map(str, range(most)))


def run_shard(args):
    """The subcommand `shard`."""
    lst = read_lst(args.lst, label_format=args.label_format)
    parts = divide.deal(len(lst), args.num_parts, args.seed)
    make_parent_folder(args.prefix)
    for number, rows in enumerate(parts):
        divide.write_part(lst, rows, f"{args.prefix}_{number}")
        print(f"{args.prefix}_{number}.lst: {len(rows)} rows of {len(lst)}")


SOURCES = {
    "csv": read_csv,
    "jsonl": read_jsonl,
    "coco": lambda args, bad_input: read_coco(args.file, bad_input),
    "manifest": read_manifest,
    "rec": read_rec,
    "voc": read_voc,
    "folders": read_folders,
}


def main(argv=None):
    log_to_stderr(logging.INFO)
    sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    args = build_parser(__doc__.splitlines()[0]).parse_args(argv)
    commands = {"check": run_check, "suspects": run_suspects, "next": run_next, "shard": run_shard}
    return commands.get(args.command, make)(args)


if __name__ == "__main__":
    run(main)
