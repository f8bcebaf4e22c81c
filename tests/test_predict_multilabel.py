"""predict_multilabel.py as a command, on a small checkpoint and small pictures."""
import csv
import io
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import Forked, script, training_flags

from common.cli import InputError, run
from common.mx_compat import mx
from evaluation.classifier import Classifier
from evaluation.evaluation import Evaluation
from evaluation.predictions_file import PredictionsFile
from lst_iter import LstIter
from network import checkpoint
from predict_multilabel import main
from reading.image_list import ImageList
from reading.lst_file import read_lst
from reading.read_options import ReadOptions
from train_multilabel import get_fine_tune_model

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = ["red", "green, light", 'blue "sea"']
COUNT = 23


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of pictures, val.lst and one label unknown; the labels follow the colours."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    rows = []
    for number in range(COUNT):
        colour = rng.randint(0, 256, 3)
        image = np.clip(colour + rng.randint(-40, 40, (40, 30 + number, 3)), 0, 255)
        cv2.imwrite(str(folder / f"{number:02d}.png"), image[:, :, ::-1].astype(np.uint8))
        labels = [-1 if number == 4 and c == 1 else int(colour[c] > 128) for c in range(3)]
        rows.append("\t".join(map(str, [number, *labels, f"{number:02d}.png"])))
    (folder / "val.lst").write_text("\n".join(rows) + "\n")
    return folder


def small_checkpoint(prefix, dtype="float32", **attributes):
    """A network of one convolution at 32x32, fine-tuned to nothing: random weights."""
    net, constants = checkpoint.normalised_data((127,) * 3, (128,) * 3, dtype)
    net = mx.sym.Convolution(net, num_filter=8, kernel=(3, 3), stride=(2, 2), name="conv")
    net = mx.sym.Flatten(mx.sym.Activation(net, act_type="relu"), name="flatten0")
    net = mx.sym.FullyConnected(net, num_hidden=5, name="fc1")
    net = checkpoint.set_attributes(net, image_shape=[3, 32, 32])
    net, _ = get_fine_tune_model(net, {}, len(NAMES), dtype=dtype)
    net = checkpoint.set_attributes(
        net, **{"class_names": NAMES, "image_shape": [3, 32, 32], "fit": "squash", **attributes})
    rng = np.random.RandomState(1)
    shapes, _, _ = net.infer_shape(data=(1, 3, 32, 32))
    params = {name: mx.nd.array(rng.normal(0, 0.06, shape)).astype(
        dtype if name.startswith("conv") else "float32")
        for name, shape in zip(net.list_arguments(), shapes) if "_" in name}
    checkpoint.save(str(prefix), 2, net, {**params, **constants}, {})
    return str(prefix)


@pytest.fixture
def model(tmp_path):
    return small_checkpoint(tmp_path / "small")


def test_transparent_images_are_put_on_the_background_of_the_checkpoint(tmp_path):
    pixels = np.full((32, 32, 4), 200, np.uint8)
    pixels[:, :, 3] = 0  # all of it is transparent
    cv2.imwrite(str(tmp_path / "clear.png"), pixels)
    for name, said, colour in (("a", {"background": [9, 60, 240]}, [9, 60, 240]),
                               ("b", {}, [255] * 3)):
        classifier = Classifier(small_checkpoint(tmp_path / name, **said), 2)
        with classifier.open(ImageList([str(tmp_path / "clear.png")], len(NAMES))) as batches:
            data = batches.next().data[0].asnumpy()
        assert (data[0].transpose(1, 2, 0) == colour).all()


@pytest.fixture
def predict(capsys):
    """Runs the script in this process: its standard output and standard error."""
    def predict(*args, status=0):
        capsys.readouterr()
        assert main([*map(str, args), "--gpus", ""]) == status
        return capsys.readouterr()
    return predict


