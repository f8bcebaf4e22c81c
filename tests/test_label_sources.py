"""make_lst.py on tables and JSON lines as other tools write them: what they mean, or a refusal."""
import json
import os
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from test_make_lst import classes, make, rows, write

from common.cli import InputError
from reading.lst_file import read_lst


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test writes its files into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


PREFIX = ["--prefix", "out", "--val-fraction", 0]


def labels_of(prefix="out"):
    """{file name: {class: label}} of a training list without the labels that are absent."""
    names = classes(prefix)
    return {name: {class_name: int(label) for class_name, label in zip(names, text.split())
                   if label != "0"} for name, text in rows(f"{prefix}_train.lst").items()}


def present(prefix="out"):
    return {name: {class_name for class_name, label in labels.items() if label == 1}
            for name, labels in labels_of(prefix).items()}


def table(here, *lines, name="t.csv"):
    write(here / name, "\n".join(lines) + "\n")
    return name


def refused(*args):
    with pytest.raises(InputError) as caught:
        make(*args)
    assert not os.path.exists("out_train.lst")
    return caught.value


# Lists in cells: pandas' to_csv of Python lists, of lists of numpy's scalars, numpy arrays, sets,
# tuples, and JSON.
@pytest.mark.parametrize("cell", [
    "['cat', 'dog']", '["cat", "dog"]', "('cat', 'dog')", "{'dog', 'cat'}", "['cat' 'dog']",
    "[np.str_('cat'), np.str_('dog')]", '["dog","cat"]', "[ 'cat' , 'dog', ]", "['cat'\n 'dog']"])
def test_a_cell_that_is_a_list_of_names(here, cell):
    quoted = cell.replace('"', '""')
    table(here, "file,labels", f'1.jpg,"{quoted}"', "2.jpg,\"['dog']\"", "3.jpg,[]")
    make("csv", "t.csv", *PREFIX)
    assert classes() == ["cat", "dog"]
    assert present() == {"1.jpg": {"cat", "dog"}, "2.jpg": {"dog"}, "3.jpg": set()}


def test_names_in_lists_keep_what_is_quoted(here):
    table(here, "file,labels", '''1.jpg,"['it\\'s', 'a, b', ""d]"", 'é;f']"''',
          '2.jpg,"[""caf\\u00e9""]"')
    make("csv", "t.csv", *PREFIX)
    assert present() == {"1.jpg": {"it's", "a, b", "d]", "é;f"}, "2.jpg": {"café"}}


@pytest.mark.parametrize("cell", [
    "[cat, dog]", "['cat', 'dog'", "{cat,dog}", "{'cat': 1}", "array(['cat'], dtype=object)",
    "[['cat'], ['dog']]", "['cat' ... 'dog']", "['cat'; 'dog']", "[0.5 0.1]", "['cat', 1, nan]",
    "[" * 100_000, "[" + "1" * 100_000 + "x", "[" + " " * 100_000 + "x"])
def test_what_looks_like_a_list_and_is_none_is_refused(here, cell):
    table(here, "file,labels", "1.jpg,cat", f'2.jpg,"{cell}"')
    error = refused("csv", "t.csv", *PREFIX)
    assert (error.file, error.line) == ("t.csv", 3)


@pytest.mark.parametrize("name", ["(other)", "cat (small)", "no [cat]", "(12) cats"])
def test_brackets_in_names_are_no_lists(here, name):
    table(here, "file,labels", f"1.jpg,{name}", "2.jpg,cat")
    make("csv", "t.csv", *PREFIX)
    assert present() == {"1.jpg": {name}, "2.jpg": {"cat"}}


