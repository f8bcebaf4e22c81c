"""Readers of folders that hold images and their labels: one folder per class, and Pascal VOC.

    source = read_voc("VOCdevkit/VOC2007", BadInput(skip=False))
    for sample in source.samples:
        sample.name, sample.present, sample.unknown

Both return a Source, with names relative to the folder; its samples are read on the way.
"""
import io
import logging
import os
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from common.cli import InputError
from datasets.equal_files import digest
from datasets.label_table import NOTHING, Sample, Source
from datasets.text_sources import read_error, read_lines
from reading.image_header import IMAGE_ENDINGS

MAX_XML_BYTES = 4 << 20  # tens of thousands of boxes
MAX_XML_DEPTH = 64

logger = logging.getLogger(__name__)


def read_folders(root, bad_input, separator=None):
    """Read one folder per class, with images at any depth; an image in several has all classes.

    With a `separator`, a folder's name holds several classes. Files of other kinds are passed over
    with a warning that counts them, hidden ones without.
    """
    classes, by_size, others = {}, defaultdict(list), Counter()
    for entry in _entries(root):
        if entry.is_dir():
            names = entry.name.split(separator) if separator else [entry.name]
            present = {name.strip() for name in names if name.strip()}
            classes.update(dict.fromkeys(sorted(present)))
            for path in _images_below(entry.path, others):
                name = os.path.relpath(path, root)
                try:
                    size = os.stat(path).st_size
                except OSError as error:
                    bad_input.reject(path, error.strerror.lower())
                    continue
                if size:
                    by_size[size].append((name, present))
                else:
                    bad_input.reject(path, "is empty")
        elif entry.name.lower().endswith(IMAGE_ENDINGS):
            bad_input.reject(entry.path, "lies in no class's folder")
    if others:
        logger.warning("passed over: %s; of what is read the names end in %s", ", ".join(
            f"{count} {ending}" for ending, count in others.most_common()), " ".join(IMAGE_ENDINGS))
    return Source(list(classes), _merged(root, by_size, bad_input))


def _merged(root, by_size, bad_input):
    """Samples in the order of their names, one for each content."""
    samples, count = {}, 0
    for size, group in by_size.items():
        for name, present in group:
            path = os.path.join(root, name)
            try:
                # Only files of the same size can be the same, and most sizes occur once.
                key = size, digest(path) if len(group) > 1 else None
            except OSError as error:
                bad_input.reject(path, error.strerror.lower())
                continue
            count += 1
            samples.setdefault(key, Sample(name, set(), NOTHING, path)).present.update(present)
    if count > len(samples):
        logger.warning("merged: %d files of the same content as another one, whose image carries "
                       "the classes of all", count - len(samples))
    return iter(sorted(samples.values(), key=lambda sample: sample.name))


def _entries(folder):
    """What is in a folder, sorted, hidden files left out."""
    try:
        return sorted((entry for entry in os.scandir(folder) if not entry.name.startswith(".")),
                      key=lambda entry: entry.name)
    except OSError as error:
        raise read_error(folder, error) from None


def _images_below(folder, others):
    """Yield the images' paths, and count other files by their ending in `others`."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield os.path.join(parent, name)
            elif not name.startswith("."):
                others[os.path.splitext(name)[1].lower() or "without an ending"] += 1


def read_voc(root, bad_input, image_set=None, labels_from=None):
    """Read a Pascal VOC folder; names are relative to it (`JPEGImages/000005.jpg`).

    Parameters
    ----------
    root : str
        With Annotations/*.xml and JPEGImages/, or with the XML files beside their images.
    bad_input : BadInput
    image_set : str, optional
        Only the images of ImageSets/Main/IMAGE_SET.txt.
    labels_from : str, optional
        "xml": a class is present when an object of it is not difficult, unknown when all of
        its objects are. "sets": ImageSets/Main/CLASS_IMAGE_SET.txt, where 1 is present, -1
        absent and 0 (difficult) unknown. Default: XML where there is some.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    if not any((root / name).is_dir() for name in ("Annotations", "ImageSets", "JPEGImages")):
        below = sorted(str(folder.parent) for folder in root.glob("*/JPEGImages"))
        if below:
            raise InputError(f"{root}: holds Pascal VOC folders, but is none: give "
                             f"{' or '.join(below)}")
    notes = root / "Annotations" if (root / "Annotations").is_dir() else root
    sets = root / "ImageSets" / "Main"
    if labels_from is None:
        has_xml = next(notes.rglob("*.xml"), None) is not None
        labels_from = "xml" if has_xml or not sets.is_dir() else "sets"
    if labels_from == "sets":
        return _voc_sets(root, sets, image_set or "trainval", bad_input)
    if image_set:
        ids = [line.strip() for line in map(os.fsdecode, read_lines(sets / f"{image_set}.txt"))]
        files = [notes / f"{name}.xml" for name in ids if name]
    else:
        files = sorted(notes.rglob("*.xml"))
    if not files:
        raise InputError(f"{notes}: no XML files: not a Pascal VOC folder")
    return Source(None, _voc_samples(root, notes, files, bad_input))