@pytest.fixture
def refused(capsys):
    """The same for a person's mistake: the one line on standard error."""
    def refused(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run(main, [*map(str, args), "--gpus", ""])
        out, err = capsys.readouterr()
        assert end.value.code == 2 and out == "" and err.count("\n") == 1
        return err
    return refused


def by_hand(prefix, pixels):
    """Probabilities of the network, without anything of the code under test."""
    net, args, aux = checkpoint.load(prefix, 2)
    module = mx.mod.Module(net, label_names=["softmax_label"])
    module.bind([mx.io.DataDesc("data", pixels.shape, np.uint8)],
                [mx.io.DataDesc("softmax_label", (len(pixels), len(NAMES)))], for_training=False)
    module.set_params(args, aux)
    module.forward(mx.io.DataBatch([mx.nd.array(pixels, dtype=np.uint8)]), is_train=False)
    return module.get_outputs()[0].asnumpy()


def validation_pixels(photos):
    """What training validates on: the same images through LstIter as validation opens it."""
    with LstIter(COUNT, (3, 32, 32), str(photos / "val.lst"), str(photos),
                 read_options=ReadOptions(fit="squash")) as batches:
        return batches.next().data[0].asnumpy()


@pytest.mark.smoke
def test_csv_has_the_probabilities_of_the_network_on_validations_pixels(model, photos):
    done = Forked("predict_multilabel.py", "--model", model, "--epoch", 2, "--data",
                  photos / "val.lst", "--image", photos, "--batch-size", 5)
    assert done.wait() == 0, done.err
    head, *rows = csv.reader(io.StringIO(done.out))
    assert head == ["name", *NAMES, "error"]
    assert [row[0] for row in rows] == [f"{n:02d}.png" for n in range(COUNT)]
    got = np.array([row[1:4] for row in rows], float)
    np.testing.assert_allclose(got, by_hand(model, validation_pixels(photos)), atol=2e-6)
    assert {row[4] for row in rows} == {""}


def test_float16_checkpoint_computes_on_the_cpu_too(predict, tmp_path, model, photos):
    half = small_checkpoint(tmp_path / "half", "float16")
    assert checkpoint.load(half, 2)[1]["conv_weight"].dtype == np.float16
    out, _ = predict("--model", half, "--epoch", 2, photos)
    got = np.array([row[1:4] for row in list(csv.reader(io.StringIO(out)))[1:]], float)
    np.testing.assert_allclose(got, by_hand(model, validation_pixels(photos)), atol=2e-3)


def test_tta_averages_with_the_mirror_image(model, photos):
    pixels = validation_pixels(photos)
    expected = (by_hand(model, pixels) + by_hand(model, pixels[..., ::-1])) / 2
    classifier = Classifier(model, 2)
    with classifier.open(ImageList([str(photos)], 3), batch_size=8) as batches:
        got = np.concatenate([
            p for _, p, _ in classifier.predict(batches, [mx.cpu()], mirror=True)])
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_bad_images_get_a_row_and_status_1_and_the_rest_is_done(predict, model, photos, tmp_path):
    (tmp_path / "bad.jpg").write_text("not an image")
    good = photos / "03.png"
    args = ("--model", model, "--epoch", 2, tmp_path / "bad.jpg", good, tmp_path / "none.jpg")
    out, err = predict(*args, status=1)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [bool(row["error"]) for row in rows] == [True, False, True]
    assert rows[0]["red"] == "" and float(rows[1]["red"]) > 0
    assert rows[2]["error"] == "no such file or directory"
    assert "2 of 3 images could not be used" in err
    out, _ = predict(*args, "--format", "jsonl", status=1)
    assert [sorted(json.loads(line)) for line in out.splitlines()] == [
        ["error", "name"], ["labels", "name", "probabilities"], ["error", "name"]]


def test_bad_images_of_a_lst_count_in_no_measure(predict, model, photos, tmp_path):
    text = (photos / "val.lst").read_text()
    (tmp_path / "val.lst").write_text(text + "99\t1\t1\t1\tnone.png\n")
    for name, status in ((photos / "val.lst", 0), (tmp_path / "val.lst", 1)):
        predict("--model", model, "--epoch", 2, "--data", name, "--image", photos,
                "--measures", tmp_path / f"{status}.json", "--out", os.devnull, status=status)
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()


def test_measures_are_those_of_the_evaluation(predict, model, photos, tmp_path):
    predict("--model", model, "--epoch", 2, "--data", photos / "val.lst", "--image", photos,
            "--measures", tmp_path / "new" / "m.json", "--out", tmp_path / "out.csv")
    label = read_lst(str(photos / "val.lst")).labels(range(COUNT))
    evaluation = Evaluation(NAMES, label, by_hand(model, validation_pixels(photos)))
    measures = json.loads((tmp_path / "new" / "m.json").read_text())
    assert measures["mAP"] == pytest.approx(evaluation.mean_average_precision)
    assert measures["decisions"]["top-3"] == pytest.approx(evaluation.overall["top-3"])
    assert [c["class"] for c in measures["classes"]] == NAMES
    assert len((tmp_path / "out.csv").read_text().splitlines()) == COUNT + 1


def test_fitted_thresholds_are_kept_in_the_checkpoint_and_decide(predict, model, photos):
    common = ("--model", model, "--epoch", 2)
    before = set(os.listdir(os.path.dirname(model)))
    out, err = predict(*common, "--data", photos / "val.lst", "--image", photos,
                       "--fit-thresholds")
    assert "> chosen" in err and out == ""
    assert set(os.listdir(os.path.dirname(model))) == before
    attributes = checkpoint.get_attributes(checkpoint.load(model, 2)[0])
    thresholds = np.array(attributes["thresholds"])
    assert attributes["thresholds_epoch"] == 2 and attributes["class_names"] == NAMES
    prob = by_hand(model, validation_pixels(photos))
    out, _ = predict(*common, photos, "--format", "jsonl")
    assert [json.loads(line)["labels"] for line in out.splitlines()] == [
        [NAMES[c] for c in np.flatnonzero(row > thresholds)] for row in prob]
    out, _ = predict(*common, photos, "--above", "thresholds")
    rows = [row for row in csv.DictReader(io.StringIO(out)) if row["class"]]
    assert len(rows) == (prob > thresholds).sum()


def test_the_list_that_thresholds_were_fitted_on_is_known_again(predict, model, photos, tmp_path):
    flags = ("--model", model, "--epoch", 2, "--image", photos)
    _, err = predict(*flags, "--data", photos / "val.lst", "--fit-thresholds")
    assert "folds" in err
    shutil.copy(photos / "val.lst", tmp_path / "renamed.lst")
    assert "folds" in predict(*flags, "--data", tmp_path / "renamed.lst")[1]
    text = (photos / "val.lst").read_text()
    (tmp_path / "other.lst").write_text(text[:text.rindex("\n", 0, -1) + 1])
    assert "folds" not in predict(*flags, "--data", tmp_path / "other.lst")[1]
    assert checkpoint.get_attributes(checkpoint.load(model, 2)[0])["thresholds_list"][0] == (
        "val.lst")


def test_a_workers_part_of_the_list_that_thresholds_were_chosen_on_is_known(predict, photos,
                                                                            tmp_path):
    part = "f" * 32 + " " + read_lst(str(photos / "val.lst")).checksum
    model = small_checkpoint(tmp_path / "net", thresholds=[0.4, 0.4, 0.4], thresholds_epoch=2,
                             thresholds_list=["val_0.lst", part], training_list=["x_0.lst", part])
    _, err = predict("--model", model, "--epoch", 2, "--data", photos / "val.lst", "--image",
                     photos, "--out", os.devnull)
    assert "folds" in err and "trained on all of these images" in err


def test_another_list_of_the_training_lists_name_is_passed_over(predict, photos, tmp_path):
    model = small_checkpoint(tmp_path / "net", training_list=["train.lst", "f" * 32])
    shutil.copy(photos / "val.lst", tmp_path)
    (tmp_path / "train.lst").write_text("1\t1\t0\tof_two_classes.png\n")
    _, err = predict("--model", model, "--epoch", 2, "--data", tmp_path / "val.lst", "--image",
                     photos, "--out", os.devnull)
    assert "trained on" not in err


def test_a_threshold_of_the_command_line_decides_in_place_of_the_checkpoints(
        predict, model, photos, tmp_path):
    common = ("--model", model, "--epoch", 2, "--data", photos / "val.lst", "--image", photos)
    predict(*common, "--fit-thresholds", "--threshold-objective", "of1")
    assert len(set(Classifier(model, 2).thresholds)) == 1
    rules = {}
    for above in ("thresholds", "0.5", "0.3"):
        measures = tmp_path / f"{above}.json"
        predict(*common, "--above", above, "--measures", measures, "--out", os.devnull)
        rules[above] = json.loads(measures.read_text())
    assert [rules[above]["rule"] for above in rules] == ["chosen", "0.5", "chosen"]
    assert [rules[above]["fitted_on_these_images"] for above in rules] == [True, False, False]
    assert {c["threshold"] for c in rules["0.3"]["classes"]} == {0.3}


def test_above_thresholds_needs_thresholds(refused, model, photos):
    assert "small-symbol.json: has none" in refused("--model", model, "--epoch", 2, photos,
                                                   "--above", "thresholds")


def test_full_decode_reads_as_the_checkpoint_says_or_as_asked(model, tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (300, 300, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), noise)
    images = ImageList([str(tmp_path / "a.jpg")], len(NAMES))

    def pixels(prefix, **options):
        with Classifier(prefix, 2).open(images, **options) as batches:
            return batches.next().data[0].asnumpy()

    full = small_checkpoint(tmp_path / "full", full_decode=True)
    assert np.array_equal(pixels(full), pixels(model, full_decode=True))
    assert not np.array_equal(pixels(full), pixels(model))


def test_class_without_labels_is_never_predicted_at_a_precision_and_warned_of(
        predict, model, photos, tmp_path):
    rows = [line.split("\t") for line in (photos / "val.lst").read_text().splitlines()]
    (tmp_path / "val.lst").write_text("".join(
        "\t".join([row[0], row[1], "0", *row[3:]]) + "\n" for row in rows))
    _, err = predict("--model", model, "--epoch", 2, "--data", tmp_path / "val.lst", "--image",
                     photos, "--fit-thresholds", "--min-precision", 0.9)
    assert "green, light: no present label to choose a threshold by" in err
    classifier = Classifier(model, 2)
    assert classifier.thresholds[1] == 1
    assert classifier.thresholds_objective == "precision 0.900000"


def test_thresholds_of_another_epoch_are_warned_of(predict, model, photos):
    predict("--model", model, "--epoch", 2, "--data", photos / "val.lst", "--image", photos,
            "--fit-thresholds")
    shutil.copy(f"{model}-0002.params", f"{model}-0003.params")
    _, err = predict("--model", model, "--epoch", 3, photos / "01.png")
    assert "the thresholds were chosen for --epoch 2" in err


def test_short_forms():
    prob = np.float32([0.25, 0.75, 0.5])

    def written(threshold=0.5, **options):
        file = io.StringIO()
        out = PredictionsFile(file, ["a", "b", "c"], np.full(3, threshold), **options)
        out.write("x.jpg", prob)
        out.write("y.jpg", None, "gone")
        return file.getvalue().splitlines()

    assert written(top=2) == ["name,class,probability,predicted,error", "x.jpg,b,0.75,1,",
                              "x.jpg,c,0.5,0,", "y.jpg,,,,gone"]
    assert written(0.9, above=True)[1] == "x.jpg,,,,"
    assert written(0.3, above=True, top=1)[1:2] == ["x.jpg,b,0.75,1,"]
    assert json.loads(written(file_format="jsonl", top=2)[0]) == {
        "name": "x.jpg", "labels": [{"class": "b", "probability": 0.75, "predicted": True},
                                    {"class": "c", "probability": 0.5, "predicted": False}]}


def test_the_most_probable_classes_are_marked_by_thresholds(predict, photos, tmp_path):
    """By the checkpoint's, and by --above P where that is given."""
    model = small_checkpoint(tmp_path / "net", thresholds=[0.0, 1.0, 1.0], thresholds_epoch=2)
    for flags, expected in ((), ["0", "0", "1"]), (("--above", 0), ["1", "1", "1"]):
        out, _ = predict("--model", model, "--epoch", 2, photos / "01.png", "--top", 3, *flags)
        rows = sorted(csv.DictReader(io.StringIO(out)), key=lambda row: row["class"])
        assert [row["class"] for row in rows] == sorted(NAMES)
        assert [row["predicted"] for row in rows] == expected


@pytest.mark.parametrize("names", [["a", "b", "a"], ["error", "error (class)"]])
def test_class_names_that_occur_twice_are_refused(names):
    with pytest.raises(InputError, match="two of its classes the same name"):
        PredictionsFile(io.StringIO(), names, np.full(len(names), 0.5))


def test_classes_called_like_the_tables_own_columns_stay_apart():
    file = io.StringIO()
    out = PredictionsFile(file, ["name", "error", "class"], np.full(3, 0.5))
    out.write("x.jpg", np.float32([0.25, 0.75, 0.5]))
    row, = csv.DictReader(io.StringIO(file.getvalue()))
    assert row == {"name": "x.jpg", "name (class)": "0.25", "error (class)": "0.75",
                   "class": "0.5", "error": ""}


def test_names_that_are_not_utf_8_are_written_readably(predict, model, photos, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    shutil.copy(os.fsencode(photos / "01.png"), name)
    out, _ = predict("--model", model, "--epoch", 2, tmp_path, "--top", 1)
    assert out.splitlines()[1].startswith(os.path.join(str(tmp_path), "caf\\xe9.png"))


def test_folders_are_gone_through_in_order_and_hidden_files_left_out(photos, tmp_path):
    for name in ("b.JPG", "a.png", ".c.png", "notes.txt", "sub/d.webp", ".git/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = ImageList([str(tmp_path), "other"], 3)
    names = [os.path.relpath(images.name(row), tmp_path) for row in range(3)]
    assert names == ["a.png", "b.JPG", os.path.join("sub", "d.webp")]
    assert images.name(3) == "other" and len(images) == 4
    assert (images.labels([0, 3]) == -1).all()


def test_batches_are_no_larger_than_needed(model, photos):
    classifier = Classifier(model, 2)
    with classifier.open(ImageList([str(photos)], 3), batch_size=20) as batches:
        assert [batch.pad for batch in batches] == [0, 1]


def test_probabilities_that_are_no_numbers_name_the_checkpoint(model, photos, tmp_path):
    net, args, aux = checkpoint.load(model, 2)
    args["fc_bias"] += float("nan")
    checkpoint.save(model, 3, net, args, aux)
    with pytest.raises(InputError, match="small-0003.params: the network's output is NaN"):
        main(["--model", model, "--epoch", "3", "--gpus", "", str(photos), "--out",
              str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()


def test_prediction_draws_a_batch_when_one_is_asked_for(model, photos, monkeypatch):
    classifier = Classifier(model, 2)
    with classifier.open(ImageList([str(photos)], 3), batch_size=4) as batches:
        drawn, draw = [], batches.next
        monkeypatch.setattr(batches, "next", lambda: drawn.append(None) or draw())
        for number, _ in enumerate(classifier.predict(batches, [mx.cpu()])):
            assert len(drawn) <= number + 2  # the one after is computed meanwhile
    assert number == 5 and len(drawn) == 7


def test_output_appears_whole_or_not_at_all(predict, refused, model, photos, tmp_path):
    (tmp_path / "out.csv").write_text("old")
    predict("--model", model, "--epoch", 2, photos, "--out", tmp_path / "out.csv")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == COUNT + 1
    for name, says in (("no/o.csv", "cannot be written"), (".", "the name of a file")):
        assert says in refused(
            "--model", model, "--epoch", 2, photos, "--out", tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="the system has no /dev/fd")
def test_output_goes_into_pipes(model, photos):
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, "predict_multilabel.py"), "--model", model, "--epoch",
         "2", str(photos), "--out", "/dev/stdout"], stdout=subprocess.PIPE, encoding="utf-8",
        check=True)
    assert len(done.stdout.splitlines()) == COUNT + 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_full_disk_ends_in_one_line(refused, model, photos):
    assert "/dev/full: cannot be written: no space left" in refused(
        "--model", model, "--epoch", 2, photos, "--out", "/dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, os.path.join(ROOT, "predict_multilabel.py"), "--model", model,
             "--epoch", "2", str(photos)], stdout=full, stderr=subprocess.PIPE, encoding="utf-8",
            check=False)
    assert done.returncode == 2 and "standard output: cannot be written" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("flags, words", [
    ([], "one of the two"), (["x.png", "--data", "val.lst"], "one of the two"),
    (["x.png", "--report", "r"], "--report goes with --data"),
    (["x.png", "--fit-thresholds"], "--fit-thresholds goes with --data"),
    (["x.png", "--min-precision", "0.9"], "goes with"),
    (["x.png", "--threshold-objective", "of1"], "--threshold-objective goes with"),
    (["--data", "v.lst", "--fit-thresholds", "--threshold-objective", "precision"],
     "--min-precision goes with --threshold-objective precision"),
    (["--data", "v.lst", "--fit-thresholds", "--above", "0.5"], "--above is for predictions"),
    (["--data", "v.lst", "--fit-thresholds", "--out", "o.csv"], "--out is for predictions"),
    (["--data", "v.lst", "--fit-thresholds", "--top", "1"], "--top is for predictions"),
    (["x.png", "--above", "much"], "--above: invalid"), (["x.png", "--above", "nan"], "0 to 1"),
    (["x.png", "--above", "2"], "0 to 1"), (["x.png", "--image", "photos"], "--image goes with"),
    (["x.png", "--top", "0"], "--top: must be 1 or more"),
    (["x.png", "--no-such-flag"], "--no-such-flag"), (["x.png"], "m-symbol.json: no such file"),
    (["--data", "v.lst", "--fit-thresholds", "--min-precision", "2"], "0 to 1")])
def test_mistakes_in_flags_end_in_one_line(refused, flags, words):
    assert words in refused("--model", "m", *flags)


def test_images_that_do_not_fit_end_in_one_line(refused, model, photos, tmp_path):
    (tmp_path / "two.lst").write_text("0\t1\t0\t00.png\n")
    assert "two.lst:1: 2 labels, but the checkpoint's number of classes is 3" in refused(
        "--model", model, "--epoch", 2, "--data", tmp_path / "two.lst", "--image", photos)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused("--model", model, "--epoch", 2, tmp_path / "empty")


def test_images_that_are_all_elsewhere_are_one_mistake(refused, model, photos, tmp_path):
    for where in ((), ("--image", tmp_path)):
        assert "00.png and all others are not in" in refused(
            "--model", model, "--epoch", 2, "--data", photos / "val.lst", *where)


def test_networks_that_cannot_predict_end_in_one_line(refused, photos, tmp_path):
    plain = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc")
    weights = {"fc_weight": mx.nd.zeros((2, 3)), "fc_bias": mx.nd.zeros(2)}
    checkpoint.save(str(tmp_path / "plain"), 2, plain, weights, {})
    net, constants = checkpoint.normalised_data((127,) * 3, (128,) * 3)
    checkpoint.save(str(tmp_path / "loss"), 2, mx.sym.SoftmaxOutput(
        mx.sym.Flatten(net), name="softmax"), constants, {})
    small_checkpoint(tmp_path / "wrong", thresholds=[0.5])
    for name, words in (("plain", "does not normalise"), ("loss", "that wants softmax_label"),
                        ("wrong", "1 thresholds, but the network has 3 classes")):
        assert words in refused("--model", tmp_path / name, "--epoch", 2, photos)


def test_names_with_escape_sequences_reach_no_terminal(model, photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photos / "01.png", folder / "a\x1b[31m\u202egnp.png")
    (folder / "b\x9b31m.png").write_text("no image")
    (folder / "c\nforged,1,1,1,.png").write_text("no image")
    try:
        reader, terminal = os.openpty()
    except OSError:
        pytest.skip("the system has no pseudo-terminals")
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, "predict_multilabel.py"), "--model", model,
         "--epoch", "2", folder], stdout=terminal, stderr=subprocess.DEVNULL, check=False)
    os.close(terminal)
    shown = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert done.returncode == 1 and r"a\x1b[31m\u202egnp.png" in shown
    assert len(shown.splitlines()) == 4 and not set("\x1b\x9b\u202e") & set(shown)


