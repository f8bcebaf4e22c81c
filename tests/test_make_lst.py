import errno
import json
import os
import shutil
import time

import cv2
import make_lst
import numpy as np
import pytest
from conftest import script
from make_lst import main

from common.cli import InputError
from reading.lst_file import read_lst


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test writes its files into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*args):
    """Run make_lst.py in this process, which spares each test the two seconds of a new one."""
    return main([str(arg) for arg in args])


def rows(path):
    """{file name: labels as text} of a .lst."""
    with open(path, encoding="utf-8") as file:
        fields = [line.rstrip("\n").split("\t") for line in file]
    return {row[-1]: " ".join(row[1:-1]).replace(".000000", "") for row in fields}


def all_rows(prefix="out"):
    return {**rows(f"{prefix}_train.lst"), **rows(f"{prefix}_val.lst")}


def classes(prefix="out"):
    with open(f"{prefix}_labels.txt", encoding="utf-8") as file:
        return file.read().split("\n")[:-1]


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def refused(*args):
    """The InputError of make_lst.py."""
    with pytest.raises(InputError) as caught:
        make(*args)
    return caught.value


def refusal(*args):
    return str(refused(*args))


LIST_CSV = "file,labels\na b.jpg,cat;dog\nü.jpg,\n\"c,d.jpg\",cat\ne.jpg,dog;\n"


def test_csv_becomes_lists_and_a_table(here):
    write(here / "labels.csv", LIST_CSV)
    out = script("tools/make_lst.py", "csv", "labels.csv", "--prefix", "data/out",
                 "--val-fraction", 0.5, cwd=here)
    assert all_rows("data/out") == {"a b.jpg": "1 1", "ü.jpg": "0 0", "c,d.jpg": "1 0",
                                    "e.jpg": "0 1"}
    assert classes("data/out") == ["cat", "dog"]
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert table["images"] == ["2", "2"]
    assert table["cat"] == table["dog"] == ["1", "1"]
    assert "too few" in out


def test_labels_are_spelled_as_im2rec_does(here):
    write(here / "labels.csv", "file,cat,dog\na.jpg,1,0\nb.jpg,,-1\n")
    make("csv", "labels.csv", "--prefix", "out", "--val-fraction", 0)
    assert (here / "out_train.lst").read_bytes() == (
        b"0\t1.000000\t0.000000\ta.jpg\n1\t-1.000000\t-1.000000\tb.jpg\n")
    assert read_lst("out_train.lst", 2).labels([0, 1]).tolist() == [[1, 0], [-1, -1]]


def test_a_mistake_ends_in_one_line_and_status_2(here):
    out = script("tools/make_lst.py", "csv", "none.csv", "--prefix", "out", status=2, cwd=here)
    assert out == "make_lst.py: error: none.csv: cannot be read: no such file or directory\n"


def test_the_same_seed_gives_the_same_files_and_another_one_others(here):
    write(here / "labels.csv", "file,labels\n" + "".join(
        f"{n}.jpg,{'cat' * (n % 3 == 0)};{'dog' * (n % 2)}\n" for n in range(60)))
    for prefix, seed in (("a", 1), ("b", 1), ("c", 2)):
        make("csv", "labels.csv", "--prefix", prefix, "--seed", seed)
    files = {p: (here / f"{p}_val.lst").read_bytes() for p in "abc"}
    assert files["a"] == files["b"] != files["c"]


def test_class_numbers_in_place_of_columns(here):
    write(here / "labels.csv", LIST_CSV)
    make("csv", "labels.csv", "--prefix", "out", "--label-format", "indices",
         "--val-fraction", 0)
    assert rows("out_train.lst") == {"a b.jpg": "0 1", "ü.jpg": "", "c,d.jpg": "0",
                                     "e.jpg": "1"}


def test_class_numbers_cannot_say_unknown(here):
    write(here / "labels.csv", "file,cat,dog\na.jpg,1,-1\nb.jpg,1,0\n")
    assert refused("csv", "labels.csv", "--prefix", "out", "--label-format",
                   "indices").flag == "--label-format"
    assert not list(here.glob("out*"))


