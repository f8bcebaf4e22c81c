"""Flags: what a misspelt one may mean, and what --model takes; how commands end."""
import errno
import os
import subprocess
import sys

import pytest
from conftest import ROOT, expect_error

from common.cli import ArgumentParser, CheckpointPrefix, InputError, run
from common.files import atomic_file
from common.mx_compat import choose_devices, mx
from datasets.make_lst_flags import build_parser
from lst_iter import main as show
from predict_multilabel import parse_args as predict_args
from training.train_flags import parse_args as train_args

NEEDED = ["--model", "m", "--data-train", "t.lst", "--image-train", "."]


@pytest.mark.parametrize("parse, flags, meant", [
    (train_args, [*NEEDED, "--num-epochs", "3"], "--num-epochs: no such flag; did you mean "
     "--num-epoch?"),
    (train_args, [*NEEDED, "--modle", "m"], "did you mean --model?"),
    (train_args, [*NEEDED, "--num-ep", "3"], "did you mean --num-epoch?"),
    (train_args, [*NEEDED, "--warm", "3"], "did you mean --warm-head-epochs?"),
    (predict_args, ["--modle", "m", "a.jpg"], "did you mean --model?"),
    (train_args, [*NEEDED, "--epochs", "3"], "did you mean --num-epoch?"),
    (train_args, [*NEEDED, "--learning-rate=1"], "did you mean --lr?"),
    (predict_args, ["--model", "m", "--fit-treshold", "a.jpg"], "did you mean --fit-thresholds?"),
    (build_parser("").parse_args, ["csv", "a.csv", "--prefix", "b", "--min-cout=2"],
     "did you mean --min-count?"),
    (build_parser("").parse_args, ["check", "a.lst", "--path-root", "b", "--fixx"],
     "did you mean --fix?")])
def test_a_misspelt_flag_is_answered_by_the_one_it_may_mean(parse, flags, meant):
    with pytest.raises(InputError) as error:
        parse(flags)
    assert str(error.value).endswith(meant)


def test_a_flag_that_is_like_none_is_named():
    with pytest.raises(InputError, match="--xyzzy: no such flag"):
        train_args([*NEEDED, "--xyzzy"])


def test_the_flag_of_another_subcommand_is_not_offered():
    with pytest.raises(InputError, match="--path-root: no such flag; --help"):
        build_parser("").parse_args(["folders", "a", "--prefix", "b", "--path-root", "c"])


@pytest.mark.parametrize("flags, expected", [
    (["--model", "a/b-best"], ("a/b-best", 0)),
    (["--model", "a/b-symbol.json"], ("a/b", 0)),
    (["--model", "a/b-0012.params"], ("a/b", 12)),
    (["--model", "a/b-0012.params", "--epoch", "3"], ("a/b", 3)),
    (["--epoch", "3", "--model", "a/b-symbol.json"], ("a/b", 3))])
def test_model_takes_the_names_of_its_files(flags, expected):
    parser = ArgumentParser()
    parser.add_argument("--model", action=CheckpointPrefix)
    parser.add_argument("--epoch", type=int, default=0)
    args = parser.parse_args(flags)
    assert (args.model, args.epoch) == expected


def test_a_machine_without_gpus_says_so(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    with expect_error(flag="--gpus"):
        choose_devices("0")


@pytest.mark.parametrize("flags", [
    ["--min-random-area", "2"], ["--max-random-area", "2"], ["--brightness", "3"],
    ["--squash", "--max-random-aspect-ratio", "0.5"], ["--pad-square", "--min-random-area", "0.5"],
    ["--max-random-aspect-ratio", "1"], ["--resize", "-1"], ["--max-pixels", "0"],
    ["--background", "0,0,256"], ["--background", "0,0"], ["--num-images", "0"],
    ["--image-shape", "3,a,b"], ["--image-shape", "1,2,3"], ["--data-nthreads", "0"],
    ["--random-crop", "2"], ["--label-format", "csv"]])
def test_errors_name_the_flag(tmp_path, flags):
    (tmp_path / "a.lst").write_text("0\t1\tx.png\n")
    with expect_error(flag=flags[0]):
        show([str(tmp_path / "a.lst"), "--show", "x.png", *flags])


@pytest.mark.parametrize("number, status", [
    (errno.EIO, 75), (errno.ESTALE, 75), (errno.ENOSPC, 2), (errno.EACCES, 2), (errno.ENOENT, 2)])
def test_a_fault_of_the_machine_that_may_pass_is_no_mistake(number, status, tmp_path, monkeypatch,
                                                            capsys):
    def fsync(handle):
        raise OSError(number, os.strerror(number))

    def main(argv):
        with atomic_file(tmp_path / "result"):
            pass

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == status
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("cause", [MemoryError(), RuntimeError("Failed to allocate Memory")])
def test_too_little_memory_may_pass(cause):
    def main(argv):
        try:
            raise cause
        except (MemoryError, RuntimeError):
            raise InputError("out of memory") from None

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 75


def test_a_library_for_which_no_memory_is_left_is_told_in_one_line():
    done = subprocess.run([sys.executable, "-c", """
import resource
from common.cli import run
def main(argv):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), ) * 2)
    import cv2
import numpy
run(main)
"""], cwd=ROOT, text=True, check=False, stderr=subprocess.PIPE)
    assert done.returncode == 75 and done.stderr.count("\n") == 1
    assert "error: out of memory: " in done.stderr
