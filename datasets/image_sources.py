"""Sources that hold the images, too: one folder per class, Pascal VOC, and MXNet's .rec files.

Each reader returns a Source, with names relative to the folder of the images; samples of folders
are read on the way.
"""
import functools
import io
import logging
import os
import struct
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from common.cli import InputError
from common.files import atomic_file, make_parent_folder, open_regular_file
from datasets.label_table import NOTHING, Place, Sample, Source
from datasets.text_sources import ListRow, clean_list, read_errors, read_lines, samples_of_lists
from reading.equal_files import first_equal
from reading.image_file import IMAGE_ENDINGS, read_header
from reading.image_list import is_passed_over, walk_images

MAX_XML_BYTES = 4 << 20  # tens of thousands of boxes
MAX_XML_DEPTH = 64
# Folders that hold the parts of a data set, each with a folder per class.
SPLIT_NAMES = frozenset(["train", "training", "val", "valid", "validation", "dev", "eval", "test",
                         "testing", "holdout"])

logger = logging.getLogger(__name__)


def read_folders(flags, bad_input):
    """Read one folder per class, with images at any depth; an image in several has all classes.

    `flags` are those of `make_lst.py folders`. Files of other kinds are passed over with a warning
    that counts them, hidden ones and those of other programs without. An InputError names a folder
    such as train/ that holds the folders of classes.
    """
    root, separator = flags.root, flags.split_names
    classes, images, others = {}, [], Counter()
    entries = _entries(root)
    num_folders = sum(entry.is_dir() for entry in entries)
    for entry in entries:
        if not entry.is_dir():
            if entry.name.lower().endswith(IMAGE_ENDINGS):
                bad_input.reject(Place(entry.path), "lies in no class's folder")
            continue
        holds = {inner.is_dir() for inner in _entries(entry.path)}
        if True in holds and (entry.name.lower() in SPLIT_NAMES
                              or num_folders == len(holds) == 1):
            raise InputError(f"holds {entry.name}, which holds the folders of classes: give "
                             f"{entry.path}, and others on their own (--val-fraction 0 makes one "
                             "list)", file=root)
        names = entry.name.split(separator) if separator else [entry.name]
        present = {name.strip() for name in names if name.strip()}
        classes.update(dict.fromkeys(sorted(present)))
        images += [(path, present) for path in walk_images(entry.path, others)]
    if others:
        logger.warning("passed over: %s; of what is read the names end in %s", ", ".join(
            f"{count} {ending}" for ending, count in others.most_common()), " ".join(IMAGE_ENDINGS))
    return Source(list(classes), _merged(root, images))


def _merged(root, images):
    """Samples in the order of their names, one for each content, of (path, classes)."""
    samples = {}
    for (path, present), first in zip(images, first_equal([path for path, _ in images]).tolist()):
        name = os.path.relpath(path, root)
        samples.setdefault(first, Sample(name, set(), NOTHING, path)).present.update(present)
    if len(images) > len(samples):
        logger.warning("merged: %d files of the same content as another one, whose image carries "
                       "the classes of all", len(images) - len(samples))
    return iter(sorted(samples.values(), key=lambda sample: sample.name))


def _entries(folder):
    """What is in a folder, sorted, without hidden files and those of other programs."""
    with read_errors(folder):
        return sorted((entry for entry in os.scandir(folder) if not is_passed_over(entry.name)),
                      key=lambda entry: entry.name)


def read_voc(flags, bad_input):
    """Read a Pascal VOC folder; names are relative to it (`JPEGImages/000005.jpg`).

    It has Annotations/*.xml and JPEGImages/, or the XML files beside their images. A class is
    present when an object of it is not difficult, unknown when all of its objects are. Without XML
    the labels come from ImageSets/Main/CLASS_SET.txt, where 1 is present, -1 absent and 0
    (difficult) unknown. `flags` are those of `make_lst.py voc`.
    """
    root, image_set = Path(flags.root), flags.image_set
    notes = root / "Annotations" if (root / "Annotations").is_dir() else root
    sets = root / "ImageSets" / "Main"
    files = sorted(notes.rglob("*.xml"))
    if not files:
        if not sets.is_dir():
            raise InputError("neither XML files nor ImageSets/Main: not a Pascal VOC folder",
                             file=root)
        return _voc_sets(root, sets, image_set or "trainval", bad_input)
    if image_set:
        ids = [line.strip() for line in map(os.fsdecode, read_lines(sets / f"{image_set}.txt"))]
        files = [notes / f"{name}.xml" for name in ids if name]
    return Source(None, _voc_samples(root, notes, files, bad_input))


def _voc_samples(root, notes, files, bad_input):
    find_image = _image_finder(root)
    for file in files:
        where = Place(str(file))
        with bad_input.rejecting(where):
            try:
                filename, present, difficult = _read_annotation(file)
            except (ParseError, LookupError, DefusedXmlException) as error:
                # LookupError: an unknown encoding.
                raise ValueError(f"broken XML, or a document type in it: {error}") from None
            name = find_image(file.parent.relative_to(notes), file.stem, filename, file.parent)
            yield Sample(name, present, difficult - present, where)