@pytest.mark.parametrize("flags, text", [
    (["--delimiter", "|", "--separator", " "], "f|l\nx.jpg|cat dog\ny.jpg|dog\n"),
    (["--delimiter", "tab"], "f\tl\nx.jpg\tcat;dog\ny.jpg\tdog\n"),
    (["--no-header"], "x.jpg,cat;dog\r\n\r\ny.jpg,dog\r\n"),
    (["--name-column", "f"], "l,f\ncat;dog,x.jpg\ndog,y.jpg\n"),
    (["--name-column", "3", "--labels-column", "l"], "w,l,f\n1,cat;dog,x.jpg\n2,dog,y.jpg\n"),
    (["--class-columns", "cat", "dog"], "f,w,cat,dog\nx.jpg,640,1,1.0\ny.jpg,640,0,1\n"),
    ([], "\ufefff,cat,dog\nx.jpg,1,1\ny.jpg,0,1\n"),
    ([], "f,l\nx.jpg,cat\ny.jpg,dog\nx.jpg,dog\n"),
    ([], "f, l\nx.jpg, \"cat;dog\"\n y.jpg , dog\n"),
    ([], "f,cat,dog\nx.jpg,True,true\ny.jpg,False,True\n"),
    ([], "f,l\nx.jpg,cat\n./y.jpg,dog\nb/../x.jpg,dog\n"),
    (["--delimiter", " ", "--class-columns", "cat", "dog"],
     "f x cat dog\nx.jpg  1 1\ny.jpg  0 1\n"),
])
def test_forms_of_csv(here, flags, text):
    write(here / "t.csv", text)
    make("csv", "t.csv", "--prefix", "out", "--val-fraction", 0, *flags)
    assert rows("out_train.lst") == {"x.jpg": "1 1", "y.jpg": "0 1"}
    assert classes() == ["cat", "dog"]


@pytest.mark.parametrize("text", ["f,l\nx.jpg,cat;dog\ny.jpg,-1\nz.jpg,\n",
                                  "f,cat,dog\nx.jpg,1,1\ny.jpg,NaN,NA\nz.jpg,0,0\n",
                                  "f,cat,dog\nx.jpg,1,1\ny.jpg,nan,\nz.jpg,0,0.0\n"])
def test_forms_of_unknown_in_csv(here, text):
    write(here / "t.csv", text)
    make("csv", "t.csv", "--prefix", "out", "--val-fraction", 0)
    assert rows("out_train.lst") == {"x.jpg": "1 1", "y.jpg": "-1 -1", "z.jpg": "0 0"}
    assert classes() == ["cat", "dog"]


def test_one_column_of_ones_and_zeros_is_not_taken_for_class_names(here):
    write(here / "t.csv", "f,a cat\nx.jpg,1\ny.jpg,0\nz.jpg,-1\n")
    flags = ["csv", "t.csv", "--prefix", "out", "--val-fraction", 0]
    assert "column a cat holds nothing but 1, 0 and unknown" in refusal(*flags)
    make(*flags, "--class-columns", "a cat")
    assert rows("out_train.lst") == {"x.jpg": "1", "y.jpg": "0", "z.jpg": "-1"}
    make(*flags, "--labels-column", "a cat")
    assert rows("out_train.lst") == {"x.jpg": "0 1", "y.jpg": "1 0", "z.jpg": "-1 -1"}


def test_classes_may_be_called_like_column_numbers(here):
    write(here / "t.csv", "f,0,1,2\nx.jpg,1,0,1\n")
    make("csv", "t.csv", "--prefix", "out", "--val-fraction", 0)
    assert rows("out_train.lst") == {"x.jpg": "1 0 1"}
    assert classes() == ["0", "1", "2"]


@pytest.mark.parametrize("text, message", [
    ("f,cat,dog\nx.jpg,1,0\ny.jpg,2,0\n", "t.csv:3: column cat holds '2'"),
    ("f,cat,dog\nx.jpg,1,0\ny.jpg,1\n", "t.csv:3: 2 columns, but the first row has 3"),
    ("f,cat,dog\nx.jpg,1,0\nx.jpg,0,0\n", "t.csv:3: x.jpg is on an earlier line already"),
    ("f,cat,dog\nx.jpg,1,0\n./x.jpg,0,0\n", "t.csv:3: ./x.jpg is on an earlier line already"),
    ("f,l\nx.jpg,cat\ny.jpg,cat;-1\n", "t.csv:3: -1 (all classes unknown) stands among"),
    ("f,l\nx.jpg,cat\n\"y\t.jpg\",cat\n", "t.csv:3: the file name 'y\\t.jpg' holds a tab,"),
    ("f,l\nx.jpg,cat\n\"y\n.jpg\",cat\n", "t.csv:4: the file name 'y\\n.jpg' holds a tab,"),
    ("f,l\nx.jpg,cat\n,dog\n", "t.csv:3: the file name is empty"),
    ("f,l\nx.jpg,cat\n\"y\"z.jpg,cat\n", "t.csv:3: broken CSV"),
    ("f,l\nx.jpg,cat\n/photos/y.jpg,cat\n", "t.csv:3: /photos/y.jpg is an absolute name"),
])
def test_a_bad_row_is_named_and_can_be_left_out(here, capsys, text, message):
    write(here / "t.csv", text)
    flags = ["csv", "t.csv", "--prefix", "out", "--val-fraction", 0]
    assert refusal(*flags).startswith(message)
    assert not list(here.glob("out*"))
    make(*flags, "--skip-bad")
    assert set(rows("out_train.lst")) == {"x.jpg"}
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text, encoding, flags, message", [
    ("", "utf-8", [], "is empty"),
    ("f\nx.jpg\n", "utf-8", [], "another --delimiter"),
    ("f;l\nx.jpg;cat\n", "utf-8", [], "t.csv:1: one column only; another --delimiter"),
    ("x.JPG,cat\ny.jpg,dog\n", "utf-8", [], "t.csv:1: x.JPG looks like an image"),
    ("f,l\nx.jpg,cat\n", "utf-16", [], "UTF-16"),
    ("f,a,b\nx.jpg,1,0\n", "utf-8", ["--labels-column", "c"], "no column c (--labels-column)"),
    ("f,a,a\nx.jpg,1,0\n", "utf-8", [], "two columns are called a"),
    ("f,l\nx.jpg," + "cat;" * 2_000_000, "utf-8", [], "t.csv:2: a line longer than 4 MB"),
    ("f,l\n", "utf-8", [], "no images were found"),
    ("f,l\nx.jpg,\n", "utf-8", [], "there are no labels"),
    ("f,l\nx.jpg,cat\n", "utf-8", ["--val-fraction", "1"], "--val-fraction is from 0"),
    ("f,l\nx.jpg,cat\n", "utf-8", [], "1 images in 1 groups cannot be split"),
])
def test_a_file_that_cannot_serve_is_refused(here, text, encoding, flags, message):
    write(here / "t.csv", text, encoding)
    assert message in refusal("csv", "t.csv", "--prefix", "out", "--skip-bad", *flags)
    assert not list(here.glob("out*"))


