import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import expect_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.cli import InputError
from reading import lst_file, multi_hot_labels
from reading.classes import read_class_names
from reading.index_labels import IndexLabels
from reading.lst_file import read_lst
from reading.multi_hot_labels import WrongLabel

PLAIN = b"5\t1.000000\t0.000000\t1.000000\ta.jpg\n"
ANY_SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "train.lst"
        path.write_bytes(content)
        return str(path)
    return write


def fails(path, match, **options):
    with pytest.raises(InputError, match=match) as info:
        read_lst(path, **options)
    assert "\n" not in str(info.value)
    assert str(info.value).startswith(str(path))


def test_a_row_is_id_labels_and_name(write):
    lst = read_lst(write(PLAIN + b"7\t0.000000\t0.000000\t1.000000\tfolder/b c.jpg\n"))
    assert len(lst) == 2 and lst.num_classes == 3
    assert lst.ids.dtype == np.int64 and lst.ids.tolist() == [5, 7]
    assert [lst.name(0), lst.name(1)] == ["a.jpg", "folder/b c.jpg"]
    assert lst.line(1) == 2
    labels = lst.labels([1, 0, 1])
    assert labels.dtype == np.float32
    assert labels.tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 1]]


def test_class_numbers_say_which_classes_are_present(write):
    path = write(b"5\t0\t2\ta.jpg\n6\tb.jpg\n7\t4.000000\tc.jpg\n")
    lst = read_lst(path, label_format="indices")
    assert lst.num_classes == 5
    assert lst.labels([2, 0, 1, 0]).tolist() == [
        [0, 0, 0, 0, 1], [1, 0, 1, 0, 0], [0] * 5, [1, 0, 1, 0, 0]]
    assert lst.labels([]).shape == (0, 5)
    assert read_lst(path, 9, "indices").labels([0]).shape == (1, 9)
    assert lst.positives.tolist() == [1, 0, 1, 0, 1] and lst.negatives.tolist() == [2, 3, 2, 3, 2]


def test_class_numbers_of_images_without_any_class(write):
    lst = read_lst(write(b"5\ta.jpg\n"), 3, "indices")
    assert lst.labels([0]).tolist() == [[0, 0, 0]] and lst.positives.tolist() == [0, 0, 0]
    fails(write(b"5\ta.jpg\n"), "no row has a class", label_format="indices")


def test_unknown_and_soft_labels_are_kept(write):
    lst = read_lst(write(PLAIN + b"1\t-1\t0.25\t1\tb\n" + PLAIN))
    assert lst.labels([0, 1, 2]).tolist() == [[1, 0, 1], [-1, 0.25, 1], [1, 0, 1]]
    assert lst.positives.tolist() == [2, 0, 3] and lst.negatives.tolist() == [0, 3, 0]


def test_a_soft_label_is_present_above_a_half_as_in_the_metrics(write):
    lst = read_lst(write(b"1\t0.5\t0.500001\t0.499999\ta\n"))
    assert lst.positives.tolist() == [0, 1, 0] and lst.negatives.tolist() == [1, 0, 1]


def test_unknown_labels_count_as_neither(write):
    lst = read_lst(write(b"1\t-1\t0\ta\n2\t1\t-1\tb\n"))
    assert lst.positives.tolist() == [1, 0] and lst.negatives.tolist() == [0, 1]


@pytest.mark.parametrize("content", [
    PLAIN.rstrip(b"\n"), PLAIN.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + PLAIN,
    b"\n \n\t\n\r\n" + PLAIN + b"\n\n", PLAIN.replace(b"\n", b"\t\t\n"),
    PLAIN.replace(b"\n", b"\t\r\n"), PLAIN.replace(b"\n", b" \t \t \r\n"),
    b" 5 \t1\t0\t1.0\ta.jpg\n", b"5\t1e0\t0.0\t+1\ta.jpg"])
def test_other_spellings_of_the_same_row(write, content):
    lst = read_lst(write(content))
    assert (len(lst), lst.ids[0], lst.name(0)) == (1, 5, "a.jpg")
    assert lst.labels([0]).tolist() == [[1, 0, 1]]


