"""Make, check and divide .lst files: which images there are, and which labels they carry.

    python tools/make_lst.py csv labels.csv --prefix data/photos
    python tools/make_lst.py check data/photos_train.lst data/photos_val.lst --path-root photos
    python tools/make_lst.py suspects --model pretrained/efficientnet_lite0 \\
        --data data/photos_train.lst --image photos --out suspects.csv

From CSV, JSON lines, Pascal VOC, COCO or one folder per class, writes PREFIX_train.lst,
PREFIX_val.lst and PREFIX_labels.txt, and prints how often each class occurs.
"""
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from common.cli import InputError, log_to_stderr, run  # noqa: E402
from common.files import make_parent_folder  # noqa: E402
from common.label_errors import suspects  # noqa: E402
from common.text import MAX_LINE, printable  # noqa: E402
from datasets.check_lst import KINDS, check, clean_rows, summarise  # noqa: E402
from datasets.coco_file import read_coco  # noqa: E402
from datasets.equal_files import first_equal  # noqa: E402
from datasets.folder_sources import read_folders, read_voc  # noqa: E402
from datasets.label_table import BadInput, Part, build_table, format_table, part  # noqa: E402
from datasets.lst_writer import csv_file, lines_file, lst_file, write_together  # noqa: E402
from datasets.make_lst_flags import SHOWN_PER_KIND, build_parser  # noqa: E402
from datasets.shard_lst import deal, place_images, write_parts  # noqa: E402
from datasets.stratify import split  # noqa: E402
from datasets.text_sources import Columns, read_csv, read_jsonl  # noqa: E402
from reading.class_names import names_beside, read_class_names  # noqa: E402
from reading.lst_file import read_lst  # noqa: E402


def make(args):
    """The subcommands that turn a source into .lst files."""
    bad_input = BadInput(args.skip_bad)
    listed = read_class_names(args.classes) if args.classes else None
    if args.drop_unlisted and not listed:
        raise InputError("--drop-unlisted goes with --classes FILE")
    if not 0 <= args.val_fraction < 1:
        raise InputError(f"--val-fraction is from 0 to below 1, not {args.val_fraction}")
    val_file = f"{args.prefix}_val.lst"
    if args.val_fraction == 0 and os.path.exists(val_file):
        raise InputError(f"{val_file} is there from an earlier run and would not fit the new "
                         "list: remove it or choose another --prefix")
    # voc and folders found the images themselves, and folders has merged equal ones.
    path_root = getattr(args, "path_root", "")
    table = build_table(SOURCES[args.command](args, bad_input), bad_input, listed,
                        args.drop_unlisted, args.min_count, path_root)

    labels, equal = table.labels, 0
    if args.val_fraction:
        folder = getattr(args, "root", path_root)
        first = (np.arange(len(labels)) if folder is None
                 else first_equal([os.path.join(folder, name) for name in table.names]))
        is_val = split(labels, args.val_fraction, args.seed, first)
        equal = np.count_nonzero(first != np.arange(len(first)))
        sides = [("train", np.flatnonzero(~is_val)), ("val", np.flatnonzero(is_val))]
    else:
        sides = [("train", np.arange(len(labels)))]
    if args.label_format == "indices" and (labels < 0).any():
        raise InputError("--label-format indices cannot say unknown, and "
                         f"{np.count_nonzero(labels < 0)} labels are: use multi-hot")
    make_parent_folder(args.prefix)
    write_together([
        *(lst_file(f"{args.prefix}_{title}.lst", rows, labels[rows],
                   [table.names[row] for row in rows], args.label_format)
          for title, rows in sides),
        lines_file(f"{args.prefix}_labels.txt", table.classes)])

    print(format_table(table.classes, [part(title, labels[rows]) for title, rows in sides]))
    if table.left_out:
        print(f"\nleft out: {len(table.left_out)} classes, {sum(table.left_out.values())} labels: "
              + ", ".join(f"{printable(name)} {count}"
                          for name, count in table.left_out.most_common()))
    if bad_input.count:
        print(f"\nleft out as bad: {bad_input.count}")
    if equal:
        print(f"\nof the same content as another image, and on its side of the split: {equal}")
    if path_root is None:
        print("\nwhether the images exist, and whether some are equal, was not checked; "
              "--path-root DIR checks it")