@pytest.mark.parametrize("data, said", [
    pytest.param("train.lst", "trained on all of these images (train.lst)",
                 marks=pytest.mark.slow),
    ("some.lst", "trained on 3 of 23 of these images (train.lst)"),
    pytest.param("val.lst", None, marks=pytest.mark.slow)])
def test_images_that_the_network_was_trained_on_are_told(
        data, said, tiny_network, small_demo, tmp_path):
    for name in ("train.lst", "val.lst"):
        shutil.copy(small_demo / name, tmp_path)
    shared = (small_demo / "train.lst").read_text().splitlines(True)[:3]
    (tmp_path / "some.lst").write_text((small_demo / "val.lst").read_text() + "".join(shared))
    script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, num_epoch=1, data_val=None, image_val=None,
        data_train=tmp_path / "train.lst"))
    text = script("predict_multilabel.py", "--model", tmp_path / "tiny", "--epoch", 1,
                  "--data", tmp_path / data, "--image", small_demo / "images",
                  "--out", tmp_path / "out.csv")
    assert said in text if said else "trained on" not in text


def test_int8_predicts_nearly_the_same_and_says_how_nearly(photos, model, tmp_path):
    prob, told = {}, {}
    for precision in ("float32", "int8"):
        out = tmp_path / f"{precision}.csv"
        told[precision] = script("predict_multilabel.py", "--model", model, "--epoch", 2,
                                 photos, "--precision", precision, "--out", out)
        prob[precision] = np.array([[float(row[name]) for name in NAMES]
                                    for row in csv.DictReader(io.StringIO(out.read_text()))])
    difference = np.abs(prob["int8"] - prob["float32"])
    assert 0 < difference.max() < 0.1
    assert f"differ from float32's by {difference.max():.3f} at most" in told["int8"]
    assert "int8" not in told["float32"]


def test_a_folder_as_model_is_answered_by_a_checkpoint_in_it(refused, model, photos, tmp_path):
    assert f"--model takes a checkpoint's path before -symbol.json, such as {model}" in (
        refused("--model", tmp_path, photos))
