import numpy as np
import pytest
from conftest import script
from make_lst import main

from common.cli import InputError
from reading.lst_file import read_lst


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder to be in, with eleven photos (any bytes will do) and train.lst."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    names = [f"{n} ü.jpg" for n in range(9)] + ["sub/9.jpg", "#10.jpg"]
    for name in names:
        (folder / name).write_bytes(name.encode() * 100)
    (tmp_path / "train.lst").write_text("".join(
        f"{100 + n}\t{n % 2}\t{n % 3 - 1}\t{name}\n" for n, name in enumerate(names)))
    return folder


def parts(prefix="part", number=3):
    return [read_lst(f"{prefix}_{n}.lst") for n in range(number)]


def test_each_row_is_in_one_part_with_its_id_and_labels(photos):
    out = script("tools/make_lst.py", "shard", "train.lst", "--num-parts", 3, "--prefix",
                 "shards/part", cwd=photos.parent)
    assert "shards/part_0.lst: 4 rows of 11" in out
    whole = read_lst("train.lst")
    found = {}
    for lst in parts("shards/part"):
        for row in range(len(lst)):
            assert lst.ids[row] not in found
            found[lst.ids[row]] = lst.name(row), lst.labels([row])[0].tolist()
    assert found == {whole.ids[row]: (whole.name(row), whole.labels([row])[0].tolist())
                     for row in range(len(whole))}


def test_parts_differ_by_one_row_at_most(photos):
    main(["shard", "train.lst", "--num-parts", "3", "--prefix", "part"])
    assert [len(lst) for lst in parts()] == [4, 4, 3]


def test_the_seed_decides(photos):
    for prefix, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main(["shard", "train.lst", "--num-parts", "3", "--prefix", prefix, "--seed", seed])
    first = {p: (photos.parent / f"{p}_0.lst").read_bytes() for p in "abc"}
    assert first["a"] == first["b"] != first["c"]


def test_the_list_of_files_serves_rsync(photos):
    main(["shard", "train.lst", "--num-parts", "3", "--prefix", "part"])
    listed = [(photos.parent / f"part_{n}_files.txt").read_text().split("\n")[:-1]
              for n in range(3)]
    names = sum(listed, [])
    assert len(names) == 11
    assert "./#10.jpg" in names  # a line that starts with # would be a comment
    assert all((photos / name).is_file() for name in names)


def test_class_numbers_stay_such(photos):
    (photos.parent / "i.lst").write_text("0\t2\ta.jpg\n1\tb.jpg\n2\t0\t1\tc.jpg\n")
    main(["shard", "i.lst", "--num-parts", "2", "--prefix", "part", "--label-format", "indices"])
    sizes = [len(read_lst(f"part_{n}.lst", 3, "indices")) for n in range(2)]
    assert sizes == [2, 1]


def test_more_machines_than_rows_are_refused(photos):
    with pytest.raises(InputError, match="11 rows cannot be dealt out to 12 machines"):
        main(["shard", "train.lst", "--num-parts", "12", "--prefix", "part"])


def test_soft_labels_stay_what_they_are(photos):
    (photos.parent / "soft.lst").write_text("0\t0.25\ta.jpg\n1\t1\tb.jpg\n")
    main(["shard", "soft.lst", "--num-parts", "1", "--prefix", "part"])
    np.testing.assert_array_equal(read_lst("part_0.lst").labels([0, 1]), [[0.25], [1]])
