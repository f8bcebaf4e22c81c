"""The flags of tools/make_lst.py: a subcommand per source format, check, suspects, next, shard."""
from common.cli import ArgumentParser, CheckpointPrefix, at_least
from reading.lst_file import LABEL_FORMATS
from reading.read_options import ReadOptions

SUSPECTS_SHOWN = 60  # images on the sheet of suspects


def build_parser(description):
    """The parser of all subcommands; `command` of its result is the name of the one given."""
    parser = ArgumentParser(description=description)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, *parents):
        return commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=parents)

    seed = ArgumentParser(add_help=False)
    seed.add_argument("--seed", type=at_least(0, bits=32), default=0,
                      help="the same seed gives the same files")
    label_format = ArgumentParser(add_help=False)
    label_format.add_argument(
        "--label-format", choices=LABEL_FORMATS, default="multi-hot",
        help="a row has a 1 or 0 per class, the numbers of the classes present, or (signed) a 1 or "
        "-1 per class")
    reading = ArgumentParser(add_help=False, parents=[label_format])
    reading.add_argument(
        "--labels", metavar="FILE", help="class names in column order, one a line (default: "
        "PREFIX_labels.txt beside PREFIX_train.lst, if it is there)")
    reading.add_argument("--data-nthreads", type=at_least(1), metavar="N",
                         help="threads that read images (default: one per processor)")
    _add_sources(command, _output_flags(seed))

    add = command(
        "check", "open every image of some .lst files; exit status 1 when there are problems",
        reading).add_argument
    add("lst", nargs="+", metavar="LST", help="several: compared with each other")
    add("--path-root", nargs="+", required=True, metavar="DIR",
        help="image root, one for all lists or one for each")
    add("--fix", nargs="+", metavar="OUT",
        help="write lists without the problems, one file per LST; of images in several lists that "
        "are or look nearly the same, those of the last stay")
    add("--max-pixels", type=at_least(1), metavar="N", default=ReadOptions.max_pixels,
        help="refuse images with more pixels")

    network = ArgumentParser(add_help=False)
    add = network.add_argument
    add("--model", required=True, metavar="PREFIX", action=CheckpointPrefix,
        help="pretrained or fine-tuned checkpoint: its path before -symbol.json")
    add("--epoch", type=at_least(0), default=0, metavar="N",
        help="number of its .params file")
    for name in ("--rgb-mean", "--rgb-std"):
        add(name, metavar="R,G,B", help="as train_multilabel.py's, for a checkpoint that does not "
            "say how it normalises its pixels")
    add("--frozen-precision", choices=["auto", "float32", "int8"], default="auto",
        help="what the network computes in, as train_multilabel.py's")
    add("--gpus", metavar="LIST",
        help="GPUs by number; '' for the CPU (default: all visible GPUs, else the CPU)")
    add("--data", required=True, metavar="LST", help="labelled images")
    add("--image", required=True, metavar="DIR", help="image root")

    add = command(
        "suspects", "list the labels that are likely wrong: those that a classifier trained on the "
        "other images contradicts most", seed, reading, network).add_argument
    add("--out", required=True, metavar="FILE",
        help="CSV to write: row, name, class, label, probability of the class")
    add("--num", type=at_least(1), metavar="N",
        help="labels to list at most (default: all that are likely wrong)")
    add("--show", metavar="PNG", help=f"sheet of the first {SUSPECTS_SHOWN} images to write")
    add("--folds", type=at_least(2), default=5, metavar="K",
        help="parts of the images: each is predicted by a classifier of the others")

    add = command(
        "next", "choose the unlabelled images to label next: those that seem to show the classes "
        "with few labels", reading, network).add_argument
    add("--candidates", metavar="DIR",
        help="folder in the image root: the images there that have no label in --data (default: "
        "the images of --data whose labels are all unknown)")
    add("--num", type=at_least(1), required=True, metavar="N", help="images to choose")
    add("--out", required=True, metavar="LST",
        help=".lst to write, to be filled in: every label is -1, unknown")

    add = command("shard", "deal the rows of a .lst out to machines", seed,
                  label_format).add_argument
    add("lst", metavar="LST")
    add("--num-parts", type=at_least(1), required=True, metavar="N", help="number of machines")
    add("--prefix", required=True, help="writes PREFIX_0.lst and, for rsync --files-from, "
        "PREFIX_0_files.txt, and so on")
    return parser


