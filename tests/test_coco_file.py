import json

import pytest

from common.cli import InputError
from datasets import json_sources
from datasets.json_sources import read_coco
from datasets.label_table import BadInput, build_table

CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "bird"}]
IMAGES = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}]
CAT_IN_A = {"image_id": 7, "category_id": 1, "bbox": [1, 2.5, 3, 4]}


@pytest.fixture
def read(tmp_path):
    """Read a COCO file of these parts: its labels by file name, in the order of the classes."""
    def read(images=IMAGES, annotations=(CAT_IN_A,), categories=CLASSES, skip=False,
             encoding="utf-8"):
        path = tmp_path / "t.json"
        path.write_text(json.dumps({"images": images, "annotations": list(annotations),
                                    "categories": categories}), encoding)
        bad_input = BadInput(skip)
        source = read_coco(str(path), bad_input)
        read.classes = source.classes
        table = build_table(source, bad_input)
        return dict(zip(table.names, table.labels.tolist()))
    return read


def test_lists_elsewhere_in_the_file_are_not_read(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({
        "annotations": [{"image_id": n % 3, "category_id": n % 2} for n in range(20)],
        "info": {"images": [1, 2]}, "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
        "images": [{"id": n, "file_name": f"{n}.jpg", "info": {"id": 9}} for n in range(4)]}))
    source = read_coco(path, BadInput(skip=False))
    assert source.classes == ["a", "b"]
    assert [(sample.name, set(sample.present)) for sample in source.samples] == [
        ("0.jpg", {"a", "b"}), ("1.jpg", {"a", "b"}), ("2.jpg", {"a", "b"}), ("3.jpg", set())]


@pytest.mark.parametrize("ids", [(7, "7"), ("7", 7), (7.0, 7), (7, 7.0), ("7", "7"),
                                 ("0007", "0007"), ("img-7", "img-7"), (10 ** 18, str(10 ** 18))])
def test_ids_are_the_same_as_numbers_and_as_text(read, ids):
    assert read([{"id": ids[0], "file_name": "a.jpg"}],
                [{"image_id": ids[1], "category_id": "1"}],
                [{"id": 1.0, "name": "cat"}]) == {"a.jpg": [1]}


@pytest.mark.parametrize("number", [None, True, [7], {"id": 7}, 7.5, "07", "seven"])
def test_other_ids_are_of_no_image(read, number):
    annotations = [CAT_IN_A, {"image_id": number, "category_id": 1}]
    with pytest.raises(InputError) as caught:
        read(annotations=annotations)
    assert caught.value.what.startswith("annotations[1]: ")
    assert read(annotations=annotations, skip=True) == {"a.jpg": [1, 0, 0], "b.jpg": [0, 0, 0]}


def test_categories_of_one_name_are_one_class(read):
    categories = [*CLASSES, {"id": 17, "name": "cat "}, {"id": 18, "name": "cat"}]
    annotations = [CAT_IN_A, {"image_id": 8, "category_id": 17}, {"image_id": 8, "category_id": 2}]
    assert read(IMAGES, annotations, categories) == {"a.jpg": [1, 0, 0], "b.jpg": [1, 1, 0]}
    assert read.classes == ["cat", "dog", "bird"]


@pytest.mark.parametrize("bad", [{"image_id": 7, "category_id": 9}, {"image_id": 7},
                                 {"image_id": 7, "category_id": [1]},
                                 {"image_id": "7", "category_id": 1.5}])
def test_where_an_annotation_is_left_out_other_classes_are_unknown(read, bad):
    annotations = [CAT_IN_A, bad, {"image_id": 8, "category_id": 2}]
    assert read(annotations=annotations, skip=True) == {"a.jpg": [1, -1, -1], "b.jpg": [0, 1, 0]}


def test_an_id_of_two_images_or_classes_says_nothing(read):
    images = [*IMAGES, {"id": 8, "file_name": "c.jpg"}]
    annotations = [CAT_IN_A, {"image_id": 8, "category_id": 2}]
    with pytest.raises(InputError):
        read(images, annotations)
    assert read(images, annotations, skip=True) == {"a.jpg": [1, 0, 0]}
    categories = [*CLASSES, {"id": 2, "name": "fish"}]
    assert read(IMAGES, annotations, categories, skip=True) == {"a.jpg": [1, 0], "b.jpg": [-1, -1]}
    assert read([*IMAGES, IMAGES[0]]) == read()  # the same once more


@pytest.mark.parametrize("image, name", [
    ({"coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg"},
     "val2017/000000397133.jpg"),
    ({"coco_url": "https://x/1.jpg", "file_name": None}, "x/1.jpg"),
    ({"coco_url": "http://x/y/1.jpg", "file_name": "z/2.jpg"}, "z/2.jpg")])
def test_an_image_without_file_name_has_that_of_its_address(read, image, name):
    assert set(read([{"id": 7, **image}])) == {name}


def test_in_lvis_classes_are_unknown_that_an_image_says_nothing_of(read):
    images = [{"id": 7, "file_name": "a.jpg", "neg_category_ids": [3, 99]},
              {"id": 8, "file_name": "b.jpg", "neg_category_ids": []}]
    assert read(images) == {"a.jpg": [1, -1, 0], "b.jpg": [-1, -1, -1]}


def test_segments_of_panoptic_files_are_objects(read):
    annotations = [{"image_id": 7, "file_name": "a.png", "segments_info": [
        {"id": 3226956, "category_id": 1, "iscrowd": 0}, {"id": 1, "category_id": 3}]},
        {"image_id": 8, "file_name": "b.png", "segments_info": []}]
    assert read(annotations=annotations) == {"a.jpg": [1, 0, 1], "b.jpg": [0, 0, 0]}
    annotations[1]["segments_info"] = [{"id": 1}, 3]
    assert read(annotations=annotations, skip=True)["b.jpg"] == [-1, -1, -1]


@pytest.mark.parametrize("text", ['{"images": [{"file_name": "' + "x" * 10_000 + '"}]}',
                                  '{"images": [' + "[]," * 500 + "0]}"])
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    monkeypatch.setattr(json_sources, "available_memory", lambda: 19_000)
    with pytest.raises(InputError) as caught:
        read_coco(path, BadInput(skip=True))
    assert "memory" in caught.value.what and caught.value.file == path


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        read_coco(str(tmp_path), BadInput(skip=False))
    assert caught.value.file == str(tmp_path)


def test_a_byte_order_mark_is_no_fault(read):
    assert read(encoding="utf-8-sig") == read()
