"""run_train.sh as a person runs it, with variables and flags."""
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def run_train(tiny_network, small_demo, tmp_path):
    """A function from variables and flags to the status and the output of run_train.sh."""
    def run_train(*flags, **variables):
        variables = {"MODEL": tiny_network, "DATA_TRAIN": small_demo / "train.lst",
                     "IMAGE_TRAIN": small_demo / "images", "DATA_VAL": small_demo / "val.lst",
                     "IMAGE_VAL": small_demo / "images", "IMAGE_SHAPE": "3,32,32",
                     "SAVE_RESULT": tmp_path / "result", "NUM_EPOCH": 1, **variables}
        done = subprocess.run(
            ["sh", str(ROOT / "run_train.sh"), *map(str, flags)], text=True, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200,
            env={**os.environ, "PYTHON": sys.executable,
                 **{name: str(value) for name, value in variables.items()}})
        return done.returncode, done.stdout
    return run_train


@pytest.mark.smoke
def test_flags_that_have_a_variable_set_it(run_train, small_demo, tmp_path):
    other = tmp_path / "an other"
    status, text = run_train("--save-result", other, f"--save-name={'my name'}", "--seed", 3,
                             "--num-epoch", 2)
    assert status == 0, text
    assert not (tmp_path / "result").exists()
    result = json.loads((other / "my name-result.json").read_text())
    assert result["checkpoint"] == f"{other}/my name-best"
    best = result["best"]
    assert f"What it reaches: mAP {best['value']:.4f} on the validation images" in text
    assert f"random rankings {best['baseline']:.4f}" in text
    assert (other / "report" / "index.html").exists()
    conclusions = json.loads((other / "report" / "measures.json").read_text())["conclusions"]
    done = text.partition("\nDone. ")[2]
    assert conclusions and all(f"\n  {line}" in done for line in conclusions)
    page = (other / "report" / "index.html").read_text()
    assert f"<h1>my name-best, checkpoint {best['number']}</h1>" in page
    assert "chosen on val.lst" in page and "folds of these images" in page
    log = (other / "train.log").read_text()
    assert " seed=3 " in log and "num_epoch=2 " in log
    assert f"labels={small_demo}/labels.txt" in log  # beside the list
    assert "Now your own images" not in text


@pytest.mark.slow
def test_without_validation_images_there_is_no_report(run_train, tmp_path):
    status, text = run_train("--labels=", DATA_VAL="")
    assert status == 0, text
    result = json.loads((tmp_path / "result" / "multilabel-result.json").read_text())
    assert (result["epoch"], result["best"]) == (1, None)
    assert "multilabel-0001.params" in text and "What it reaches: not measured" in text
    assert not (tmp_path / "result" / "report").exists()
    assert "data_val=None" in (tmp_path / "result" / "train.log").read_text()


@pytest.mark.parametrize("times, epochs", [
    pytest.param(14, 3, marks=pytest.mark.slow), (15, 2)])
def test_many_images_are_fine_tuned_in_fewer_epochs(times, epochs, run_train, small_demo, tmp_path):
    (tmp_path / "some.lst").write_text((small_demo / "train.lst").read_text() * times)
    (tmp_path / "flags.py").write_text("import sys; print(sys.argv)")
    status, text = run_train("--test-io", DATA_TRAIN=tmp_path / "some.lst", NUM_EPOCH="",
                             SCRIPT=tmp_path / "flags.py")
    assert status == 0 and f"'--num-epoch', '{epochs}'" in text and "'--test-io'" in text, text
    assert (f"{70 * times} images: 2 epochs of fine-tuning" in text) == (epochs == 2)


@pytest.mark.slow
def test_lists_of_class_numbers_are_evaluated_as_such(run_train, small_demo, tmp_path):
    for name in ("train", "val"):
        rows = [line.split("\t") for line in (small_demo / f"{name}.lst").read_text().splitlines()]
        (tmp_path / f"{name}.lst").write_text("".join("\t".join(
            [row[0], *(str(n) for n, label in enumerate(row[1:-1]) if float(label)), row[-1]])
            + "\n" for row in rows))
    status, text = run_train("--label-format", "indices", DATA_TRAIN=tmp_path / "train.lst",
                             DATA_VAL=tmp_path / "val.lst", LABELS=small_demo / "labels.txt")
    assert status == 0, text
    assert (tmp_path / "result" / "report" / "index.html").exists()


def test_help_ends_there(run_train, tmp_path):
    status, text = run_train("--help")
    assert status == 0 and "--save-result" in text and "Done" not in text
    assert not (tmp_path / "result").exists()