MULTI_HOT = [[0, 0, 1], [1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("spell", [str, json.dumps, lambda v: str(np.array(v)),
                                   lambda v: str(np.array(v, float)), lambda v: str(tuple(v)),
                                   lambda v: str([bool(x) for x in v]),
                                   lambda v: ";".join(map(str, v))])
def test_multi_hot_lists_in_cells(here, spell):
    table(here, "file,labels", *(f'{n}.jpg,"{spell(v)}"' for n, v in enumerate(MULTI_HOT)))
    make("csv", "t.csv", *PREFIX)
    assert classes() == ["0", "1", "2"]
    assert rows("out_train.lst") == {"0.jpg": "0 0 1", "1.jpg": "1 0 1", "2.jpg": "0 0 0"}


@pytest.mark.parametrize("values, expected", [
    ([[0, 0, 1], [1, 0, 1], [0, 0, 0]], ["0 0 1", "1 0 1", "0 0 0"]),
    ([[0.0, 1.0, 1.0], [1, 0, None]], ["0 1 1", "1 0 -1"]),
    ([[True, False, False], [False, -1, True], None], ["1 0 0", "0 -1 1", "-1 -1 -1"])])
def test_multi_hot_lists_in_jsonl_get_the_names_of_classes(here, values, expected):
    write(here / "c.txt", "cat\nbird\ndog\n")
    write(here / "t.jsonl", "".join(json.dumps({"image": f"{n}.jpg", "labels": v}) + "\n"
                                    for n, v in enumerate(values)))
    make("jsonl", "t.jsonl", "--classes", "c.txt", *PREFIX)
    assert classes() == ["cat", "bird", "dog"]
    assert list(rows("out_train.lst").values()) == expected


def test_nan_in_json_lines_is_unknown_and_other_keys_may_hold_any_number(here):
    table(here, '{"image": "0.jpg", "labels": [1, NaN, 1], "width": NaN, "hash": ' + "7" * 40 + "}",
          '{"image": "1.jpg", "labels": [NaN, NaN], "width": -Infinity}', name="t.jsonl")
    make("jsonl", "t.jsonl", "--list-format", "multi-hot", *PREFIX)
    assert list(rows("out_train.lst").values()) == ["1 -1 1", "-1 -1 -1"]


def test_multi_hot_lists_that_do_not_fit_are_refused(here):
    lines = [json.dumps({"image": f"{n}.jpg", "labels": v})
             for n, v in enumerate([[0, 0, 1], [1, 0, 1], [0, 1], [0, 2, 0]])]
    table(here, *lines, name="t.jsonl")
    assert refused("jsonl", "t.jsonl", *PREFIX).line == 3
    table(here, *lines[:2], lines[3], name="t.jsonl")
    assert refused("jsonl", "t.jsonl", *PREFIX).line == 3
    write(here / "c.txt", "cat\nbird\n")
    assert refused("jsonl", "t.jsonl", "--skip-bad", "--classes", "c.txt",
                   *PREFIX).flag == "--classes"


@pytest.mark.parametrize("values", [[[0], [1], [1]], [[0, 1], [1, 0]], [[1], [1]]])
def test_lists_that_may_be_multi_hot_or_numbers_are_refused_until_it_is_said(here, values):
    table(here, *(json.dumps({"image": f"{n}.jpg", "labels": v}) for n, v in enumerate(values)),
          name="t.jsonl")
    assert refused("jsonl", "t.jsonl", *PREFIX).flag == "--list-format"
    make("jsonl", "t.jsonl", "--list-format", "indices", *PREFIX)
    assert present() == {f"{n}.jpg": set(map(str, v)) for n, v in enumerate(values)}
    make("jsonl", "t.jsonl", "--list-format", "multi-hot", *PREFIX)
    assert list(rows("out_train.lst").values()) == [" ".join(map(str, v)) for v in values]


@pytest.mark.parametrize("values", [[[0], [0, 1], [1]], [[0, 2], [1, 2]], [[0], [], [1]],
                                    [[3.0], [1.0]], [["0", "1"], ["1", "0"]]])
def test_lists_of_class_numbers_stay_such(here, values):
    table(here, *(json.dumps({"image": f"{n}.jpg", "labels": v}) for n, v in enumerate(values)),
          name="t.jsonl")
    make("jsonl", "t.jsonl", *PREFIX)
    assert present() == {f"{n}.jpg": {str(int(x)) for x in v} for n, v in enumerate(values)}


def test_jsonl_of_hugging_face_names_its_images_file_name(here):
    table(here, '{"file_name": "a.jpg", "labels": ["cat"]}',
          '{"file_name": "b/c.jpg", "labels": ["dog", "cat"]}', name="metadata.jsonl")
    make("jsonl", "metadata.jsonl", *PREFIX)
    assert present() == {"a.jpg": {"cat"}, "b/c.jpg": {"dog", "cat"}}
    table(here, '{"file_name": "a.jpg", "image": "b.jpg", "labels": []}', name="metadata.jsonl")
    os.remove("out_train.lst")
    assert refused("jsonl", "metadata.jsonl", *PREFIX).line == 1


# Separators, as in a public X-ray list, in Human Protein Atlas (numbers), in Planet Amazon.
@pytest.mark.parametrize("separator, cells", [
    ("|", ["Cardiomegaly|Emphysema", "Cardiomegaly", "No Finding", "Emphysema|Effusion"]),
    ("|", ["cat|dog"]),
    (",", ["cat, dog", "dog", "bird, cat"]),
    ("/", ["Action/Comedy", "Comedy/Drama", "Drama", "Action"]),
    (" ", ["16 0", "7 1 2 0", "5", "1", "7 5 2 16", "0"]),
    (" ", ["clear primary", "clear agriculture primary water", "agriculture clear", "water clear"]),
])
def test_another_separator_is_named_and_nothing_written(here, separator, cells):
    table(here, "file,labels", *(f'{n}.jpg,"{cell}"' for n, cell in enumerate(cells)))
    error = refused("csv", "t.csv", *PREFIX)
    assert (error.file, error.flag) == ("t.csv", "--separator")
    assert f"--separator {separator!r}" in str(error)
    make("csv", "t.csv", "--separator", separator, *PREFIX)
    assert present() == {f"{n}.jpg": {part.strip() for part in cell.split(separator)}
                         for n, cell in enumerate(cells)}
    make("csv", "t.csv", "--separator", ";", *PREFIX)
    assert present() == {f"{n}.jpg": {cell} for n, cell in enumerate(cells)}


@pytest.mark.parametrize("cells", [
    ["polar bear", "brown bear", "bear", "teddy bear", "hot dog", "dog"],
    ["T-shirt/top", "Trouser", "Pullover", "Ankle boot"],
    ["cat;dog, small", "dog, small", "cat"],
    ["salt & pepper", "bread", "butter"],
])
def test_names_with_spaces_and_signs_are_names(here, cells):
    table(here, "file,labels", *(f'{n}.jpg,"{cell}"' for n, cell in enumerate(cells)))
    make("csv", "t.csv", *PREFIX)
    assert present() == {f"{n}.jpg": set(cell.split(";")) for n, cell in enumerate(cells)}


def test_several_label_columns(here):
    table(here, "Name,Type1,Type2,Height", "a.png,Grass,Poison,7", "b.png,Fire,,6",
          "c.png,Fire,Flying,17", "d.png,Water,NaN,5", 'e.png,"[\'Water\', \'Ice\']",Fire,3')
    make("csv", "t.csv", "--labels-column", "Type1", "Type2", *PREFIX)
    labels = labels_of()
    assert labels["a.png"] == {"Grass": 1, "Poison": 1}
    assert labels["b.png"] == {"Fire": 1}
    assert labels["e.png"] == {"Water": 1, "Ice": 1, "Fire": 1}
    # What else the image shows is not known.
    assert labels["d.png"] == {"Water": 1, "Fire": -1, "Flying": -1, "Grass": -1, "Ice": -1,
                               "Poison": -1}


@pytest.mark.parametrize("lines, expected", [
    ([",file,labels", "0,a.jpg,cat", "1,b.jpg,dog"], {"a.jpg": {"cat"}, "b.jpg": {"dog"}}),
    (["Unnamed: 0,file,labels", "7,a.jpg,cat", "3,b.jpg,"], {"a.jpg": {"cat"}, "b.jpg": set()}),
    (["Unnamed: 0.1,Unnamed: 0,file,cat,dog", "0,0,a.jpg,1,0", "1,1,b.jpg,0,1"],
     {"a.jpg": {"cat"}, "b.jpg": {"dog"}}),
    ([",cat,file,dog", "0,1,a.jpg,0", "1,0,b.jpg,1"], {"a.jpg": {"cat"}, "b.jpg": {"dog"}}),
    ([",cat,dog", "7,1,0", "8,0,1"], {"7": {"cat"}, "8": {"dog"}}),
])
def test_row_numbers_of_pandas_are_no_names_and_no_class(here, lines, expected):
    table(here, *lines)
    make("csv", "t.csv", *PREFIX,
         *(["--name-column", "file"] if lines[0] == ",cat,file,dog" else []))
    assert present() == expected
    assert set(classes()) <= {"cat", "dog"}


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "N/A", "<NA>", "null", "-1"])
def test_words_for_unknown_in_a_cell(here, word):
    table(here, "file,labels", "a.jpg,cat;dog", f"b.jpg,{word}", "c.jpg,")
    make("csv", "t.csv", *PREFIX)
    assert classes() == ["cat", "dog"]
    assert list(rows("out_train.lst").values()) == ["1 1", "-1 -1", "0 0"]
    table(here, "file,labels", f"a.jpg,cat;{word}")
    os.remove("out_train.lst")
    assert refused("csv", "t.csv", *PREFIX).line == 2
    table(here, "file,cat,dog", "a.jpg,1,0", f"b.jpg,{word},1")
    make("csv", "t.csv", *PREFIX)
    assert list(rows("out_train.lst").values()) == ["1 0", "-1 1"]


