import re

import cv2
import numpy as np
import pytest
from conftest import script
from make_lst import main

from common.cli import InputError
from reading.lst_file import read_lst


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder to be in, with photos/0.png to photos/5.png, all different."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.RandomState(number).randint(0, 256, (20 + number, 30, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return folder


def lst(name, *rows):
    """Write a .lst of rows such as "1 0 -1 photo.png", IDs counted from 10."""
    with open(name, "w", encoding="utf-8") as file:
        for number, row in enumerate(rows, 10):
            labels, image = re.fullmatch(r"([-\d .]*?) ?(\S*[a-z].*)", row).groups()
            file.write("\t".join([str(number), *labels.split(), image]) + "\n")
    return name


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [" ".join(line.split()).replace(".000000", "") for line in file]


def check(capsys, *args):
    """Exit status and output of `make_lst.py check`."""
    status = main(["check", *args])
    return status, capsys.readouterr().out


def test_a_good_list_gives_status_0_and_its_statistics(photos):
    lst("a.lst", "1 0 0.png", "1 -1 1.png", "0 0 5.png")
    (photos.parent / "labels.txt").write_text("cat\ndog\n")
    out = script("tools/make_lst.py", "check", "a.lst", "--path-root", "photos", "--labels",
                 "labels.txt", cwd=photos.parent)
    assert "3 images, 3 of them good" in out
    assert "height  20 to 25 pixels, median 21" in out
    assert "problems: none" in out
    assert re.search(r"^cat +2 +0$", out, re.MULTILINE)
    assert re.search(r"^dog +0 +1$", out, re.MULTILINE)


def test_class_names_beside_the_list_are_found(photos, capsys):
    (photos.parent / "pets_labels.txt").write_text("cat\ndog\n")
    assert re.search("^dog +1$", check(capsys, lst("pets_train.lst", "0 1 0.png"), "--path-root",
                                       "photos")[1], re.MULTILINE)
    (photos.parent / "pets_labels.txt").write_text("cat\n")  # of other classes
    assert re.search("^1 +1$", check(capsys, "pets_train.lst", "--path-root", "photos")[1],
                     re.MULTILINE)


def test_problems_give_status_1_and_a_line_each(photos):
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:200])
    (photos / "copy 2.png").write_bytes((photos / "2.png").read_bytes())
    lst("a.lst", "1 0 0.png", "1 0 gone.png", "1 0 1.png", "1 0 2.png", "1 0 copy 2.png")
    out = script("tools/make_lst.py", "check", "a.lst", "--path-root", "photos", status=1,
                 cwd=photos.parent)
    assert "a.lst:2: gone.png: there is no such image [missing]" in out
    assert re.search(r"a.lst:3: 1.png: .*cut short.* \[broken\]", out)
    assert "a.lst:5: copy 2.png: the same image as a.lst:4: 2.png [duplicate]" in out
    assert "problems: 1 missing, 1 broken, 1 duplicate" in out


def test_rows_of_one_image_with_other_labels_contradict_each_other(photos, capsys):
    (photos / "copy.png").write_bytes((photos / "0.png").read_bytes())
    status, out = check(capsys, lst("a.lst", "1 0 -1 0.png", "1 1 1 copy.png"),
                        "--path-root", "photos")
    assert status == 1
    # Class 2 is unknown in one of them: no contradiction.
    assert ("a.lst:2: copy.png: other labels than a.lst:1: 0.png for the same image: 1 "
            "[contradictory]") in out


def test_an_image_of_two_lists_is_a_leak(photos, capsys):
    other = photos.parent / "other"
    other.mkdir()
    (other / "renamed.png").write_bytes((photos / "1.png").read_bytes())
    status, out = check(capsys, lst("train.lst", "1 0 0.png", "1 0 1.png"),
                        lst("val.lst", "1 0 renamed.png"), "--path-root", "photos", "other")
    assert status == 1
    assert ("val.lst:1: renamed.png: the same image as train.lst:2: 1.png, in another list "
            "[leaked]") in out