def test_absolute_names_become_relative_to_the_image_root(here):
    write(here / "t.csv", f"f,l\n{here}/photos/a/x.jpg,cat\ny.jpg,cat\n")
    for name in ("a/x.jpg", "y.jpg"):
        write(here / "photos" / name, "an image")
    make("csv", "t.csv", "--prefix", "out", "--path-root", "photos", "--val-fraction", 0)
    assert set(rows("out_train.lst")) == {"a/x.jpg", "y.jpg"}
    assert "leads out of" in refusal("csv", "t.csv", "--prefix", "out", "--path-root", "other")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../../x.jpg", ".."])
def test_names_that_lead_out_of_the_image_root_are_refused(here, name):
    write(here / "t.csv", f"f,l\n{name},cat\nx.jpg,cat\n")
    write(here / "t.jsonl", json.dumps({"image": name, "labels": ["cat"]}) + "\n")
    for command in ("csv", "jsonl"):
        message = refusal(command, f"t.{command}", "--prefix", "out", "--val-fraction", 0)
        assert f"{name!r} leads out of the image root" in message
    assert not list(here.glob("out*"))
    make("csv", "t.csv", "--prefix", "out", "--val-fraction", 0, "--skip-bad")
    assert set(rows("out_train.lst")) == {"x.jpg"}


def test_images_that_do_not_exist_are_counted_and_named_before_writing(here, capsys):
    write(here / "photos/0.jpg", "an image")
    (here / "photos/1.jpg").mkdir()
    write(here / "t.csv", "f,l\n" + "".join(f"{n}.jpg,cat\n" for n in range(9)))
    flags = ["csv", "t.csv", "--prefix", "out", "--val-fraction", 0, "--path-root", "photos"]
    message = refusal(*flags)
    assert message.startswith("photos: 8 images are not there, such as t.csv:3: '1.jpg', t.csv:4: ")
    assert "'5.jpg'" in message and "'6.jpg'" not in message
    assert not list(here.glob("out*"))
    make(*flags, "--skip-bad")
    assert set(rows("out_train.lst")) == {"0.jpg"}
    assert "left out as bad: 8" in capsys.readouterr().out


def test_equal_files_stay_on_one_side_of_the_split(here, capsys):
    names = [f"{number}.jpg" for number in range(40)]
    for number, name in enumerate(names):  # pairs of equal files, under names that are no pairs
        write(here / "photos" / name, f"image {number % 20:02d}")
    write(here / "t.csv", "f,l\n" + "".join(f"{name},cat\n" for name in names))
    for seed in range(3):
        make("csv", "t.csv", "--prefix", "out", "--path-root", "photos", "--seed", seed,
             "--val-fraction", 0.3)
        assert "on its side of the split: 20" in capsys.readouterr().out
        train, val = ({int(name[:-4]) % 20 for name in rows(f"out_{side}.lst")}
                      for side in ("train", "val"))
        assert len(train) + len(val) == 20 and not train & val
    assert len(val) == 6