def run_check(args):
    """The subcommand `check`. Returns the exit status: 1 when there were problems."""
    if len(args.path_root) == 1:
        args.path_root *= len(args.lst)
    if len(args.path_root) != len(args.lst):
        raise InputError("--path-root is one folder, or one for each list")
    if args.fix and len(args.fix) != len(args.lst):
        raise InputError(f"--fix wants a file for each list: {len(args.lst)}, not {len(args.fix)}")
    if args.fix and len(set(map(os.path.abspath, args.fix))) < len(args.fix):
        raise InputError("--fix names one file twice")
    for root in args.path_root:
        if not os.path.isdir(root):
            raise InputError(f"{root}: no such folder (--path-root)")
    class_names = read_class_names(args.labels) if args.labels else None
    try:
        lists = _read_lists(args.lst, class_names and len(class_names), args.label_format)
    except InputError as error:
        # Reading a list calls the number of classes by the flag that training has.
        text = str(error).replace("no row has a class; --num-classes says how many there are",
                                  "no row has a class; --labels FILE says which there are")
        if class_names:
            text = text.replace(f"--num-classes is {len(class_names)}",
                                f"--labels {args.labels} has {len(class_names)} lines")
        raise InputError(text) from None
    names = class_names or _names_beside(lists[0])
    findings = check(lists, args.path_root, names, args.data_nthreads, args.max_pixels)

    for kind in KINDS:
        texts = [problem.text for problem in findings.problems if problem.kind == kind]
        shown = texts if args.all else texts[:SHOWN_PER_KIND]
        for text in shown:
            print(printable(f"{text} [{kind}]", MAX_LINE))
        if len(shown) < len(texts):
            print(f"... and {len(texts) - len(shown)} more [{kind}] (--all shows them)")
    print("\n" * bool(findings.problems) + summarise(findings), end="\n\n")
    print(format_table(names, [
        Part(os.path.basename(lst.path), len(lst), lst.positives, lst.negatives)
        for lst in lists]))
    if args.fix:
        # All of them before the first is written, so that an error leaves none behind.
        clean = [clean_rows(lists, findings, number) for number in range(len(lists))]
        write_together([lst_file(path, *content, args.label_format)
                        for path, content in zip(args.fix, clean)])
        for path, (ids, _, _), lst in zip(args.fix, clean, lists):
            print(f"{path}: {len(ids)} of {len(lst)} rows")
    elif findings.problems:
        print(f"\n--fix writes lists without them: a file for each of the {len(lists)}")
    return 1 if findings.problems else 0


def run_suspects(args):
    """The subcommand `suspects`."""
    from datasets.out_of_fold import extract_features, out_of_fold  # imports MXNet, which is slow

    names = read_class_names(args.labels) if args.labels else None
    lst = read_lst(args.data, names and len(names), args.label_format)
    if len(lst) < args.folds:
        raise InputError(f"{args.data}: {len(lst)} images, fewer than --folds {args.folds}")
    names = names or _names_beside(lst)
    make_parent_folder(args.out)
    features, labels = extract_features(args, lst)
    prob = out_of_fold(features, labels, args.folds, args.seed)
    samples, classes = suspects(labels, prob)
    listed = list(zip(samples.tolist(), classes.tolist()))[:args.num]
    write_together([csv_file(args.out, ["row", "name", "class", "label", "probability"], [
        [lst.line(s), lst.name(s), names[c], f"{labels[s, c]:g}", f"{prob[s, c]:.4f}"]
        for s, c in listed])])
    print(f"{args.out}: {len(listed)} labels of {np.count_nonzero(labels >= 0)}, the most "
          "contradicted first")
    bad = np.count_nonzero((labels < 0).all(axis=1))
    if bad:
        print(f"images without a known label, or that cannot be read: {bad}")


def _names_beside(lst):
    return names_beside(lst.path, lst.num_classes) or list(map(str, range(lst.num_classes)))


def _read_lists(paths, num_classes, label_format):
    lists = [read_lst(path, num_classes, label_format) for path in paths]
    most = max(lst.num_classes for lst in lists)
    for number, lst in enumerate(lists):
        if lst.num_classes == most:
            continue
        if label_format == "multi-hot":
            raise InputError(f"{lst.path}: {lst.num_classes} labels per row, but another list has "
                             f"{most}")
        lists[number] = read_lst(lst.path, most, label_format)  # its last classes do not occur
    return lists


def run_shard(args):
    """The subcommand `shard`."""
    folder = args.copy_to or args.link_to
    if bool(folder) != bool(args.path_root):
        raise InputError("--copy-to or --link-to goes with --path-root, the image root")
    lst = read_lst(args.lst, label_format=args.label_format)
    parts = deal(len(lst), args.num_parts, args.seed)
    if folder:
        # Lists last: none of them may name an image that is not there yet.
        place_images(lst, parts, args.path_root, folder, "copy" if args.copy_to else "link")
    make_parent_folder(args.prefix)
    write_parts(lst, parts, args.prefix)
    for number, rows in enumerate(parts):
        print(f"{args.prefix}_{number}.lst: {len(rows)} rows of {len(lst)}")
    if len(parts[-1]) < len(parts[0]) and args.label_format == "indices":
        print("rows differ by one: for synchronous training, which waits for equal batches, "
              "use --label-format multi-hot")


def _read_csv(args, bad_input):
    delimiter = args.delimiter or ("\t" if args.file.lower().endswith(".tsv") else ",")
    if not args.separator:
        raise InputError("--separator is empty")
    columns = Columns(args.name_column, args.labels_column, args.class_columns, args.separator)
    return read_csv(args.file, bad_input, delimiter, not args.no_header, columns)


SOURCES = {
    "csv": _read_csv,
    "jsonl": lambda args, bad_input: read_jsonl(args.file, bad_input),
    "coco": lambda args, bad_input: read_coco(args.file, bad_input),
    "voc": lambda args, bad_input: read_voc(
        args.root, bad_input, args.image_set, args.labels_from),
    "folders": lambda args, bad_input: read_folders(args.root, bad_input, args.split_names),
}


def main(argv=None):
    log_to_stderr(logging.WARNING)
    sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    args = build_parser(__doc__.splitlines()[0]).parse_args(argv)
    commands = {"check": run_check, "suspects": run_suspects, "shard": run_shard}
    return commands.get(args.command, make)(args)


if __name__ == "__main__":
    run(main)