OPEN_IMAGES = ["ImageID,Source,LabelName,Confidence", "a,verification,cat,1",
               "a,verification,dog,0", "b,machine,cat,0.3", "b,machine,dog,0.9", "c,x,bird,",
               "c,verification,cat,0.0", "d,x,bird,1"]


def test_a_column_of_confidence_says_what_is_present_absent_and_unknown(here):
    table(here, *OPEN_IMAGES)
    flags = ["csv", "t.csv", "--labels-column", "LabelName", "--confidence-column", "Confidence"]
    make(*flags, *PREFIX)
    assert classes() == ["bird", "cat", "dog"]
    assert rows("out_train.lst") == {"a": "-1 1 0", "b": "-1 -1 1", "c": "-1 0 -1", "d": "1 -1 -1"}


@pytest.mark.parametrize("row", ["a,x,cat,90", "a,x,cat,-0.5", "a,x,cat,yes", "a,x,dog,1"])
def test_a_confidence_that_is_none_or_contradicts_another_is_refused(here, row):
    table(here, *OPEN_IMAGES, row)
    flags = ["csv", "t.csv", "--labels-column", "LabelName", "--confidence-column", "Confidence"]
    error = refused(*flags, *PREFIX)
    assert (error.file, error.line) == (("a", None) if row == "a,x,dog,1" else ("t.csv", 9))
    make(*flags, "--skip-bad", *PREFIX)
    assert rows("out_train.lst")["a"] == ("-1 1 -1" if row == "a,x,dog,1" else "-1 1 0")