def test_equal_files_of_voc_stay_on_one_side_of_the_split(here, voc, capsys):
    (voc / "JPEGImages/3.jpg").write_bytes((voc / "JPEGImages/1.jpg").read_bytes())
    make("voc", voc, "--prefix", "out", "--val-fraction", 0.5)
    assert "on its side of the split: 1" in capsys.readouterr().out
    sides = [set(rows(f"out_{side}.lst")) for side in ("train", "val")]
    assert {"JPEGImages/1.jpg", "JPEGImages/3.jpg"} in sides


def test_folders_count_what_they_merge_and_pass_over(here, capsys):
    for name in ("cat/1.jpg", "cat/2.HEIC", "cat/3.heic", "dog/4.avif", "dog/5.jpg", "dog/.x.txt"):
        write(here / "photos" / name, f"image {name}" if name != "dog/5.jpg" else "image cat/1.jpg")
    write(here / "photos/dog/6.jpg", "image")
    make("folders", "photos", "--prefix", "out", "--val-fraction", 0)
    err = capsys.readouterr().err
    assert "passed over: 2 .heic, 1 .avif; " in err
    assert "merged: 1 files of the same content" in err


def test_names_of_folders_can_hold_several_classes(here):
    for name in ("black_jeans/1.jpg", "blue_jeans/2.jpg", "_/3.jpg"):
        write(here / "photos" / name, name)
    make("folders", "photos", "--prefix", "out", "--val-fraction", 0, "--split-names", "_")
    assert classes() == ["black", "jeans", "blue"]
    assert rows("out_train.lst") == {"_/3.jpg": "0 0 0", "black_jeans/1.jpg": "1 1 0",
                                     "blue_jeans/2.jpg": "0 1 1"}


@pytest.mark.parametrize("command", ["csv", "jsonl", "coco"])
def test_pipes_and_devices_are_refused_at_once(here, command):
    os.mkfifo(here / "pipe")
    for path in ("pipe", "/dev/zero"):
        error = refused(command, path, "--prefix", "out")
        assert error.file == path and "not a regular file" in error.what


def test_a_file_of_classes_fixes_their_order(here):
    write(here / "labels.csv", LIST_CSV)
    write(here / "classes.txt", "dog\nbird\ncat\n")
    make("csv", "labels.csv", "--prefix", "out", "--classes", "classes.txt")
    assert classes() == ["dog", "bird", "cat"]
    assert all_rows()["c,d.jpg"] == "0 0 1"


def test_classes_that_are_not_in_the_file_are_an_error_or_counted(here, capsys):
    write(here / "labels.csv", LIST_CSV)
    write(here / "classes.txt", "dog\n")
    flags = ["csv", "labels.csv", "--prefix", "out", "--classes", "classes.txt"]
    assert "labels.csv:2: class cat is not in the file of --classes" in refusal(*flags)
    make(*flags, "--drop-unlisted")
    assert classes() == ["dog"]
    assert len(all_rows()) == 4
    assert "left out: 1 classes, 2 labels: cat 2" in capsys.readouterr().out


def test_rare_classes_can_be_left_out(here, capsys):
    write(here / "labels.csv", "f,l\nx.jpg,cat;dog\ny.jpg,cat\nz.jpg,bird\n")
    make("csv", "labels.csv", "--prefix", "out", "--min-count", 2, "--val-fraction", 0)
    assert classes() == ["cat"]
    assert rows("out_train.lst") == {"x.jpg": "1", "y.jpg": "1", "z.jpg": "0"}
    assert "left out: 2 classes, 2 labels" in capsys.readouterr().out


def test_an_old_validation_list_does_not_stay_beside_a_new_training_list(here):
    write(here / "labels.csv", LIST_CSV)
    make("csv", "labels.csv", "--prefix", "out")
    before = (here / "out_train.lst").read_bytes()
    assert "is there from an earlier run" in refusal(
        "csv", "labels.csv", "--prefix", "out", "--val-fraction", 0)
    assert (here / "out_train.lst").read_bytes() == before


@pytest.mark.parametrize("at_fault", ["out_train.lst", "out_val.lst", "out_labels.txt"])
def test_the_files_are_written_all_or_none(here, at_fault):
    write(here / "labels.csv", LIST_CSV)
    (here / at_fault).mkdir()
    assert f"{at_fault}: cannot be written" in refusal("csv", "labels.csv", "--prefix", "out")
    assert {path.name for path in here.iterdir()} == {"labels.csv", at_fault}


def test_a_disk_that_gets_full_leaves_the_earlier_files(here, monkeypatch):
    write(here / "labels.csv", LIST_CSV)
    make("csv", "labels.csv", "--prefix", "out", "--seed", 1)
    before = {path.name: path.read_bytes() for path in here.iterdir()}

    def full(path, lines):
        def content():
            yield b"half a line"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return path, content()

    monkeypatch.setattr(make_lst.label_table, "lines_file", full)
    assert "No space left" in refusal("csv", "labels.csv", "--prefix", "out", "--seed", 3)
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_told_in_one_line(here):
    write(here / "labels.csv", LIST_CSV)
    assert "labels.csv/data: cannot be made" in refusal(
        "csv", "labels.csv", "--prefix", "labels.csv/data/out")