def _output_flags(seed):
    """The parent parser of all sources."""
    parser = ArgumentParser(add_help=False, parents=[seed])
    add = parser.add_argument_group("output").add_argument
    add("--prefix", required=True,
        help="writes PREFIX_train.lst, PREFIX_val.lst and PREFIX_labels.txt")
    add("--label-format", choices=("multi-hot", "indices"), default="multi-hot",
        help="a row has a 1 or 0 per class, or the numbers of the classes present")
    add("--val-fraction", type=float, default=0.2, metavar="F",
        help="share of the images for validation, stratified by class; 0: no PREFIX_val.lst")
    add("--test-fraction", type=float, default=0, metavar="F",
        help="share of the images for a third list, PREFIX_test.lst; 0: none")
    add("--group-regex", metavar="REGEX",
        help="images in whose names it finds the same stay in one list: with "
        r"'^(\d+)-' those of one number before the first -")
    add = parser.add_argument_group("classes").add_argument
    add("--classes", metavar="FILE",
        help="the classes to have, in this order, one a line; others in the data are an error")
    add("--drop-unlisted", action="store_true",
        help="leave out, and count, classes that are not in that file")
    add("--min-count", type=at_least(0), default=0, metavar="N",
        help="leave out classes that fewer than N images carry")
    parser.add_argument_group("input").add_argument(
        "--skip-bad", action="store_true", help="leave out what is broken, say so, and go on")
    return parser


def _add_sources(command, output):
    listed = ArgumentParser(add_help=False, parents=[output])
    add = listed.add_argument
    add("file", metavar="FILE")
    add("--path-root", metavar="DIR", help="image root: absolute names become relative to it, and "
        "each image is looked for in it")
    add("--suffix", default="", metavar="TEXT",
        help="what names get that lack the ending of an image, such as .jpg")
    lists = ArgumentParser(add_help=False)
    lists.add_argument(
        "--absent", choices=("-1",), help="columns and lists hold 1 and -1, and -1 is absent "
        "(default: 0 is absent and -1 unknown)")
    lists.add_argument(
        "--list-format", choices=("multi-hot", "indices"), help="what lists of numbers such as "
        "[0, 1] are: a 1 or 0 per class, or the numbers of the classes present (default: found "
        "out where it can be)")
    text = ArgumentParser(add_help=False, parents=[listed, lists])
    text.add_argument(
        "--group-column", metavar="COLUMN", help="column (JSON lines: key) of the patient, place "
        "or day that an image belongs to: images of one group stay in one list")

    form = command("csv", "from a table with a column of file names", text).add_argument_group(
        "form", "Columns are named as in the header, or numbered from 1.")
    add = form.add_argument
    add("--delimiter", choices=(",", ";", "|", " ", "tab"),
        help="between columns (default: a comma, tab for .tsv)")
    add("--no-header", action="store_true",
        help="the first row is an image already; columns are called 1, 2, ...")
    add("--name-column", metavar="COLUMN", help="file names (default: the first)")
    add("--separator", metavar="TEXT", help="between class names in a column (default: ;)")
    add("--confidence-column", metavar="COLUMN",
        help="how sure the labels of a row are: from 0.5 to 1 they are present, 0: verified "
        "absent, between: unknown, and so is what no row of an image names")
    add = form.add_mutually_exclusive_group().add_argument
    add("--labels-column", nargs="+", metavar="COLUMN", default=[],
        help="columns with an image's classes, as names or lists such as ['cat', 'dog']; empty: no "
        "class, -1 or NaN: all classes unknown (default: the other one, when there are two)")
    add("--class-columns", nargs="+", metavar="COLUMN", default=[],
        help="one column per class: 1 or True present, 0 or False absent, -1, empty, NaN or NA "
        "unknown (default: all but the file names, when there are more than two)")

    command("jsonl", 'from lines of {"image": "a.jpg", "labels": ["cat"]}; "unknown" may list more '
            "classes", text)
    command("coco", "from a COCO instances or panoptic file, or LVIS", listed)
    command("manifest", "from an augmented manifest of SageMaker or Ground Truth", listed,
            lists).add_argument(
        "--attribute", metavar="KEY",
        help="key of the labels (default: the one that there is beside source-ref)")

    add = command("rec", "from a .rec file of MXNet, whose images become files", output,
                  lists).add_argument
    add("file", metavar="FILE")
    add("--images", required=True, metavar="DIR", dest="path_root",
        help="folder to write the images to, under their IDs; the image root then")

    add = command("voc", "from a Pascal VOC folder, which is the image root then: from its XML "
                  "files, or without any from ImageSets/Main/CLASS_SET.txt", output).add_argument
    add("root", metavar="ROOT")
    add("--image-set", metavar="SET",
        help="only images of ImageSets/Main/SET.txt, such as trainval")

    add = command("folders", "from one folder per class, whose parent is the image root then; an "
                  "image in several carries all of them", output).add_argument
    add("root", metavar="ROOT")
    add("--split-names", metavar="TEXT",
        help="a folder's name holds several classes, with this between them: with _ black_jeans "
        "stands for black and jeans")