# Kaggle's list_attr_celeba.csv: 1 and -1, and no 0.
CELEBA = ["image_id,5_o_Clock_Shadow,Bald,Smiling", "000001.jpg,-1,-1,1", "000002.jpg,1,-1,1",
          "000003.jpg,-1,1,-1"]


def test_labels_of_1_and_minus_1_are_told_and_read_with_the_flag(here, capsys):
    table(here, *CELEBA)
    make("csv", "t.csv", *PREFIX)
    assert rows("out_train.lst")["000001.jpg"] == "-1 -1 1"
    assert "--absent -1" in capsys.readouterr().out
    make("csv", "t.csv", "--absent", "-1", *PREFIX)
    assert list(rows("out_train.lst").values()) == ["0 0 1", "1 0 1", "0 1 0"]
    assert "--absent" not in capsys.readouterr().out


def test_lists_of_1_and_minus_1_are_read_with_the_flag(here):
    lines = [json.dumps({"image": f"{n}.jpg", "labels": v})
             for n, v in enumerate([[-1, -1, 1], [1, None, 1]])]
    table(here, *lines, name="t.jsonl")
    make("jsonl", "t.jsonl", "--absent", "-1", *PREFIX)
    assert list(rows("out_train.lst").values()) == ["0 0 1", "1 -1 1"]