def test_jsonl(here):
    write(here / "t.jsonl", '{"image": "a b.jpg", "labels": ["cat", "dog"]}\n\n'
                            '{"image": "ü.jpg", "labels": [], "unknown": ["cat"]}\n')
    make("jsonl", "t.jsonl", "--prefix", "out", "--val-fraction", 0)
    assert rows("out_train.lst") == {"a b.jpg": "1 1", "ü.jpg": "-1 0"}


def test_class_numbers_in_jsonl_are_in_order_of_their_value(here):
    write(here / "t.jsonl", '{"image": "a.jpg", "labels": [10, 9]}\n')
    make("jsonl", "t.jsonl", "--prefix", "out", "--val-fraction", 0)
    assert classes() == ["9", "10"]


@pytest.mark.parametrize("line, reason", [
    ('{"image": "b.jpg", "labels": ["cat"', "broken JSON"),
    ("[" * 1_000_000, "broken JSON: maximum recursion depth"),
    ("[1, 2]", "wants {"),
    ('{"image": "b.jpg", "labels": "cat"}', "wants {"),
    ('{"image": "b.jpg", "labels": [["cat"]]}', "holds more than names"),
    ('{"image": "b.jpg", "labels": [""]}', "the class name '' is empty"),
    ('{"image": "b.jpg", "labels": ["a\\nb"]}', "holds a line end"),
    ('{"image": "b\\ud800.jpg", "labels": []}', "surrogates not allowed"),
    ('{"image": "b\\u0000.jpg", "labels": []}', "zero byte"),
])
def test_a_bad_line_of_jsonl_is_named_and_can_be_left_out(here, line, reason):
    write(here / "t.jsonl", '{"image": "a.jpg", "labels": ["cat"]}\n' + line + "\n")
    flags = ["jsonl", "t.jsonl", "--prefix", "out", "--val-fraction", 0]
    message = refusal(*flags)
    assert message.startswith("t.jsonl:2: ")
    assert reason in message
    make(*flags, "--skip-bad")
    assert set(rows("out_train.lst")) == {"a.jpg"}


