"""Make, check and divide .lst files: which images there are, and which labels they carry.

    python tools/make_lst.py csv labels.csv --prefix data/photos
    python tools/make_lst.py check data/photos_train.lst data/photos_val.lst --path-root photos

From CSV, JSON lines, Pascal VOC, COCO or one folder a class, writes PREFIX_train.lst,
PREFIX_val.lst and PREFIX_labels.txt, and prints how often each class occurs.
"""
import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from common.cli import ArgumentParser, InputError, log_to_stderr, run  # noqa: E402
from common.files import make_parent_folder  # noqa: E402
from common.text import MAX_LINE, printable  # noqa: E402
from datasets.check_lst import KINDS, check, clean_rows, summarise  # noqa: E402
from datasets.coco_file import read_coco  # noqa: E402
from datasets.folder_sources import read_folders, read_voc  # noqa: E402
from datasets.label_table import BadInput, Part, build_table, format_table, part  # noqa: E402
from datasets.lst_writer import lines_file, lst_file, write_together  # noqa: E402
from datasets.shard_lst import deal, place_images, write_parts  # noqa: E402
from datasets.stratify import split  # noqa: E402
from datasets.text_sources import read_csv, read_jsonl  # noqa: E402
from reading.class_names import read_class_names  # noqa: E402
from reading.image_reader import Augment  # noqa: E402
from reading.lst_file import LABEL_FORMATS, read_lst  # noqa: E402

MOST_SHOWN = 20  # problems of a kind, unless all are asked for


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
    table = build_table(args.read(args, bad_input), bad_input, listed, args.drop_unlisted,
                        args.min_count, getattr(args, "path_root", None))

    labels = table.labels
    if args.val_fraction:
        is_val = split(labels, args.val_fraction, args.seed)
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
    findings = check(lists, args.path_root, class_names, args.data_nthreads, args.max_pixels)

    for kind in KINDS:
        texts = [problem.text for problem in findings.problems if problem.kind == kind]
        shown = texts if args.all else texts[:MOST_SHOWN]
        for text in shown:
            print(printable(f"{text} [{kind}]", MAX_LINE))
        if len(shown) < len(texts):
            print(f"... and {len(texts) - len(shown)} more [{kind}] (--all shows them)")
    print("\n" * bool(findings.problems) + summarise(findings), end="\n\n")
    names = class_names or [str(number) for number in range(lists[0].num_classes)]
    titles = [os.path.basename(lst.path) for lst in lists]
    print(format_table(names, [Part(title, len(lst), lst.positives, lst.negatives)
                               for title, lst in zip(titles, lists)]))
    if args.fix:
        # All of them before the first is written, so that an error leaves none behind.
        clean = [clean_rows(lists, findings, number) for number in range(len(lists))]
        write_together([lst_file(path, *content, args.label_format)
                        for path, content in zip(args.fix, clean)])
        for path, (ids, _, _), lst in zip(args.fix, clean, lists):
            print(f"{path}: {len(ids)} of {len(lst)} rows")
    return 1 if findings.problems else 0


def _read_lists(paths, num_classes, label_format):
    lists = [read_lst(path, num_classes, label_format) for path in paths]
    most = max(lst.num_classes for lst in lists)
    for number, lst in enumerate(lists):
        if lst.num_classes == most:
            continue
        if label_format == "multi-hot":
            raise InputError(f"{lst.path}: {lst.num_classes} labels a row, but another list has "
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


def _one_character(text):
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text in "\r\n\"":
        raise argparse.ArgumentTypeError(f"{text!r} is not one character, or tab")
    return text


def _at_least(least):
    def number(text):
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    number.__name__ = "int"  # what argparse calls it when the text is no number
    return number


def build_parser():
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, parents=()):
        return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".",
                                   parents=list(parents))

    seed = ArgumentParser(add_help=False)
    seed.add_argument("--seed", type=_seed, default=0,
                      help="the same seed gives the same files (default: %(default)s)")
    label_format = ArgumentParser(add_help=False)
    label_format.add_argument(
        "--label-format", choices=LABEL_FORMATS, default="multi-hot",
        help="a row has one 1 or 0 a class, or the numbers of the classes present "
        "(default: %(default)s)")
    _add_sources(command, _output_flags(), seed, label_format)

    flags = command("check", "open every image of some .lst files; exit status 1 when there are "
                    "problems", [label_format])
    flags.description += (
        " An image is broken when training could not decode it, cut short for example. Damage that "
        "a decoder passes over is not seen: changed bytes inside a JPEG may be good to it, and "
        "give a picture with a grey or shifted part.")
    flags.add_argument("lst", nargs="+", metavar="LST", help="several: compared with each other")
    flags.add_argument("--path-root", nargs="+", required=True, metavar="DIR",
                       help="image root, one for all lists or one for each")
    flags.add_argument("--labels", metavar="FILE", help="class names in column order, one a line")
    flags.add_argument("--fix", nargs="+", metavar="OUT",
                       help="write lists without the problems, a file for each LST; an image in "
                       "several lists stays in the last of them")
    flags.add_argument("--all", action="store_true",
                       help=f"show all problems, not {MOST_SHOWN} of a kind")
    flags.add_argument("--data-nthreads", type=_at_least(1), metavar="N",
                       help="threads that open images (default: one a processor)")
    flags.add_argument("--max-pixels", type=_at_least(1), default=Augment.max_pixels, metavar="N",
                       help="refuse images with more pixels (default: %(default)s)")
    flags.set_defaults(run=run_check)

    flags = command("shard", "deal the rows of a .lst out to machines", [seed, label_format])
    flags.add_argument("lst", metavar="LST")
    flags.add_argument("--num-parts", type=_at_least(1), required=True, metavar="N",
                       help="number of machines")
    flags.add_argument("--prefix", required=True,
                       help="writes PREFIX_0.lst and, for rsync --files-from, PREFIX_0_files.txt, "
                       "and so on")
    flags.add_argument("--path-root", metavar="DIR", help="image root, to place images from")
    place = flags.add_mutually_exclusive_group()
    place.add_argument("--copy-to", metavar="DIR", help="copy the images to DIR/0, DIR/1, ...")
    place.add_argument("--link-to", metavar="DIR", help="hard-link them there: takes no space")
    flags.set_defaults(run=run_shard)
    return parser