def test_0_among_1_and_minus_1_is_refused_when_minus_1_is_absent(here):
    table(here, *CELEBA, "000004.jpg,0,1,")
    assert refused("csv", "t.csv", "--absent", "-1", *PREFIX).line == 5
    table(here, *CELEBA, "000004.jpg,NaN,1,")
    make("csv", "t.csv", "--absent", "-1", *PREFIX)
    assert rows("out_train.lst")["000004.jpg"] == "-1 1 -1"


def xray(here, num_patients=40):
    """A list like ChestX-ray14's: several pictures per patient."""
    rng = np.random.RandomState(0)
    names = ["Cardiomegaly", "Emphysema", "Effusion", "No Finding"]
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID"]
    for patient in range(num_patients):
        for picture in range(rng.randint(1, 8)):
            found = "|".join(names[n] for n in rng.choice(4, rng.randint(1, 3), replace=False))
            lines.append(f"{patient:08}_{picture:03}.png,{found},{picture},{patient}")
    table(here, *lines)
    return ["csv", "t.csv", "--labels-column", "Finding Labels", "--separator", "|",
            "--prefix", "out"]


def patients(title, prefix="out"):
    return {name.partition("_")[0] for name in rows(f"{prefix}_{title}.lst")}


@pytest.mark.parametrize("flags", [["--group-column", "Patient ID"],
                                   ["--group-regex", r"^(\d+)_"], ["--group-regex", r"^\d+"]])
def test_groups_stay_in_one_list(here, capsys, flags):
    make(*xray(here), *flags, "--test-fraction", 0.2)
    sides = [patients(title) for title in ("train", "val", "test")]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 40
    counts = [len(rows(f"out_{title}.lst")) for title in ("train", "val", "test")]
    assert counts[1] == pytest.approx(0.2 * sum(counts), abs=3)
    assert counts[2] == pytest.approx(0.2 * sum(counts), abs=3)
    out = capsys.readouterr().out
    assert "groups kept together: 40" in out
    assert "--group-regex" not in out


def test_names_that_share_a_prefix_across_the_split_are_told(here, capsys):
    make(*xray(here))
    out = capsys.readouterr().out
    assert patients("train") & patients("val")
    pattern = out.split("--group-regex '")[1].split("'")[0]
    make(*xray(here), "--group-regex", pattern)
    assert not patients("train") & patients("val")


@pytest.mark.parametrize("name, is_told", [
    ("train/patient{0:05}/study{1}/view1.jpg", True),
    ("{0}/{1}.jpg", True),
    ("p{0}-{1}.jpg", True),
    ("set1/scans/p{0}_{1}.jpg", True),
    ("IMG_{0}{1}.jpg", False),
    ("COCO_train2014_{0}{1}.jpg", False),
    ("{0}{1}.jpg", False),
    ("{2}_{0}{1}.jpg", False),   # the number of the class
    ("n0144076{2}/{0}{1}.jpg", False),
])
def test_a_prefix_is_told_only_where_it_may_be_a_subject(here, capsys, name, is_told):
    table(here, "file,labels", *(f"{name.format(n // 4, n % 4, n % 12)},class {n % 12}"
                                 for n in range(120)))
    make("csv", "t.csv", "--prefix", "out")
    assert ("--group-regex" in capsys.readouterr().out) == is_told


def test_groups_of_jsonl_and_images_without_a_group(here, capsys):
    lines = [json.dumps({"image": f"{n}.jpg", "labels": ["cat"], "patient": n % 10 or None})
             for n in range(60)]
    table(here, *lines, name="t.jsonl")
    make("jsonl", "t.jsonl", "--prefix", "out", "--group-column", "patient")
    sides = [{int(name[:-4]) % 10 for name in rows(f"out_{t}.lst")} - {0} for t in ("train", "val")]
    assert not sides[0] & sides[1]
    assert "groups kept together: 9; 6 images without one" in capsys.readouterr().out