def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (20, 30, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def test_the_same_image_in_several_folders_carries_all_their_classes(here):
    image(here / "photos/cat/1.png", 1)
    image(here / "photos/cat/deep er/2.png", 2)
    image(here / "photos/dog/other name.png", 1)
    write(here / "photos/dog/notes.txt", "no image")
    write(here / "photos/dog/._3.png", "hidden")
    (here / "photos/empty class").mkdir()
    make("folders", "photos", "--prefix", "out")
    assert all_rows() == {"cat/1.png": "1 1 0", "cat/deep er/2.png": "1 0 0"}
    assert classes() == ["cat", "dog", "empty class"]


def test_an_image_beside_the_folders_is_named(here):
    image(here / "photos/cat/1.png", 1)
    write(here / "photos/stray.png", "")
    flags = ["folders", "photos", "--prefix", "out", "--val-fraction", 0]
    assert refusal(*flags).startswith("photos/stray.png: lies in no class's folder")
    make(*flags, "--skip-bad")
    assert set(rows("out_train.lst")) == {"cat/1.png"}


COCO = {"images": [{"id": 7, "file_name": "a [1].jpg"}, {"id": 3, "file_name": "b.jpg"},
                   {"id": 5, "file_name": "none.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4.5]},
                        {"image_id": 7, "category_id": 18, "segmentation": [[1.5, 2]]},
                        {"image_id": 3, "category_id": 1, "iscrowd": 1}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"},
                       {"id": 2, "name": 'odd "[[{\\'}]}


def test_coco(here):
    write(here / "t.json", json.dumps(COCO))
    make("coco", "t.json", "--prefix", "out", "--val-fraction", 0)
    assert classes() == ["person", 'odd "[[{\\', "dog"]  # in the order of their ids
    assert rows("out_train.lst") == {"a [1].jpg": "0 0 1", "b.jpg": "1 0 0", "none.jpg": "0 0 0"}


@pytest.mark.parametrize("key, item, kept", [
    ("annotations", {"image_id": 8, "category_id": 1}, 3),
    ("annotations", {"image_id": [7], "category_id": 1}, 3),
    ("annotations", {"image_id": 7, "category_id": 4}, 3),
    ("annotations", {"image_id": 7}, 3),
    ("annotations", [], 3),
    ("images", {"id": 9}, 3),
    ("images", {"id": True, "file_name": "c.jpg"}, 3),
    ("images", {"id": 5, "file_name": "c.jpg"}, 2),
    ("categories", {"id": 2, "name": "dog"}, 3),
])
def test_a_bad_part_of_coco_is_named_and_can_be_left_out(here, key, item, kept):
    write(here / "t.json", json.dumps({**COCO, key: [*COCO[key], item]}))
    flags = ["coco", "t.json", "--prefix", "out", "--val-fraction", 0]
    error = refused(*flags)
    assert error.file == "t.json" and error.what.startswith(f"{key}[3]")
    make(*flags, "--skip-bad")
    assert len(rows("out_train.lst")) == kept


@pytest.mark.parametrize("name", ["", "two\nlines", "a\u2028b"])
def test_a_class_name_that_is_not_one_line_is_refused(here, name):
    write(here / "t.json", json.dumps(
        {**COCO, "categories": [*COCO["categories"], {"id": 30, "name": name}]}))
    message = refusal("coco", "t.json", "--prefix", "out")
    assert "class 4 of the source: " in message
    assert not list(here.glob("out*"))


def test_broken_coco_is_named_with_line_and_column(here):
    text = json.dumps(COCO, indent=1)
    lines = text.replace('"file_name": "b.jpg"', '"file_name" @ "b.jpg"').split("\n")
    write(here / "t.json", "\n".join(lines))
    line = next(n for n, text in enumerate(lines, 1) if "@" in text)
    error = refused("coco", "t.json", "--prefix", "out", "--skip-bad")
    assert (error.file, error.line) == ("t.json", line)
    assert f"column {lines[line - 1].index('@') + 1}" in error.what


@pytest.mark.parametrize("text, line", [
    ('{"images": ' + "[" * 1_000_000, None),
    ('{"images": ' + '[{"a\\"":' * 100_000, None),
    (json.dumps(COCO)[:-30], 1),
    (json.dumps(COCO) + "]", 1),
    (json.dumps(COCO) + " \n x", 2),
    ("x" + json.dumps(COCO), 1),
    ("", 1),
    ("[]", None), ("3", None), ("{}", None), ('{"images": {}, "categories": 3}', None),
    (json.dumps({**COCO, "annotations": []}), None),
])
def test_what_is_no_coco_file_is_refused_at_once(here, text, line):
    write(here / "t.json", text)
    error = refused("coco", "t.json", "--prefix", "out")
    assert (error.file, error.line) == ("t.json", line)


@pytest.mark.parametrize("value, told", [
    ("NaN", "NaN: null may stand there"), ("-Infinity", "-Infinity: null may stand there"),
    ("1" * 30, "more than 20 digits"), ("-" + "1" * 5_000, "more than 20 digits"),
    ("\udcff", "byte 0xff")], ids=["NaN", "infinite", "30", "5000", "bytes"])
def test_what_is_no_number_of_json_is_told(here, value, told):
    text = json.dumps({"info": {"name": "NaNcy and Infinity"}, **COCO}, indent=1)
    (here / "t.json").write_text(text.replace("4.5", value), encoding="utf-8",
                                 errors="surrogateescape")
    error = refused("coco", "t.json", "--prefix", "out")
    assert error.file == "t.json" and told in error.what


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_coco_in_utf_16_is_told(here, encoding):
    write(here / "t.json", json.dumps(COCO), encoding)
    assert "is UTF-16 text" in refusal("coco", "t.json", "--prefix", "out")


@pytest.mark.slow
def test_four_times_as_many_boxes_take_about_four_times_as_long(here):
    rng, seconds = np.random.RandomState(0), []
    for images in (2_500, 10_000):
        boxes = [{"id": n, "image_id": image, "category_id": category, "iscrowd": 0,
                  "segmentation": [[n / 7] * 20], "bbox": [1.5, 2.5, 3.5, 4.5]}
                 for n, (image, category) in enumerate(
                     rng.randint(0, (images, 80), (4 * images, 2)).tolist())]
        write(here / f"{images}.json", json.dumps({
            "images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in range(images)],
            "annotations": boxes,
            "categories": [{"id": n, "name": f"c{n}"} for n in range(80)]}))
        start = time.process_time()
        make("coco", f"{images}.json", "--prefix", f"out{images}")
        seconds.append(time.process_time() - start)
        lists = [read_lst(f"out{images}_{side}.lst") for side in ("train", "val")]
        expected = {(box["image_id"], box["category_id"]) for box in boxes}
        assert sum(lst.positives.sum() for lst in lists) == len(expected)
    assert seconds[1] < 10 * seconds[0]  # 16 times, if each box were compared with all others


def note(*objects, filename="1.jpg"):
    return f"<annotation><filename>{filename}</filename>" + "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        "<part><name>head</name></part></object>"
        for name, difficult in objects) + "</annotation>"


@pytest.fixture
def voc(here):
    root = here / "VOC"
    write(root / "Annotations/1.xml", note(("cat", 1), ("cat", 0), ("dog", 1)))
    write(root / "Annotations/2.xml", note(("dog", 0), filename="stale name.jpg"))
    write(root / "Annotations/3.xml", note())
    for name in ("1.jpg", "2.png", "3.jpg"):
        write(root / "JPEGImages" / name, f"image {name}")
    write(root / "ImageSets/Main/trainval.txt", "1\n2\n")
    write(root / "ImageSets/Main/cat_trainval.txt", "1  1\n2 -1\n")
    write(root / "ImageSets/Main/dog_trainval.txt", "1  0\n2  1\n")
    write(root / "ImageSets/Main/cat_val.txt", "3  1\n")
    return root


def test_difficult_voc_objects_are_unknown_unless_there_is_one_that_is_not(voc):
    make("voc", voc, "--prefix", "out")
    assert classes() == ["cat", "dog"]
    assert all_rows() == {"JPEGImages/1.jpg": "1 -1", "JPEGImages/2.png": "0 1",
                          "JPEGImages/3.jpg": "0 0"}


def test_both_styles_of_voc_say_the_same(voc):
    make("voc", voc, "--prefix", "xml", "--image-set", "trainval")
    shutil.rmtree(voc / "Annotations")
    make("voc", voc, "--prefix", "sets", "--image-set", "trainval")
    assert all_rows("xml") == all_rows("sets")
    assert len(all_rows("xml")) == 2


def test_one_level_above_voc_no_image_is_found(voc):
    error = refused("voc", voc.parent, "--prefix", "out")
    assert error.file == f"{voc}/Annotations/1.xml" and "has no images" in error.what


def test_a_folder_that_is_none_of_voc_is_told(here):
    write(here / "photos/1.jpg", "image")
    assert refused("voc", "photos", "--prefix", "out").file.name == "photos"


def test_voc_xml_beside_its_images(here):
    write(here / "photos/a/x.xml", note(("cat", 0), filename="C:\\photos\\x.JPG"))
    write(here / "photos/a/x.JPG", "an image")
    make("voc", "photos", "--prefix", "out", "--val-fraction", 0)
    assert rows("out_train.lst") == {"a/x.JPG": "1"}


def test_voc_xml_without_a_file_name_in_the_folder_that_one_is_in(here):
    write(here / "x.xml", "<annotation><object><name>cat</name></object></annotation>")
    write(here / "x.jpg", "an image")
    make("voc", ".", "--prefix", "out", "--val-fraction", 0)
    assert rows("out_train.lst") == {"x.jpg": "1"}


LAUGHS = ('<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)) + "]>"
    "<annotation><object><name>&a11;</name></object></annotation>")
OUTSIDE = ('<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
           "<annotation><object><name>&e;</name></object></annotation>")


@pytest.mark.parametrize("text, reason", [
    (LAUGHS, "document type in it: DTDForbidden"),
    (OUTSIDE, "document type in it: DTDForbidden"),
    ("<a>" * 300_000, "XML nested deeper than 64"),
    ("<annotation>" + "<a>" * 80 + "</a>" * 80 + "</annotation>", "nested deeper than 64"),
    ("<a><b/></a>", "holds <a>"),
    ("<annotation>\n<object>\n</annotation>", "mismatched tag: line 3"),
    ("<annotation><object/></annotation>", "without a <name>"),
    ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "unknown encoding"),
    ("<annotation>" + " " * (4 << 20) + "</annotation>", "is larger than 4 MB"),
    ("", "no element found: line 1"),
])
def test_a_bad_voc_annotation_is_named_and_can_be_left_out(voc, text, reason):
    bad = write(voc / "Annotations/2.xml", text)
    start = time.process_time()
    message = refusal("voc", voc, "--prefix", "out")
    assert message.startswith(f"{bad}: ")
    assert reason in message
    make("voc", voc, "--prefix", "out", "--skip-bad")
    assert set(all_rows()) == {"JPEGImages/1.jpg", "JPEGImages/3.jpg"}
    assert time.process_time() - start < 10


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_voc_annotation_that_is_no_regular_file_is_named_and_can_be_left_out(voc, kind):
    note = voc / "Annotations/2.xml"
    note.unlink()
    os.mkfifo(note) if kind == "pipe" else note.symlink_to("/dev/zero")
    assert refusal("voc", voc, "--prefix", "out").startswith(f"{note}: is not a regular file")
    make("voc", voc, "--prefix", "out", "--skip-bad")
    assert set(all_rows()) == {"JPEGImages/1.jpg", "JPEGImages/3.jpg"}


