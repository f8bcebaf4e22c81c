"""make_lst.py manifest and make_lst.py rec."""
import json
from pathlib import Path

import cv2
import make_lst
import numpy as np
import pytest
from conftest import script

from common.cli import InputError
from common.mx_compat import mx
from reading.lst_file import read_lst

BUCKET = "s3://bucket/project/photos/"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*flags):
    """The labels of out_train.lst by file name, in the order of out_labels.txt."""
    make_lst.main([*map(str, flags), "--prefix", "out", "--val-fraction", "0"])
    lst = read_lst("out_train.lst")
    return {lst.name(row): lst.labels([row])[0].tolist() for row in range(len(lst))}


def classes():
    with open("out_labels.txt", encoding="utf-8") as file:
        return file.read().split("\n")[:-1]


def refused(*flags):
    with pytest.raises(InputError) as caught:
        make(*flags)
    return caught.value


def manifest(*items):
    with open("m.manifest", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(item) + "\n" for item in items)
    return "m.manifest"


def job(name, value, **metadata):
    return {"source-ref": BUCKET + name, "job": value,
            "job-metadata": {"type": "groundtruth/image-classification", **metadata}}


MAP = {"class-map": {"0": "cat", "1": "dog", "2": "bird"}}


@pytest.mark.parametrize("items", [
    [job("1.jpg", [0, 2], **MAP), job("2.jpg", [1], **MAP), job("3.jpg", [], **MAP)],
    [job("1.jpg", {"annotations": [{"class_id": 2}, {"class_id": 0}, {"class_id": 0}]}, **MAP),
     job("2.jpg", {"annotations": [{"class_id": 1}]}, **MAP),
     job("3.jpg", {"annotations": []}, **MAP)],
    [{**job("1.jpg", '["bird", "cat"]'), "width": 9}, job("2.jpg", "dog"), job("3.jpg", "")]])
def test_ground_truth_names_its_classes(items):
    assert make("manifest", manifest(*items)) == {
        "1.jpg": [1, 1, 0], "2.jpg": [0, 0, 1], "3.jpg": [0, 0, 0]}
    assert classes() == ["bird", "cat", "dog"]


@pytest.mark.parametrize("values", [["[1, 0, 1]", "[0, 0, 0]"], [[1, 0, 1], [0, 0, 0]],
                                    ["[1.0, 0.0, 1.0]", [0, 0, 0]]])
def test_sagemakers_multi_label_form_is_multi_hot(values):
    items = [{"source-ref": f"{BUCKET}{n}.jpg", "class": value} for n, value in enumerate(values)]
    assert make("manifest", manifest(*items)) == {"0.jpg": [1, 0, 1], "1.jpg": [0, 0, 0]}


@pytest.mark.parametrize("values, expected", [
    (["0", "1"], [[1, 0], [0, 1]]), ([1, 0], [[0, 1], [1, 0]]), ([10, 9.0], [[0, 1], [1, 0]])])
def test_one_number_is_that_of_a_class(values, expected):
    items = [{"source-ref": f"{BUCKET}{n}.jpg", "class": value} for n, value in enumerate(values)]
    assert list(make("manifest", manifest(*items)).values()) == expected


def test_a_single_label_of_ground_truth_has_its_name_in_the_metadata():
    items = [job("1.jpg", 0, **{"class-name": "cat"}), job("2.jpg", 3, **{"class-name": "dog"})]
    assert make("manifest", manifest(*items)) == {"1.jpg": [1, 0], "2.jpg": [0, 1]}


def test_lists_that_may_mean_two_things_are_refused():
    items = [{"source-ref": f"{BUCKET}{n}.jpg", "class": value}
             for n, value in enumerate([[0, 1], [1, 0]])]
    assert refused("manifest", manifest(*items)).flag == "--list-format"
    assert make("manifest", "m.manifest", "--list-format", "indices") == {
        "0.jpg": [1, 1], "1.jpg": [1, 1]}


def test_of_several_attributes_one_is_to_be_named():
    items = [{**job("1.jpg", [0], **MAP), "second": [1], "second-metadata": MAP}]
    error = refused("manifest", manifest(*items))
    assert (error.file, error.line, error.flag) == ("m.manifest", 1, "--attribute")
    assert make("manifest", "m.manifest", "--attribute", "second") == {"1.jpg": [1]}
    assert classes() == ["dog"]


@pytest.mark.parametrize("bad", [
    [], {"source": "text", "job": [0]}, {"source-ref": 3, "job": [0]},
    {"source-ref": BUCKET + "9.jpg", "job-metadata": {"failure-reason": "x"}},
    job("9.jpg", [7], **MAP), job("9.jpg", {"annotations": [{"class_id": "0"}]}, **MAP),
    job("9.jpg", {"boxes": 3}), job("9.jpg", [[0]]), job("9.jpg", 0.5),
    {**job("1.jpg", [1], **MAP), "source-ref": "s3://other/project/photos/1.jpg"}])
def test_a_bad_line_of_a_manifest_is_named_and_can_be_left_out(bad):
    file = manifest(job("1.jpg", [0], **MAP), bad)
    error = refused("manifest", file)
    assert (error.file, error.line) == (file, 2)
    assert make("manifest", file, "--skip-bad") == {"1.jpg": [1]}


@pytest.mark.parametrize("items", [[], [[]]])
def test_a_manifest_without_any_good_line_is_told(items):
    assert "no images were found" in refused("manifest", manifest(*items), "--skip-bad").what


@pytest.mark.parametrize("root, names", [
    (None, ["a/1.jpg", "2.jpg"]), ("photos", ["a/1.jpg", "2.jpg"])])