def test_blank_lines_do_not_shift_line_numbers(write):
    path = write(b"\n\n" + PLAIN + b"\n" + PLAIN)
    assert [read_lst(path).line(row) for row in (0, 1)] == [3, 5]
    fails(write(b"\n" + PLAIN + b"\n1\t1\tb\n"), r"train.lst:4: 1 label, but the first row has 3")


@pytest.mark.parametrize("name", [
    "a b.jpg", " outer spaces ", "/absolute/path.jpg", "日本語.jpg", "a\rb", "back\\slash",
    "#%$'\""])
def test_names_are_kept_exactly(write, name):
    assert read_lst(write(b"1\t1\t" + name.encode() + b"\n")).name(0) == name


def test_a_name_that_is_not_utf8_still_opens(write, tmp_path):
    name = b"caf\xe9.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
        pass
    assert os.path.isfile(tmp_path / read_lst(write(b"1\t1\t" + name + b"\n")).name(0))


def test_ids_and_names_may_repeat(write):
    assert read_lst(write(PLAIN * 3)).ids.tolist() == [5, 5, 5]


@pytest.mark.parametrize(("content", "match"), [
    (b"", "holds no rows"),
    (b"\n\n", "holds no rows"),
    (PLAIN + b"\x89PNG\0\0\n", ":2: a zero byte: not UTF-8 text"),
    (b"\xff\xfe1\0", ":1: a zero byte"),
    (PLAIN + b"5 1.000000 0.000000 1.000000 a.jpg\n", ":2: no tab in .* with tabs, not spaces"),
    (PLAIN + b"5\t1.000000 0.000000 1.000000\ta.jpg\n", ":2: 1 label, .* tabs, not spaces"),
    (b"a.jpg\n", ":1: no tab in \"a.jpg\""),
    (PLAIN + b"x\t1\t0\t1\ta.jpg\n", ":2: the row starts with \"x\", not with a number"),
    (b"99999999999999999999\t1\ta.jpg\n", ":1: the row starts with"),
    (b"1_0\t1\ta.jpg\n", ":1: the row starts with \"1_0\""),
    (b"5\ta.jpg\n", ":1: no labels between ID and file name"),
    (PLAIN + b"5\t1\t0\ta.jpg\n", ":2: 2 labels, but the first row has 3"),
    (PLAIN + b"5\t1\t0\t1\t1\ta.jpg\n", ":2: 4 labels, but the first row has 3"),
    (PLAIN + b"5\t1\tx\t1\ta.jpg\n", ":2: label 2 of 3 is \"x\""),
    (PLAIN + b"5\t1\t\t1\ta.jpg\n", ":2: label 2 of 3 is \"\""),
    (PLAIN + b"5\t1\t1_0\t1\ta.jpg\n", ":2: label 2 of 3 is \"1_0\""),
    (PLAIN + b"5\t1\tnan\t1\ta.jpg\n", ":2: label 2 of 3 is \"nan\""),
    (PLAIN + b"5\t1\tinf\t1\ta.jpg\n", ":2: label 2 of 3 is \"inf\""),
    (PLAIN + b"5\t1\t2.000000\t1\ta.jpg\n", ":2: label 2 of 3 is \"2.000000\", not 1, 0, -1"),
    (PLAIN + b"5\t1\t-0.5\t1\ta.jpg\n", ":2: label 2 of 3 is \"-0.5\""),
    (PLAIN + b"5\t1.000000\t0.000001\t1.100000\ta.jpg\n", ":2: label 3 of 3 is")])
def test_a_wrong_row_is_named(write, content, match):
    fails(write(content), match)


@pytest.mark.parametrize("row", [
    b"5 1.0\t0.0\t1.0\ta.jpg\n", b"5 1\t0\t1\ta.jpg\n", b"5\t1 a.jpg\n", b"5\t1.0 0.0\ta.jpg\n",
    b"5\t1.0\t0.0\t1.0 a.jpg\n", b"5\t0.000000\t1.000000\t-1.000000 a.jpg\n"])
def test_spaces_in_place_of_tabs_are_named(write, row):
    fails(write(b"5\t1\t0\t1\ta.jpg\n" + row), ":2: .*(tabs, not spaces|and a tab)")
    fails(write(row * 3), ":1: .*(tabs, not spaces|and a tab)", num_classes=3)