def test_a_voc_annotation_without_image_is_named(voc):
    (voc / "JPEGImages/2.png").unlink()
    assert refused("voc", voc, "--prefix", "out").file == f"{voc}/Annotations/2.xml"


@pytest.mark.parametrize("images, filename, chosen", [
    (["2.jpg", "2.png"], "2.png", "2.png"), (["2.jpg", "2.png"], "2.jpg", "2.jpg"),
    (["2.JPG", "2.jpg", "2.webp"], r"C:\\photos\\2.JPG", "2.JPG"),
    (["2.jpg", "a.jpg"], "a.jpg", "a.jpg"), (["a.jpg"], "a.jpg", "a.jpg"),
    (["2.jpg", "a.jpg"], "a.png", "2.jpg"),
    (["2.jpg", "1.jpg"], "1.jpg", "2.jpg"),  # of the annotation 1.xml
    (["2.jpg", "2.png"], "b.png", None), (["2.jpg", "2.png"], "", None)])
def test_the_file_that_a_voc_annotation_names_comes_before_one_of_its_stem(
        here, images, filename, chosen):
    write(here / "voc/Annotations/1.xml", note(("cat", 0), filename="1.jpg"))
    write(here / "voc/Annotations/2.xml", note(("dog", 0), filename=filename))
    for name in {"1.jpg", *images}:
        write(here / "voc/JPEGImages" / name, f"image {name}")
    flags = ["voc", "voc", "--prefix", "out", "--val-fraction", 0]
    if chosen:
        make(*flags)
        assert rows("out_train.lst") == {"JPEGImages/1.jpg": "1 0", f"JPEGImages/{chosen}": "0 1"}
    else:
        error = refused(*flags)
        assert error.file == "voc/Annotations/2.xml" and "2.jpg and 2.png" in error.what