def test_equal_files_and_groups_are_kept_together_along_chains(here):
    for number in range(30):  # the last picture of a patient is the first one of the next
        write(here / f"photos/{number // 2}_{number % 2}.jpg", f"image {(number + 1) // 2}")
    table(here, "file,labels", *(f"{n // 2}_{n % 2}.jpg,cat" for n in range(30)),
          *(f"other{n}.jpg,cat" for n in range(10)))
    for number in range(10):
        write(here / f"photos/other{number}.jpg", f"other {number}")
    make("csv", "t.csv", "--prefix", "out", "--path-root", "photos", "--group-regex", r"^(\d+)_")
    assert len({name.startswith("other") for name in rows("out_val.lst")}) == 1


@pytest.mark.parametrize("flags, flag", [
    (["--group-regex", "("], "--group-regex"), (["--group-regex", "x$"], "--group-regex"),
    (["--group-regex", "a", "--group-column", "g"], "--group-regex"),
    (["--group-column", "x"], "--group-column"),
    (["--test-fraction", "-0.1"], "--test-fraction"),
    (["--test-fraction", "0.9"], "--val-fraction"),
    (["--val-fraction", "0", "--test-fraction", "0.5", "--group-regex", "j"], "--test-fraction"),
    (["--confidence-column", "g"], "--confidence-column"),
])
def test_flags_that_cannot_be_followed_are_named(here, flags, flag):
    table(here, "file,cat,dog,g", "a.jpg,1,0,1", "b.jpg,0,1,0")
    assert refused("csv", "t.csv", "--prefix", "out", *flags).flag == flag


def test_one_image_in_two_groups_is_refused(here):
    table(here, "file,labels,g", "a.jpg,cat,1", "b.jpg,dog,2", "a.jpg,dog,2")
    error = refused("csv", "t.csv", *PREFIX, "--group-column", "g")
    assert (error.file, error.line) == ("t.csv", 4)


def test_an_old_test_list_does_not_stay_beside_new_ones(here):
    table(here, "file,labels", *(f"{n}.jpg,cat" for n in range(9)))
    make("csv", "t.csv", "--prefix", "out", "--test-fraction", 0.3)
    with pytest.raises(InputError) as caught:
        make("csv", "t.csv", "--prefix", "out")
    assert caught.value.file == "out_test.lst"


@pytest.mark.parametrize("flags, titles", [
    ([], ["train", "val"]), (["--val-fraction", 0], ["train"]),
    (["--test-fraction", 0.25, "--label-format", "indices"], ["train", "val", "test"])])
def test_the_last_lines_name_the_files_and_the_next_command(here, capsys, flags, titles):
    for number in range(12):
        write(here / f"my photos/{number}.jpg", f"image {number}")
    table(here, "file,labels", *(f"{n}.jpg,cat" for n in range(12)))
    make("csv", "t.csv", "--prefix", "out", "--path-root", "my photos", *flags)
    *_, written, command = capsys.readouterr().out.splitlines()
    names = [f"out_{title}.lst" for title in titles] + ["out_labels.txt"]
    assert written == "written: " + ", ".join(names)
    settings, script = command[len("next: "):].split(" sh ")
    assert script.split()[0] == str(ROOT / "run_train.sh")
    found = subprocess.run(["sh", "-c", f'{settings} sh -c \'echo "$DATA_TRAIN|$DATA_VAL|'
                            '$IMAGE_TRAIN|$IMAGE_VAL|$LABELS"\''], cwd="/", text=True,
                           stdout=subprocess.PIPE, check=True).stdout.strip().split("|")
    val = str(here / "out_val.lst") if "val" in titles else ""
    assert found == [str(here / "out_train.lst"), val, str(here / "my photos"),
                     str(here / "my photos"), str(here / "out_labels.txt")]
    assert script.endswith("--label-format indices") == ("indices" in flags)
    read_lst(found[0], label_format="indices" if "indices" in flags else "multi-hot")
