"""Names that mean a file in another spelling, and files that stand in for others."""
import os
import unicodedata
from pathlib import Path

import cv2
import import_pretrained
import make_lst
import numpy as np
import pytest
from conftest import script

from common.cli import InputError
from common.files import existing_path
from convert.torch_file import read_tensors
from datasets.json_sources import read_coco
from datasets.label_table import BadInput
from datasets.text_sources import read_lines
from evaluation.evaluation import read_measures
from lst_iter import LstIter
from network import checkpoint
from reading.classes import read_class_names
from reading.image_file import read_image
from reading.lst_file import read_lst

POINTER = (b"version https://git-lfs.github.com/spec/v1\n"
           b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
           b"size 12345\n")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given, file", [
    ("a.jpg", "a.jpg"), (" a.jpg", "a.jpg"), ("a.jpg \t", "a.jpg"), ("x\\a.jpg", "x/a.jpg"),
    ("x\\y \\ a.jpg", "x/y/a.jpg"), (unicodedata.normalize("NFD", "é/ü.jpg"), "é/ü.jpg"),
    (unicodedata.normalize("NFC", "é/ü.jpg"), unicodedata.normalize("NFD", "é/ü.jpg")),
    (unicodedata.normalize("NFC", "ü\\é.jpg "), unicodedata.normalize("NFD", "ü/é.jpg")),
    ("x/../a.jpg", "x/../a.jpg"), (" a.jpg ", " a.jpg "), ("x\\y.jpg", "x\\y.jpg")])
def test_a_name_finds_the_file_that_it_means(here, given, file):
    for name in ("x/1.jpg", file):
        os.makedirs(os.path.dirname(here / name), exist_ok=True)
        (here / name).write_bytes(b"")
    assert existing_path(given) == file
    assert existing_path(str(here / given)) == str(here / file)


@pytest.mark.parametrize("given", ["b.jpg", "x\\b.jpg", "", "/none/b.jpg", " "])
def test_a_name_without_a_file_stays(here, given):
    (here / "a.jpg").write_bytes(b"")
    assert existing_path(given) == given


SPELLINGS = [" é 1.png", "sub\\2.png", unicodedata.normalize("NFD", "ü.png"), "3.png \t "]
FILES = ["é 1.png", "sub/2.png", "ü.png", "3.png"]


@pytest.fixture
def photos(here):
    """A folder of FILES, and a list of them in SPELLINGS."""
    (here / "photos/sub").mkdir(parents=True)
    for number, name in enumerate(FILES):
        done, data = cv2.imencode(".png", np.full((9, 9, 3), 40 * number, np.uint8))
        (here / "photos" / name).write_bytes(data)
    (here / "train.lst").write_text("".join(
        f"{number}\t1\t0\t{name}\n" for number, name in enumerate(SPELLINGS)))
    return here


def test_training_reads_images_under_names_that_mean_them(photos):
    with LstIter(4, (3, 8, 8), "train.lst", "photos") as batches:
        pixels = batches.next().data[0].asnumpy()
    assert pixels[:, 0, 0, 0].tolist() == [0, 40, 80, 120]


def test_lists_are_checked_under_names_that_mean_files(photos):
    assert make_lst.main(["check", "train.lst", "--path-root", "photos"]) == 0


def test_lists_are_written_with_the_names_of_the_files(photos):
    (photos / "t.csv").write_text(
        "f,l\n" + "".join(f"{name.strip()},cat\n" for name in [*SPELLINGS, "sub/2.png"]))
    make_lst.main(["csv", "t.csv", "--prefix", "out", "--val-fraction", "0", "--path-root",
                   "photos"])
    assert sorted(read_lst("out_train.lst").name(row) for row in range(4)) == sorted(FILES)


def test_a_name_with_backslashes_does_not_lead_out_of_the_folder(photos):
    (photos / "secret.png").write_bytes(b"x")
    (photos / "t.csv").write_text("f,l\n..\\secret.png,cat\n")
    with pytest.raises(InputError) as caught:
        make_lst.main(["csv", "t.csv", "--prefix", "out", "--path-root", "photos"])
    assert (caught.value.file, caught.value.line) == ("t.csv", 2)


@pytest.mark.parametrize("suffix, names", [(".png", ["3", "sub/2", "ü"]), (".png", ["3", "ü.png"]),
                                           (".PNG", ["7", "3.png"])])
def test_a_suffix_is_added_to_names_without_an_ending(photos, suffix, names):
    (photos / "photos/7.PNG").write_bytes(b"x")
    (photos / "t.csv").write_text("f,l\n" + "".join(f"{name},cat\n" for name in names))
    flags = ["csv", "t.csv", "--prefix", "out", "--val-fraction", "0", "--path-root", "photos"]
    with pytest.raises(InputError) as caught:
        make_lst.main(flags)
    assert "--suffix .jpg adds" in caught.value.what
    make_lst.main([*flags, "--suffix", suffix])
    lst = read_lst("out_train.lst")
    assert [lst.name(row) for row in range(len(lst))] == [
        name if name.lower().endswith(".png") else name + suffix for name in names]


@pytest.mark.parametrize("read", [
    read_lst, read_class_names, read_tensors,
    lambda path: import_pretrained.main(["--onnx", path, "--prefix", "net"]),
    lambda path: list(read_lines(path)),
    lambda path: read_coco(path, BadInput(skip=True)),
    lambda path: read_image(path, np.empty((3, 8, 8), np.uint8)),
    lambda path: read_measures(path, ["cat"])], ids=lambda read: getattr(read, "__name__", ""))
def test_a_pointer_in_place_of_a_file_is_named(here, read):
    path = here / "file.onnx"
    path.write_bytes(POINTER)
    with pytest.raises(InputError) as caught:
        read(str(path))
    assert str(path) in str(caught.value) and "git lfs pull" in str(caught.value)


@pytest.mark.parametrize("which", ["-symbol.json", "-0000.params"])
def test_a_pointer_in_place_of_a_checkpoint_is_named(tiny_network, here, which):
    for end in ("-symbol.json", "-0000.params"):
        content = Path(tiny_network + end).read_bytes()
        (here / f"net{end}").write_bytes(POINTER if end == which else content)
    with pytest.raises(InputError) as caught:
        checkpoint.load("net", 0)
    assert f"net{which}" in str(caught.value) and "git lfs pull" in str(caught.value)


def test_a_pointer_in_place_of_a_voc_annotation_is_named(here):
    (here / "1.xml").write_bytes(POINTER)
    (here / "1.jpg").write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        make_lst.main(["voc", ".", "--prefix", "out"])
    assert caught.value.file == "1.xml" and "git lfs pull" in caught.value.what


def test_a_list_that_is_a_pointer_ends_training_in_one_line(here, tiny_network):
    (here / "train.lst").write_bytes(POINTER)
    out = script("train_multilabel.py", "--model", tiny_network, "--data-train", "train.lst",
                 "--image-train", ".", "--save-result", "result", status=2, cwd=here)
    assert out.count("\n") == 1 and "train.lst: " in out and "git lfs pull" in out
