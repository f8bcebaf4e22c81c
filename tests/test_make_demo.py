
import cv2
import make_demo
import numpy as np
import pytest
from conftest import expect_error

NUM_TRAIN, NUM_VAL = 240, 80


def draw_set(out, num_train=6, num_val=3, seed=0):
    make_demo.main(["--out", str(out), "--num-train", str(num_train),
                    "--num-val", str(num_val), "--seed", str(seed)])
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def read_split(folder, split):
    """Pictures and labels as a reader of the .lst finds them."""
    rows = [line.split("\t") for line in (folder / f"{split}.lst").read_text().splitlines()]
    pictures = [cv2.imread(str(folder / "images" / row[-1])) for row in rows]
    return rows, pictures, np.array([[float(v) for v in row[1:-1]] for row in rows])


def mean_average_precision(labels, scores):
    values = []
    for truth, score in zip(labels.T, scores.T):
        hit = truth[np.argsort(-score, kind="stable")]
        values.append((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit == 1].mean())
    return np.mean(values)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    draw_set(folder, NUM_TRAIN, NUM_VAL)
    return folder


def test_every_row_has_an_id_eight_labels_and_a_picture(demo):
    assert len((demo / "labels.txt").read_text().split()) == 8
    for split, count in [("train", NUM_TRAIN), ("val", NUM_VAL)]:
        rows, pictures, labels = read_split(demo, split)
        assert [row[0] for row in rows] == [str(i) for i in range(count)]
        assert {v for row in rows for v in row[1:-1]} == {"0.000000", "1.000000"}
        assert labels.shape == (count, 8)
        assert len({row[-1] for row in rows}) == count
        assert all(160 <= side <= 400 for p in pictures for side in p.shape[:2])
        assert any(p.shape[0] > p.shape[1] for p in pictures)
        assert any(p.shape[0] < p.shape[1] for p in pictures)


def test_classes_differ_in_frequency_and_some_occur_together(demo):
    labels = read_split(demo, "train")[2]
    share = dict(zip(make_demo.CLASSES, labels.mean(axis=0)))
    assert all(0.07 < s < 0.65 for s in share.values())
    assert share["ring"] > 2 * share["checkerboard"]
    per_image = labels.sum(axis=1)
    assert per_image.min() == 0 and per_image.max() == 5 and 2 < per_image.mean() < 3
    star, spiral = (labels[:, list(make_demo.CLASSES).index(k)] for k in ("star", "spiral"))
    assert (star * spiral).mean() > 1.2 * star.mean() * spiral.mean()


def test_the_same_seed_draws_the_same_bytes_and_another_seed_does_not(tmp_path):
    first = draw_set(tmp_path / "a")
    assert draw_set(tmp_path / "b") == first
    assert draw_set(tmp_path / "c", seed=1)["images/train_00000.jpg"] != \
        first["images/train_00000.jpg"]


def test_validation_set_does_not_depend_on_the_number_of_training_images(tmp_path):
    few, more = draw_set(tmp_path / "few"), draw_set(tmp_path / "more", num_train=9)
    validation = [name for name in few if "val" in name]
    assert len(validation) == 1 + 3
    assert all(few[name] == more[name] for name in validation)
    assert few["images/train_00005.jpg"] == more["images/train_00005.jpg"]


def test_most_of_every_labelled_shape_can_be_seen():
    for seed in range(40):
        placed = make_demo.arrange(np.random.default_rng(seed), list(make_demo.CLASSES), 200, 170)
        assert len(placed) >= 3
        for i, (kind, cover, whole) in enumerate(placed):
            seen = cover > 127
            for _, above, _ in placed[i + 1:]:
                seen &= above <= 127
            assert 255 * seen.sum() > 0.55 * whole, (seed, kind)


@pytest.mark.parametrize("kind", make_demo.CLASSES)
def test_a_shape_beyond_the_edge_counts_as_unseen_there(kind):
    rng, shares = np.random.default_rng(0), []
    for _ in range(100):
        cover, whole = make_demo.place(rng, kind, 160, 160)
        shares.append(cover.sum() / whole)
    assert min(shares) < 0.9 and max(shares) == 1


def test_labels_name_the_shapes_that_are_painted(monkeypatch):
    monkeypatch.setattr(make_demo, "choose_classes", lambda rng: ["spiral"])
    assert make_demo.draw(np.random.default_rng(0))[1] == {"spiral"}
    monkeypatch.setattr(make_demo, "choose_classes", lambda rng: [])
    empty, seen = make_demo.draw(np.random.default_rng(0))
    assert seen == set() and empty.std() > 5


@pytest.mark.parametrize("side", [1, 8])
def test_thumbnails_do_not_give_the_labels_away(demo, side):
    def load(split):
        _, pictures, labels = read_split(demo, split)
        small = [cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in pictures]
        return np.array(small).reshape(len(small), -1) / 255 - 0.5, labels

    (x, y), (val_x, val_y) = load("train"), load("val")
    centre = x.mean(axis=0)
    ridge = (x - centre).T @ (x - centre) + 10 * np.eye(x.shape[1])
    scores = (val_x - centre) @ np.linalg.solve(ridge, (x - centre).T @ (y - y.mean(axis=0)))
    assert mean_average_precision(val_y, scores) < val_y.mean() + 0.12


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with expect_error(file=tmp_path, flag="--out"):
        draw_set(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def stop(rng):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(make_demo, "draw", stop)
        with pytest.raises(KeyboardInterrupt):
            draw_set(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    assert len(draw_set(tmp_path / "data")) == 6 + 3 + 3


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with expect_error(file=tmp_path / "file" / "data"):
        draw_set(tmp_path / "file" / "data")
    with expect_error(file=tmp_path / "file", flag="--out"):
        draw_set(tmp_path / "file")


def test_counts_below_one_are_refused(tmp_path):
    with expect_error(flag="--num-val"):
        draw_set(tmp_path / "data", num_val=0)