def _seed(text):
    seed = _at_least(0)(text)
    if seed >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is not below 2**32")
    return seed


_seed.__name__ = "int"


def _output_flags():
    parser = ArgumentParser(add_help=False)
    output = parser.add_argument_group("output")
    output.add_argument("--prefix", required=True,
                        help="writes PREFIX_train.lst, PREFIX_val.lst and PREFIX_labels.txt")
    output.add_argument("--val-fraction", type=float, default=0.2, metavar="F",
                        help="share of the images for validation, stratified by class; 0: none, "
                        "and no PREFIX_val.lst (default: %(default)s)")
    classes = parser.add_argument_group("classes")
    classes.add_argument("--classes", metavar="FILE",
                         help="the classes to have, in this order, one a line; others in the data "
                         "are an error")
    classes.add_argument("--drop-unlisted", action="store_true",
                         help="leave out, and count, classes that are not in that file")
    classes.add_argument("--min-count", type=_at_least(0), default=0, metavar="N",
                         help="leave out classes that fewer than N images carry (default: none)")
    parser.add_argument_group("input").add_argument(
        "--skip-bad", action="store_true", help="leave out what is broken, say so, and go on")
    return parser


def _add_sources(command, *parents):
    absolute = ArgumentParser(add_help=False)
    absolute.add_argument("--path-root", metavar="DIR",
                          help="image root: absolute names become relative to it, and each image "
                          "is looked for in it")
    named = [*parents, absolute]

    flags = command("csv", "from a table with a column of file names", named)
    flags.add_argument("file", metavar="FILE")
    form = flags.add_argument_group("form", "Columns are named as in the header, or numbered "
                                    "from 1.")
    form.add_argument("--delimiter", type=_one_character, metavar="CHARACTER",
                      help="between columns (default: a comma, tab for .tsv)")
    form.add_argument("--no-header", action="store_true",
                      help="the first row is an image already; columns are called 1, 2, ...")
    form.add_argument("--name-column", metavar="COLUMN", help="file names (default: the first)")
    form.add_argument("--labels-column", metavar="COLUMN",
                      help="one column with all of an image's classes; empty: no class, -1: all "
                      "classes unknown (default: the other one, when there are two)")
    form.add_argument("--separator", default=";", metavar="TEXT",
                      help="between those classes (default: %(default)s)")
    form.add_argument("--class-columns", nargs="+", metavar="COLUMN",
                      help="columns of a class each: 1 or True present, 0 or False absent, -1, "
                      "empty, NaN or NA unknown (default: all but the file names, when there are "
                      "more than two)")
    flags.set_defaults(run=make, read=_read_csv)

    flags = command("jsonl", 'from lines of {"image": "a.jpg", "labels": ["cat"]}; "unknown" may '
                    "list more classes", named)
    flags.add_argument("file", metavar="FILE")
    flags.set_defaults(run=make, read=lambda args, bad_input: read_jsonl(args.file, bad_input))

    flags = command("coco", "from a COCO instances file", named)
    flags.add_argument("file", metavar="FILE")
    flags.set_defaults(run=make, read=lambda args, bad_input: read_coco(args.file, bad_input))

    flags = command("voc", "from a Pascal VOC folder, which is the image root then", parents)
    flags.add_argument("root", metavar="ROOT")
    flags.add_argument("--image-set", metavar="SET",
                       help="only images of ImageSets/Main/SET.txt, such as trainval")
    flags.add_argument("--labels-from", choices=("xml", "sets"),
                       help="Annotations/*.xml or ImageSets/Main/CLASS_SET.txt (default: XML "
                       "where there is some)")
    flags.set_defaults(run=make, read=lambda args, bad_input: read_voc(
        args.root, bad_input, args.image_set, args.labels_from))

    flags = command("folders", "from one folder a class, whose parent is the image root then; "
                    "an image in several carries all of them", parents)
    flags.add_argument("root", metavar="ROOT")
    flags.set_defaults(run=make, read=lambda args, bad_input: read_folders(args.root, bad_input))


def _read_csv(args, bad_input):
    delimiter = args.delimiter or ("\t" if args.file.lower().endswith(".tsv") else ",")
    if not args.separator:
        raise InputError("--separator is empty")
    return read_csv(args.file, bad_input, delimiter, not args.no_header, args.name_column,
                    args.labels_column, args.class_columns, args.separator)


def main(argv=None):
    log_to_stderr(logging.WARNING)
    sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    args = build_parser().parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    run(main)