@pytest.mark.parametrize("name", [b"0", b"1", b"0.000000", b"1.000000", b"-1.000000"])
def test_a_missing_name_leaves_one_label_less(write, name):
    for end in (b"\n", b"\t\n", b"\t\r\n"):
        row = b"5\t1\t0\t" + name + end
        fails(write(PLAIN + row), ":2: 2 labels, but the first row has 3")
        fails(write(row), ":1: 2 labels, but --num-classes is 3", num_classes=3)
        fails(write(row * 2), ":1: the file name is ")
    if b"." in name:
        fails(write(b"5\t1\t0\t" + name + b" a.jpg\n"), ":1: the file name is ")


@pytest.mark.parametrize("name", ["1 cat.jpg", "0.5 inch.jpg", "-1 degrees.jpg", "2.0 x.jpg"])
def test_names_that_start_with_a_number_load(write, name):
    lst = read_lst(write(f"5\t1\t0\t{name}\n".encode() * 2))
    assert lst.num_classes == 2 and lst.name(1) == name


def test_any_name_loads_where_the_labels_are_as_many_as_were_asked_for(write):
    for name in ("0", "1.0", "1.000000 a.jpg"):
        assert read_lst(write(f"5\t1\t0\t{name}\n".encode()), 2).name(0) == name
        assert read_lst(write(PLAIN + f"5\t1\t0\t1\t{name}\n".encode())).name(1) == name


def test_a_count_that_was_asked_for_is_checked(write):
    path = write(PLAIN)
    assert read_lst(path, 3).num_classes == 3
    with expect_error(file=path, line=1, flag="--num-classes"):
        read_lst(path, 4)


@pytest.mark.parametrize(("row", "match"), [
    (b"5\t-1\ta.jpg", ':1: the label "-1" is not a class number'),
    (b"5\t3\ta.jpg", r':1: the label "3" is not a class number, 0 to 2 \(--num-classes is 3\)'),
    (b"5\t1.5\ta.jpg", "not a class number"), (b"5\tx\ta.jpg", "not a class number"),
    (b"5\t1_0\ta.jpg", "not a class number"), (b"5\tnan\ta.jpg", "not a class number"),
    (b"5\t1 2\ta.jpg", "tabs, not spaces"),
    (b"5\t0\t1\t0\ta.jpg", "class 0 stands there twice; .* multi-hot"),
    (b"5\t99999999999999999999\ta.jpg", "not a class number")])
def test_a_wrong_class_number_is_named(write, row, match):
    fails(write(row), match, num_classes=3, label_format="indices")


def test_an_absurd_class_number_is_refused(write):
    fails(write(b"5\t99999999999\ta.jpg"), "0 to 999999", label_format="indices")


def test_what_is_no_file_is_refused(tmp_path):
    fails(str(tmp_path / "none.lst"), "no such file")
    fails(str(tmp_path), "is a directory")


def test_a_very_long_line_is_refused_early(write, monkeypatch):
    fails(write(PLAIN + b"x" * (200 << 20)), ":2: a line longer than 16 MB")


def test_a_row_of_ten_thousand_labels_is_fine(write):
    assert read_lst(write(b"1\t" + b"0.000000\t" * 10_000 + b"a.jpg\n")).num_classes == 10_000


def test_rows_across_blocks_are_read_whole(write, monkeypatch):
    rows = b"".join(b"%d\t%d\t1.000000\t%d.jpg\n" % (n, n % 2, n) for n in range(500))
    whole = read_lst(write(rows))
    monkeypatch.setattr(lst_file, "BLOCK_BYTES", 7)
    pieces = read_lst(write(rows))
    assert pieces.labels(range(500)).tolist() == whole.labels(range(500)).tolist()
    assert pieces.checksum == whole.checksum
    assert [pieces.name(n) for n in range(500)] == [f"{n}.jpg" for n in range(500)]


def test_the_checksum_follows_the_content(write):
    first = read_lst(write(PLAIN)).checksum
    assert read_lst(write(PLAIN)).checksum == first
    assert read_lst(write(PLAIN + PLAIN)).checksum != first


