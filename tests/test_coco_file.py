import json

import pytest

from common.cli import InputError
from datasets import coco_file
from datasets.coco_file import read_coco
from datasets.label_table import BadInput


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
def test_a_file_is_read_alike_whatever_the_blocks(tmp_path, monkeypatch, size):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({
        "annotations": [{"image_id": n % 3, "category_id": n % 2} for n in range(20)],
        "info": {"images": [1, 2]}, "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(4)]}))
    monkeypatch.setattr(coco_file, "BLOCK_BYTES", size)
    source = read_coco(path, BadInput(skip=False))
    assert source.classes == ["a", "b"]
    assert [(sample.name, set(sample.present)) for sample in source.samples] == [
        ("0.jpg", {"a", "b"}), ("1.jpg", {"a", "b"}), ("2.jpg", {"a", "b"}), ("3.jpg", set())]


@pytest.mark.parametrize("text", ['{"images": [{"file_name": "' + "x" * 10_000 + '"}]}',
                                  '{"images": [{"id": [' + "1, " * 5_000 + "1]}]}"])
def test_an_item_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    monkeypatch.setattr(coco_file, "BLOCK_BYTES", 64)
    monkeypatch.setattr(coco_file, "MAX_ITEM_BYTES", 5_000)
    with pytest.raises(InputError, match="an item of more than"):
        read_coco(path, BadInput(skip=True))


def test_what_cannot_be_read_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a regular file"):
        read_coco(str(tmp_path), BadInput(skip=False))


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}],
                                "annotations": [{"image_id": 1, "category_id": 1}],
                                "categories": [{"id": 1, "name": "cat"}]}), encoding="utf-8-sig")
    assert read_coco(path, BadInput(skip=False)).classes == ["cat"]
    path.write_text("{}", encoding="utf-8-sig")
    with pytest.raises(InputError, match="holds no categories"):
        read_coco(path, BadInput(skip=False))
