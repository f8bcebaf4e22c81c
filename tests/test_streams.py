"""Standard streams that are closed or end early, and logs: they end no run, and lose nothing."""
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, script, training_flags


def shell(text, *arguments, **options):
    """A shell's result for a command, in which "$@" are the arguments."""
    return subprocess.run(["sh", "-c", text, "sh", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, timeout=120, **options)


def test_a_reader_that_ends_early_ends_no_training(tiny_network, small_demo, tmp_path):
    done = shell('status=$1; shift; ("$@" 2>&1; echo $? >"$status") | head -3',
                 tmp_path / "status", sys.executable, "train_multilabel.py",
                 *training_flags(tiny_network, small_demo, tmp_path, num_epoch=1))
    assert len(done.stdout.splitlines()) == 3
    assert (tmp_path / "status").read_text() == "0\n"
    assert (tmp_path / "tiny-0001.params").exists()
    assert "Best: checkpoint 1" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("training, prediction", [
    ("<&- >&- 2>&-", ">&-"), pytest.param("2>&-", "2>&-", marks=pytest.mark.slow),
    pytest.param(">&-", ">&-", marks=pytest.mark.slow)])
def test_closed_streams_end_neither_training_nor_prediction(
        training, prediction, tiny_network, small_demo, tmp_path):
    done = shell(f'"$@" {training}', sys.executable, "train_multilabel.py",
                 *training_flags(tiny_network, small_demo, tmp_path, num_epoch=1))
    assert done.returncode == 0, done.stderr
    done = shell(f'"$@" {prediction}', sys.executable, "predict_multilabel.py",
                 "--model", tmp_path / "tiny-best", "--epoch", 0, "--data", small_demo / "val.lst",
                 "--image", small_demo / "images", "--out", tmp_path / "val.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "val.csv").read_text().splitlines()) == 21


def test_class_names_of_any_language_are_logged_in_a_c_locale(
        tiny_network, small_demo, tmp_path):
    names = ["größe", "犬", "кот", "d", "e", "f", "g", "h"]
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n", "utf-8")
    script("train_multilabel.py", *training_flags(
        tiny_network, small_demo, tmp_path, num_epoch=1, labels=tmp_path / "labels.txt"),
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    log = (tmp_path / "train.log").read_text("utf-8")
    assert all(re.search(rf" - [01]\.\d+ +\d+  {name}\n", log) for name in names)


@pytest.mark.parametrize("make", [
    os.mkfifo, lambda path: path.symlink_to("precious"), os.mkdir], ids=["pipe", "link", "folder"])
def test_a_log_that_is_no_file_is_refused(make, tiny_network, small_demo, tmp_path):
    (tmp_path / "precious").write_text("content")
    make(tmp_path / "train.log")
    text = script("train_multilabel.py", *training_flags(tiny_network, small_demo, tmp_path),
                  status=2)
    assert f"{tmp_path}/train.log: cannot be written" in text.splitlines()[-1]
    assert (tmp_path / "precious").read_text() == "content"
