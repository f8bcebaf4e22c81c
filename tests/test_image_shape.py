"""--image-shape auto: the shape that suits the images."""
import cv2
import numpy as np
import pytest
from conftest import script, training_flags
from hypothesis import given
from hypothesis import strategies as st

from network import checkpoint
from reading.image_shape import best_shape


@pytest.mark.parametrize("size, area, shape", [
    ((550, 825), 480 * 320, [3, 480, 320]),  # street photos
    ((640, 480), 480 * 320, [3, 352, 448]),
    ((4000, 3000), 224 * 224, [3, 192, 256]),
    ((100, 100), 480 * 320, [3, 96, 96]),  # never larger than the images
    ((20, 20), 480 * 320, [3, 32, 32]),
    ((3000, 60), 480 * 320, [3, 32, 1632])])
def test_shapes_of_usual_images(size, area, shape):
    assert best_shape(*size, area) == shape


@given(st.integers(32, 5000), st.integers(32, 5000), st.integers(1024, 10**6))
def test_the_shape_is_in_multiples_of_32_within_the_image(width, height, area):
    _, rows, columns = best_shape(width, height, area)
    assert rows % 32 == 0 and columns % 32 == 0 and rows <= height and columns <= width
    if 200 < width < 3 * height < 9 * width and area > 10**5:
        assert rows * columns <= 1.5 * area
        assert 0.7 < (rows / columns) / (height / width) < 1.4


@pytest.mark.slow
def test_training_takes_the_shape_of_its_images(tiny_network, small_demo, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for file in (small_demo / "images").iterdir():
        image = cv2.imread(str(file))
        cv2.imwrite(str(images / file.name), cv2.resize(image, (100, 70)))
    text = script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path / "result", image_train=images, image_val=images,
        image_shape="auto", squash=True, num_epoch=1))
    assert ("Image shape 3,64,96 (height, width): for training images of 100x70 pixels in the "
            "median") in text
    symbol, *_ = checkpoint.load(str(tmp_path / "result" / "tiny"), 1)
    assert checkpoint.get_attributes(symbol)["image_shape"] == [3, 64, 96]
    table = script("predict_multilabel.py", "--model", tmp_path / "result" / "tiny", "--epoch", 1,
                   images)
    assert np.isfinite([float(cell) for cell in table.splitlines()[1].split(",")[1:9]]).all()