def scene(seed, size=300):
    """A picture of large and small shapes."""
    random = np.random.RandomState(seed)
    image = cv2.resize(random.randint(0, 256, (9, 9, 3)).astype(np.uint8), (size, size))
    return cv2.GaussianBlur(image + random.randint(0, 9, image.shape).astype(np.uint8), (5, 5), 0)


def test_a_smaller_brighter_jpeg_of_an_image_is_similar_and_fix_leaves_one(photos, capsys):
    for number in range(3):
        cv2.imwrite(str(photos / f"scene{number}.png"), scene(number))
    copy = cv2.convertScaleAbs(cv2.resize(scene(1), (130, 120)), alpha=0.9, beta=20)
    cv2.imwrite(str(photos / "copy.jpg"), copy, [cv2.IMWRITE_JPEG_QUALITY, 50])
    plain = np.full((90, 90, 3), 200, np.uint8)
    for name in ("plain0.png", "plain1.png"):  # no two plain images look the same
        cv2.imwrite(str(photos / name), plain - int(name[5]))
    lst("train.lst", "1 0 scene0.png", "1 0 scene1.png", "1 0 plain0.png")
    lst("val.lst", "1 0 scene2.png", "1 0 copy.jpg", "1 0 plain1.png")
    arguments = ["train.lst", "val.lst", "--path-root", "photos"]
    status, out = check(capsys, *arguments)
    assert status == 1 and "problems: 1 similar\n" in out
    assert ("val.lst:2: copy.jpg: looks nearly the same as train.lst:2: scene1.png, in another "
            "list [similar]") in out
    assert "--fix writes lists without them" in out
    check(capsys, *arguments, "--fix", "a.lst", "b.lst")
    assert len(lines("a.lst")) == 2 and len(lines("b.lst")) == 3
    assert check(capsys, "a.lst", "b.lst", "--path-root", "photos")[0] == 0


def test_fix_writes_lists_without_the_problems(photos, capsys):
    (photos / "copy.png").write_bytes((photos / "0.png").read_bytes())
    (photos / "3.png").write_bytes(b"no image")
    lst("train.lst", "1 0 0 0.png", "1 0 1 1.png", "1 1 -1 copy.png", "1 0 0 3.png",
        "0 0 1 gone.png", "0 0.25 1 2.png")
    lst("val.lst", "0 0 1 1.png")
    arguments = ["train.lst", "val.lst", "--path-root", "photos"]
    status, out = check(capsys, *arguments, "--fix", "train2.lst", "val2.lst")
    assert status == 1
    assert "train2.lst: 2 of 6 rows" in out
    # What the rows of one image disagree about is unknown now; the leaked one stays in val.lst.
    assert lines("train2.lst") == ["10 1 -1 0 0.png", "15 0 0.250000 1 2.png"]
    assert lines("val2.lst") == ["10 0 0 1 1.png"]
    assert check(capsys, "train2.lst", "val2.lst", "--path-root", "photos")[0] == 0


def test_fix_leaves_contradictions_out_where_unknown_cannot_be_said(photos, capsys):
    (photos / "copy.png").write_bytes((photos / "0.png").read_bytes())
    lst("a.lst", "0 1 0.png", "0 copy.png", "3 1.png")
    check(capsys, "a.lst", "--path-root", "photos", "--label-format", "indices", "--fix", "b.lst")
    assert lines("b.lst") == ["12 3 1.png"]


@pytest.mark.parametrize("names, form", [
    ("cat\n", "multi-hot"), ("cat\n", "indices"), ("cat\ndog\nbird\n", "multi-hot")])
def test_names_that_do_not_fit_the_list_are_told_by_the_flag_they_came_by(photos, names, form):
    (photos.parent / "names.txt").write_text(names)
    lst("a.lst", "1 0 0.png")
    with pytest.raises(InputError) as caught:
        main(["check", "a.lst", "--path-root", "photos", "--labels", "names.txt",
              "--label-format", form])
    assert (caught.value.file, caught.value.line) == ("a.lst", 1)
    assert "--labels" in caught.value.flag and "--num-classes" not in str(caught.value)