@pytest.mark.parametrize(("text", "line"), [
    (b"one\n\nthree\n", 2), (b"one\ntwo\none\n", 3), (b"one\ntwo\n", None), (b"caf\xe9", None)])
def test_class_names_are_as_many_as_classes_and_differ(write, text, line):
    path = write(text)
    with expect_error(file=path, line=line):
        read_class_names(path, 3)


@pytest.mark.parametrize("read", [read_lst, read_class_names])
def test_a_pipe_and_a_device_are_refused_at_once(tmp_path, read):
    pipe = str(tmp_path / "pipe.lst")
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero", "/dev/null"):
        with pytest.raises(InputError, match="is not a regular file"):
            read(path)


def test_standard_input_is_read_where_it_is_a_file_and_refused_where_it_is_a_pipe(write):
    path = write(PLAIN)
    code = "from reading.lst_file import read_lst; print(len(read_lst('/dev/stdin')))"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
               "cwd": Path(__file__).parents[1], "timeout": 60}
    with open(path) as file:
        done = subprocess.run([sys.executable, "-c", code], stdin=file, **options)
    assert done.stdout == "1\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                               **{k: v for k, v in options.items() if k != "timeout"})
    process.wait(60)  # nothing was written, nothing closed
    assert "/dev/stdin: is not a regular file" in process.stderr.read()
    process.stdin.close()


names = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(name) & set(b"\0\t\n") and not name.endswith((b"\r", b" ")))
spellings = {0: [b"0", b"0.0", b"0.000000", b"-0"], 1: [b"1", b"1.0", b"1.000000", b"1e0"],
             -1: [b"-1", b"-1.000000"], 0.5: [b"0.5", b"0.500000"]}
values = st.sampled_from(sorted(spellings))


@st.composite
def tables(draw):
    columns = draw(st.integers(1, 5))
    label = st.lists(values, min_size=columns, max_size=columns)
    row = st.tuples(st.integers(-2**63, 2**63 - 1), label, names)
    return draw(st.lists(row, min_size=1, max_size=30))


@ANY_SETTINGS
@given(tables(), st.randoms())
def test_any_rows_come_back_as_they_were_written(write, table, random):
    content = b"".join(
        b"\t".join([b"%d" % number] + [random.choice(spellings[v]) for v in labels] + [name])
        + random.choice([b"\n", b"\r\n"]) for number, labels, name in table)
    lst = read_lst(write(content), len(table[0][1]))  # without it a name may look like a label
    assert lst.ids.tolist() == [number for number, _, _ in table]
    assert lst.labels(range(len(table))).tolist() == [labels for _, labels, _ in table]
    assert [os.fsencode(lst.name(n)) for n in range(len(table))] == [name for *_, name in table]


@ANY_SETTINGS
@given(st.lists(st.one_of(
    st.text("01259.-+ e_x/:", max_size=9).map(str.encode),
    st.integers(0, 10**6).map(lambda n: b"%.6f" % (n / 1e6)),
    st.integers(0, 1000).map(lambda n: b"%.3f" % (n / 1e3)),
    st.sampled_from([b"0", b"1", b"-1", b"0.0", b"-1.0", b"-1.000000", b"1.", b"01", b"-0"])),
    min_size=1, max_size=9))
def test_labels_are_the_numbers_that_python_reads(write, fields):
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = [2]
    path = write(b"1\t" + b"".join(field + b"\t" for field in fields) + b"a.jpg\n")
    if b"_" in b"".join(fields) or not all(0 <= value <= 1 or value == -1 for value in values):
        with pytest.raises(InputError):
            read_lst(path, len(fields))
    else:
        assert read_lst(path, len(fields)).labels([0]).tolist() == [np.float32(values).tolist()]


@pytest.mark.parametrize("labels", [
    b"1\x0c0\t\t", b"1 0\t\t", b"\t1\t", b"1-1\t1\t", b"1\t-\t", b"0x1\t1\t"])
def test_what_only_looks_like_as_many_numbers_is_refused(write, labels):
    with pytest.raises(InputError):
        read_lst(write(b"1\t" + labels + b"a.jpg\n"), 2)