@pytest.mark.parametrize("folders, named", [
    (["train/cat", "train/dog", "val/cat", "val/dog", "__MACOSX/train"], "photos/train"),
    (["Validation/cat", "TEST/dog"], "photos/TEST"),
    (["test/cat", "bird"], "photos/test"),
    (["images/cat", "images/dog", "@eaDir/cat"], "photos/images"),
    (["images/cat", ""], "photos/images")])
def test_folders_of_parts_of_a_data_set_are_not_taken_for_classes(here, folders, named):
    for number, folder in enumerate(folders):
        write(here / "photos" / folder / ("1.jpg" if folder else "a.txt"), f"image {number}")
    error = refused("folders", "photos", "--prefix", "out")
    assert error.file == "photos" and f"give {named}," in error.what
    assert not list(here.glob("out*"))


def test_a_lone_folder_of_images_may_hold_folders(here):
    for name in ("cat/1.jpg", "cat/more/2.jpg"):
        write(here / "photos" / name, f"image {name}")
    make("folders", "photos", "--prefix", "out", "--val-fraction", 0)
    assert rows("out_train.lst") == {"cat/1.jpg": "1", "cat/more/2.jpg": "1"}


def test_empty_files_are_not_one_image(here):
    write(here / "photos/cat/1.jpg", "")
    write(here / "photos/dog/2.jpg", "")
    make("folders", "photos", "--prefix", "out", "--val-fraction", 0)
    assert rows("out_train.lst") == {"cat/1.jpg": "1 0", "dog/2.jpg": "0 1"}


@pytest.mark.parametrize("stray", ["__MACOSX/cat/._1.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg/x.jpg",
                                   "cat/@eaDir/9.jpg", "$RECYCLE.BIN/1.jpg", ".git/1.jpg"])
def test_what_other_programs_put_among_images_is_no_class(here, stray):
    for name in ("cat/1.jpg", "dog/train/2.jpg", "train/3.jpg", stray):
        write(here / "photos" / name, f"image {name}")
    make("folders", "photos", "--prefix", "out", "--val-fraction", 0)
    assert classes() == ["cat", "dog", "train"]
    assert set(rows("out_train.lst")) == {"cat/1.jpg", "dog/train/2.jpg", "train/3.jpg"}


def test_real_photos_and_labels_come_through_unchanged(ccp, here):
    lst = read_lst(ccp / "train.lst")
    names = (ccp / "labels.txt").read_text().split("\n")[:-1]
    labels = lst.labels(range(len(lst)))
    write(here / "t.jsonl", "".join(json.dumps({
        "image": lst.name(row), "labels": [names[c] for c in np.flatnonzero(labels[row])]}) + "\n"
        for row in range(len(lst))))
    make("jsonl", "t.jsonl", "--prefix", "out", "--classes", ccp / "labels.txt")
    sides = [read_lst(f"out_{side}.lst") for side in ("train", "val")]
    again = {side.name(row): side.labels([row])[0] for side in sides for row in range(len(side))}
    assert abs(len(sides[1]) - 96) <= 2
    for row in range(len(lst)):
        np.testing.assert_array_equal(again[lst.name(row)], labels[row])


def test_help_shows_no_empty_default(capsys):
    with pytest.raises(SystemExit):
        main(["csv", "--help"])
    assert "--class-columns" in (text := capsys.readouterr().out) and "[])" not in text