def test_names_start_below_the_folders_that_all_share(here, root, names):
    file = manifest(job("a/1.jpg", [0], **MAP), job("2.jpg", [1], **MAP))
    for name in names if root else ():
        path = here / root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    flags = ["--path-root", root] if root else []
    assert list(make("manifest", file, *flags)) == names


@pytest.mark.parametrize("sources", [["/photos/1.jpg", "a/2.jpg"], ["1.jpg", "/a/b/2.jpg"]])
def test_absolute_and_relative_names_in_a_manifest_are_told(sources):
    file = manifest(*({"source-ref": source, "class": "cat"} for source in sources))
    assert refused("manifest", file).file == file


def test_a_name_in_a_manifest_does_not_lead_out_of_the_folder():
    file = manifest(job("1.jpg", [0], **MAP), job("../../../../etc/passwd", [1], **MAP))
    assert refused("manifest", file).line == 2


def picture(seed, ending=".jpg"):
    pixels = np.random.RandomState(seed).randint(0, 256, (12, 16, 3), np.uint8)
    return cv2.imencode(ending, pixels)[1].tobytes()


def rec(*records):
    """Write records of (label, id, bytes) as MXNet does."""
    writer = mx.recordio.MXRecordIO("a.rec", "w")
    for label, number, image in records:
        label = np.array(label, np.float32) if isinstance(label, list) else label
        writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), image))
    writer.close()
    return "a.rec"


def test_multi_label_records_become_images_and_a_list(here):
    images = [picture(1), picture(2, ".png"), picture(3) + b"\x0a\x23\xd7\xce"]
    file = rec(([1, 0, 1], 5, images[0]), ([0, 0, -1], 9, images[1]), ([0, 1, 0], 2, images[2]))
    assert make("rec", file, "--images", "new/photos") == {
        "5.jpg": [1, 0, 1], "9.png": [0, 0, -1], "2.jpg": [0, 1, 0]}
    assert [(here / "new/photos" / name).read_bytes() for name in ("5.jpg", "9.png", "2.jpg")
            ] == images
    assert {path.name for path in (here / "new/photos").iterdir()} == {"5.jpg", "9.png", "2.jpg"}


def test_image_record_iter_reads_the_same(here):
    images = [picture(n) for n in range(4)]
    labels = [[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]]
    file = rec(*zip(labels, range(4), images))
    batches = mx.io.ImageRecordIter(path_imgrec=file, data_shape=(3, 12, 16), batch_size=4,
                                       label_width=3, preprocess_threads=1)
    assert batches.next().label[0].asnumpy().tolist() == labels
    assert list(make("rec", file, "--images", "photos").values()) == labels


def test_records_of_im2rec_are_read(here):
    (here / "in").mkdir()
    for number in range(3):
        (here / f"in/{number}.png").write_bytes(picture(number, ".png"))
    (here / "in.lst").write_text("7\t1.0\t1.0\t0.0\t0.png\n8\t0.0\t0.0\t1.0\t1.png\n"
                                 "9\t0.0\t0.0\t0.0\t2.png\n")
    script(Path(mx.__path__[0], "tools/im2rec.py"), "in.lst", "in", "--pack-label",
           "--pass-through", "--num-thread", 1)
    assert make("rec", "in.rec", "--images", "photos") == {
        "7.png": [1, 1, 0], "8.png": [0, 0, 1], "9.png": [0, 0, 0]}
    assert (here / "photos/8.png").read_bytes() == (here / "in/1.png").read_bytes()


@pytest.mark.parametrize("labels, expected", [
    ([3.0, 0.0, 3.0], [[0, 1], [1, 0], [0, 1]]), ([0.0, 1.0, 1.0], [[1, 0], [0, 1], [0, 1]]),
    ([[3], [0, 4], [0]], [[0, 1, 0], [1, 0, 1], [1, 0, 0]])])
def test_labels_may_be_numbers_of_classes(labels, expected):
    file = rec(*((label, n, picture(n)) for n, label in enumerate(labels)))
    assert list(make("rec", file, "--images", "photos").values()) == expected


def test_repeated_ids_do_not_overwrite_images():
    file = rec(*((float(n), 4, picture(n)) for n in range(3)))
    assert list(make("rec", file, "--images", "photos")) == ["4.jpg", "4_1.jpg", "4_2.jpg"]


@pytest.mark.parametrize("label, image", [
    ([1, 0, 1], b"no image"), ([1, 0, 1], b""), ([2, 5, 0.25, 0.3], picture(9)),
    (0.5, picture(9)), ([1, 0], picture(9))])
def test_a_bad_record_is_named_and_can_be_left_out(label, image):
    file = rec(([1, 1, 0], 1, picture(1)), (label, 2, image))
    assert refused("rec", file, "--images", "photos").file == "a.rec: record 1"
    assert make("rec", file, "--images", "photos", "--skip-bad") == {"1.jpg": [1, 1, 0]}


def test_damaged_files_are_told_in_one_line(here):
    file = rec(([1, 1, 0], 1, picture(1)), ([1, 1, 0], 2, picture(2)))
    content = (here / file).read_bytes()
    for damaged in (content[:-5], content[:9], b"no record at all", content + b"\0" * 8):
        (here / file).write_bytes(damaged)
        assert refused("rec", file, "--images", "photos").file == file
    for name in (".", "missing.rec"):
        assert refused("rec", name, "--images", "photos").file == name


def test_what_is_in_the_folder_is_not_overwritten(here):
    file = rec(([1, 1, 0], 1, picture(1)))
    make("rec", file, "--images", "photos")
    make("rec", file, "--images", "photos")  # once more, the same
    (here / "photos/1.jpg").write_bytes(b"mine")
    assert refused("rec", file, "--images", "photos").file == "photos/1.jpg"
    assert (here / "photos/1.jpg").read_bytes() == b"mine"