def test_fix_writes_all_lists_or_none(photos):
    lst("train.lst", "1 0.png", "1 1.png")
    lst("val.lst", "1 2.png")
    with pytest.raises(InputError, match="no such folder|No such file"):
        main(["check", "train.lst", "val.lst", "--path-root", "photos", "--fix", "a", "no/b"])
    assert not (photos.parent / "a").exists()


def test_fix_writes_nothing_when_a_list_would_be_empty(photos):
    lst("train.lst", "1 0.png", "1 1.png")
    lst("val.lst", "1 gone.png")
    with pytest.raises(InputError, match="val.lst: no row is left"):
        main(["check", "train.lst", "val.lst", "--path-root", "photos", "--fix", "a", "b"])
    assert not (photos.parent / "a").exists()


@pytest.mark.parametrize("flags, message", [
    (["--path-root", "nowhere"], "nowhere: no such folder"),
    (["--path-root", "photos", "photos"], "one for each list"),
    (["--path-root", "photos", "--fix", "a", "b"], "a file of its own for each list"),
    (["--path-root", "photos", "--labels", "nothing.txt"], "nothing.txt: cannot be read"),
])
def test_a_mistake_on_the_command_line_is_told_in_one_line(photos, flags, message):
    lst("a.lst", "1 0.png")
    out = script("tools/make_lst.py", "check", "a.lst", *flags, status=2, cwd=photos.parent)
    assert message in out
    assert out.count("\n") == 1


def test_lists_of_other_classes_are_not_compared(photos):
    lst("a.lst", "1 0 0.png")
    lst("b.lst", "1 1.png")
    with pytest.raises(InputError, match="b.lst: 1 labels per row, but another list has 2"):
        main(["check", "a.lst", "b.lst", "--path-root", "photos"])


def test_real_photos_are_good_but_for_what_is_known(ccp, capsys):
    status, out = check(capsys, str(ccp / "train.lst"), str(ccp / "val.lst"), "--path-root",
                        str(ccp / "photos"), "--labels", str(ccp / "labels.txt"))
    # One photo is in both lists, under two names, and once without its bracelet.
    assert status == 1
    assert "600 images, 600 of them good" in out
    assert "problems: 1 leaked, 1 contradictory, 1 similar" in out
    # Two pictures of one scene, as one can see.
    assert re.search(r"1611.jpg: looks nearly the same as .*0719.jpg, in another list", out)
    assert "bracelet [contradictory]" in out


def test_the_cleaned_list_reads_like_any_other(photos, capsys):
    lst("a.lst", "1 0 0.png", "0 1 gone.png", "0 -1 1.png")
    check(capsys, "a.lst", "--path-root", "photos", "--fix", "b.lst")
    assert read_lst("b.lst").labels([0, 1]).tolist() == [[1, 0], [0, -1]]


def test_signed_lists_are_told_read_and_written_as_multi_hot(photos, capsys):
    lst("a.lst", "1 -1 0.png", "-1 1 1.png", "1 1 gone.png")
    _, out = check(capsys, "a.lst", "--path-root", "photos")
    assert "without an absent label" in out and "--label-format signed" in out
    _, out = check(capsys, "a.lst", "--path-root", "photos", "--label-format", "signed",
                   "--fix", "b.lst")
    assert "without an absent label" not in out
    assert read_lst("b.lst").labels([0, 1]).tolist() == [[1, 0], [0, 1]]


def test_progress_is_told_without_a_terminal(photos, capsys, monkeypatch):
    monkeypatch.setattr("common.progress.SECONDS_BETWEEN_LINES", 0)
    assert main(["check", lst("a.lst", "1 0.png", "0 1.png"), "--path-root", "photos"]) == 0
    assert "Checking: 1 of 2 images" in capsys.readouterr().err