class _BadAnnotation(Exception):
    """Why an annotation cannot be used."""


def _voc_samples(root, notes, files, bad_input):
    images = _ImageFinder(root)
    for file in files:
        try:
            filename, present, difficult = _read_annotation(file)
            name = images.find(file.parent.relative_to(notes), file.stem, filename)
            if name is None:
                raise _BadAnnotation("has no image of its name")
            yield Sample(name, present, difficult - present, file)
        except _BadAnnotation as error:
            bad_input.reject(file, str(error))
        except ParseError as error:
            bad_input.reject(f"{file}:{error.position[0]}", f"broken XML: {error}")
        except DefusedXmlException:
            bad_input.reject(file, "declares a document type or entities, which no VOC annotation "
                             "needs")
        except OSError as error:
            bad_input.reject(file, (error.strerror or str(error)).lower())
        except (ValueError, LookupError) as error:  # an encoding that there is not
            bad_input.reject(file, f"broken XML: {error}")


def _read_annotation(file):
    """File name, classes with an ordinary object and classes with a difficult one."""
    if file.exists() and not file.is_file():
        raise _BadAnnotation("is not a regular file")
    if file.stat().st_size > MAX_XML_BYTES:
        raise _BadAnnotation(f"is larger than {MAX_XML_BYTES >> 20} MB: no VOC annotation")
    # Without a document type there are no entities to expand, nor to fetch. Parsed in steps, so
    # that deep nesting is found before it takes memory.
    steps = defusedxml.ElementTree.iterparse(
        io.BytesIO(file.read_bytes()), events=("start", "end"), forbid_dtd=True)
    depth = 0
    for event, _ in steps:
        depth += 1 if event == "start" else -1
        if depth > MAX_XML_DEPTH:
            raise _BadAnnotation(f"XML nested deeper than {MAX_XML_DEPTH}: no VOC annotation")
    note = steps.root
    if note.tag != "annotation":
        raise _BadAnnotation(f"holds <{note.tag:.40}>, not a VOC <annotation>")
    present, difficult = set(), set()
    for item in note.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise _BadAnnotation("has an <object> without a <name>")
        hard = (item.findtext("difficult") or "").strip() == "1"
        (difficult if hard else present).add(name)
    return (note.findtext("filename") or "").strip(), present, difficult


def _voc_sets(root, sets, image_set, bad_input):
    """The source that the files ImageSets/Main/CLASS_IMAGE_SET.txt describe."""
    ending = f"_{image_set}.txt"
    files = [Path(entry.path) for entry in _entries(sets) if entry.name.endswith(ending)]
    if not files:
        raise InputError(f"{sets}: no files called CLASS{ending}: --image-set names another set")
    classes = [file.name[:-len(ending)] for file in files]
    stated = defaultdict(dict)
    for class_name, file in zip(classes, files):
        for number, line in enumerate(map(os.fsdecode, read_lines(file)), 1):
            fields = line.rsplit(None, 1)
            if len(fields) == 2 and fields[1] in ("1", "0", "-1"):
                stated[fields[0].strip()][class_name] = fields[1]
            elif fields:
                bad_input.reject(f"{file}:{number}",
                                 f"{line.strip()!r:.60} is not an image and 1, 0 or -1")

    def samples():
        images = _ImageFinder(root)
        for name, values in sorted(stated.items()):
            image = images.find(Path(), name)
            if image is None:
                bad_input.reject(sets, f"{name} has no image in {images.folder}")
                continue
            present = {c for c, value in values.items() if value == "1"}
            # A class whose file does not name the image says nothing of it.
            unknown = {c for c in classes if values.get(c, "0") == "0"}
            yield Sample(image, present, unknown, f"{sets}: {name}")

    return Source(classes, samples())


class _ImageFinder:
    """The images of a VOC folder, by the name of their annotation."""

    def __init__(self, root):
        self.root = root
        self.folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
        self._listings = {}

    def find(self, below, stem, filename=""):
        """Name relative to the root of the image that is called so, None when there is none."""
        folder = self.folder / below
        if folder not in self._listings:
            names = os.listdir(folder) if folder.is_dir() else []
            images = [name for name in sorted(names) if name.lower().endswith(IMAGE_ENDINGS)]
            self._listings[folder] = set(images), {Path(name).stem: name for name in images}
        names, by_stem = self._listings[folder]
        # Annotations get moved and renamed along with their images, and <filename> gets stale.
        base = filename.replace("\\", "/").split("/")[-1]
        name = by_stem.get(stem) or (base if base in names else by_stem.get(base))
        return name and os.path.relpath(folder / name, self.root)