def _read_annotation(file):
    """File name, classes with an ordinary object and classes with a difficult one."""
    with open_regular_file(file) as opened:
        data = opened.read(MAX_XML_BYTES + 1)
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"is larger than {MAX_XML_BYTES >> 20} MB: no VOC annotation")
    # Without a document type there are no entities to expand, nor to fetch. Parsed in steps, so
    # that deep nesting is found before it takes memory.
    steps = defusedxml.ElementTree.iterparse(
        io.BytesIO(data), events=("start", "end"), forbid_dtd=True)
    depth = 0
    for event, _ in steps:
        depth += 1 if event == "start" else -1
        if depth > MAX_XML_DEPTH:
            raise ValueError(f"XML nested deeper than {MAX_XML_DEPTH}: no VOC annotation")
    note = steps.root
    if note.tag != "annotation":
        raise ValueError(f"holds <{note.tag:.40}>, not a VOC <annotation>")
    present, difficult = set(), set()
    for item in note.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise ValueError("has an <object> without a <name>")
        hard = (item.findtext("difficult") or "").strip() == "1"
        (difficult if hard else present).add(name)
    return (note.findtext("filename") or "").strip(), present, difficult


def _voc_sets(root, sets, image_set, bad_input):
    """The source that the files ImageSets/Main/CLASS_IMAGE_SET.txt describe."""
    ending = f"_{image_set}.txt"
    files = {entry.name[:-len(ending)]: entry.path for entry in _entries(sets)
             if entry.name.endswith(ending)}
    if not files:
        raise InputError(f"no files called CLASS{ending}: {{flag}} names another set", file=sets,
                         flag="--image-set")
    stated = defaultdict(dict)
    for class_name, file in files.items():
        for number, line in enumerate(map(os.fsdecode, read_lines(file)), 1):
            fields = line.rsplit(None, 1)
            if len(fields) == 2 and fields[1] in ("1", "0", "-1"):
                stated[fields[0].strip()][class_name] = fields[1]
            elif fields:
                bad_input.reject(Place(file, number),
                                 f"{line.strip()!r:.60} is not an image and 1, 0 or -1")

    def samples():
        find_image = _image_finder(root)
        for name, values in sorted(stated.items()):
            with bad_input.rejecting(f"{sets}: {name}"):
                present = {c for c, value in values.items() if value == "1"}
                # A class whose file does not name the image says nothing of it.
                unknown = {c for c in files if values.get(c, "0") == "0"}
                yield Sample(find_image(Path(), name), present, unknown, f"{sets}: {name}")

    return Source(list(files), samples())


def _image_finder(root):
    """The function that finds the images of a VOC folder by the names of their annotations."""
    images = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root

    @functools.lru_cache(None)
    def names_by_stem(folder):
        by_stem = defaultdict(list)
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if name.lower().endswith(IMAGE_ENDINGS):
                by_stem[Path(name).stem].append(name)
        return dict(by_stem)

    def find(below, stem, filename="", notes=None):
        """Name, relative to the root, of the image of an annotation; a ValueError without one.

        It is the file called `filename`, else that of the annotation's own name, `stem`. `notes` is
        the folder of the annotations.
        """
        by_stem = names_by_stem(images / below)
        base = filename.replace("\\", "/").split("/")[-1]
        found = by_stem.get(stem) or by_stem.get(base, [])
        named = Path(base).stem
        # Annotations get renamed along with their images, and <filename> gets stale: it then names
        # the image of another annotation.
        is_stale = named != stem and stem in by_stem and notes and (notes / f"{named}.xml").exists()
        if base in by_stem.get(named, ()) and not is_stale:
            found = [base]
        if len(found) != 1:
            raise ValueError(f"has {len(found) or 'no'} images of its name in {images / below}"
                             + f": {' and '.join(found)}" * bool(found))
        return os.path.relpath(images / below / found[0], root)

    return find


def read_rec(flags, bad_input):
    """Write the images of a .rec into the folder `flags.path_root`; their labels are the Source.

    Images keep their bytes and are called by their IDs. A label that is no array is the number of a
    class; an array is multi-hot or has such numbers, as `samples_of_lists` finds out. `flags` are
    those of `make_lst.py rec`. An InputError names a file that is damaged, and an image that is
    there already with other content.
    """
    from common.mx_compat import mx  # takes a second to import

    rows, of_id = [], Counter()
    for number, record in enumerate(_records(flags.file, mx)):
        where = Place(f"{flags.file}: record {number}")
        with bad_input.rejecting(where):
            try:
                header, image = mx.recordio.unpack(record)
            except struct.error as error:
                raise ValueError(str(error)) from None
            values = (clean_list(header.label.tolist()) if header.flag
                      else list(map(str, clean_list([float(header.label)]) or [])))
            ending = read_header(image).format.lower().replace("jpeg", "jpg")
            again = f"_{of_id[header.id]}" * (header.id in of_id)
            of_id[header.id] += 1
            name = f"{header.id}{again}.{ending}"
            _write(Path(flags.path_root, name), image)
            rows.append(ListRow(where, name, values or [], not values))
    return samples_of_lists(rows, flags, bad_input)


def _records(path, mx):
    """Yield the records of a .rec file, bytes."""
    with read_errors(path):
        open_regular_file(path).close()
    reader, number = mx.recordio.MXRecordIO(path, "r"), 0
    try:
        for record in iter(reader.read, None):
            yield record
            number += 1
    except mx.MXNetError:
        raise InputError(f"not a .rec file, damaged or cut short: record {number} cannot be read",
                         file=path) from None
    finally:
        reader.close()


def _write(path, data):
    """Write a file, unless it is there with these bytes."""
    if os.path.lexists(path):
        if not path.is_file() or path.read_bytes() != data:
            raise InputError("is there already, with other content", file=str(path))
        return
    make_parent_folder(path)
    with atomic_file(path) as temporary:
        Path(temporary).write_bytes(data)