def test_soft_labels_in_some_places_of_a_long_list(write, monkeypatch):
    monkeypatch.setattr(lst_file, "BLOCK_BYTES", 100)
    table = np.round(np.random.RandomState(0).rand(200, 3), 6)
    table[:90] = table[110:] = table[0] > 0.5
    lst = read_lst(write(b"".join(
        b"1\t" + b"".join(b"%.6f\t" % value for value in row) + b"a\n" for row in table)))
    rows = np.random.RandomState(1).permutation(200)
    assert (lst.labels(rows) == table[rows].astype(np.float32)).all()
    assert lst.positives.tolist() == (table >= 0.5).sum(axis=0).tolist()
    assert lst.negatives.tolist() == (table < 0.5).sum(axis=0).tolist()


@ANY_SETTINGS
@given(tables())
def test_the_fast_way_and_the_general_one_agree(write, table):
    content = b"".join(b"%d\t%s\t%s\n" % (n, b"\t".join(b"%.6f" % v for v in labels), name)
                       for n, labels, name in table)
    fast = read_lst(write(content), len(table[0][1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_hot_labels, "PLAIN_ENDINGS", ())
        general = read_lst(write(content), len(table[0][1]))
    rows = range(len(table))
    assert fast.labels(rows).tolist() == general.labels(rows).tolist()
    assert fast.positives.tolist() == general.positives.tolist()


@ANY_SETTINGS
@given(st.one_of(st.binary(max_size=200),
                 st.text("0123456789.\t\n\r -+enaif_x", max_size=200).map(str.encode)),
       st.sampled_from(lst_file.LABEL_FORMATS))
def test_any_bytes_parse_or_raise_an_input_error(write, content, label_format):
    try:
        lst = read_lst(write(content), label_format=label_format)
    except InputError:
        return
    labels = lst.labels(range(len(lst)))
    assert ((labels >= 0) & (labels <= 1) | (labels == -1)).all()


@ANY_SETTINGS
@given(st.lists(st.tuples(st.sets(st.integers(0, 50)), names), min_size=1, max_size=20))
def test_any_class_numbers_come_back_as_they_were_written(write, table):
    content = b"".join(b"\t".join([b"1"] + [b"%d" % c for c in classes] + [name]) + b"\n"
                       for classes, name in table)
    lst = read_lst(write(content), 51, "indices")
    labels = lst.labels(range(len(table)))
    assert [set(np.flatnonzero(row).tolist()) for row in labels] == [c for c, _ in table]
    assert lst.positives.tolist() == labels.sum(axis=0).tolist()


def test_a_hundred_thousand_rows_load_within_seconds(write):
    row = b"\t".join([b"0.000000"] * 80)
    path = write(b"".join(b"%d\t%s\t%08d.jpg\n" % (n, row, n) for n in range(100_000)))
    lst = read_lst(path)
    assert len(lst) == 100_000 and lst.negatives.tolist() == [100_000] * 80


@given(st.lists(st.lists(st.sampled_from(
    ["0", "1", "2", "7", "8", "11", "03", "4.0", "-1", "-0", "1.5", "1e1", "x", ""]),
    max_size=4), min_size=1, max_size=6), st.sampled_from([None, 8]))
def test_class_numbers_are_those_that_python_reads_row_by_row(rows, num_classes):
    limit, wrong, twice, numbers = num_classes or 1_000_000, [], [], []
    for place, row in enumerate(rows):
        for field in row:
            if field in ("x", "", "1.5") or not 0 <= float(field) < limit:
                wrong.append(place)
            else:
                numbers.append(int(float(field)))
        if not wrong and len(set(map(float, row))) < len(row):
            twice.append(place)
    labels = IndexLabels(num_classes)
    try:
        labels.add(["".join(field + "\t" for field in row).encode() for row in rows])
    except WrongLabel as error:
        assert error.args[0] == (wrong + twice)[0]
    else:
        assert not wrong + twice and labels.classes.tolist() == numbers
        assert labels.ends.tolist() == np.cumsum([0, *map(len, rows)]).tolist()
        assert labels.num_classes == max([(num_classes or 0) - 1, *numbers]) + 1
