"""Runs that are stopped, killed, or run out of disk, and go on as if nothing had happened."""
import csv
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, Forked, expect_error, script, train_all, training_flags

from common import files
from common.cli import InputError, exit_status
from common.mx_compat import mx
from network import checkpoint
from reading.lst_file import SampleList, read_lst
from training.compute import Alone
from training.resuming import load_snapshot
from training.run_files import RunFiles, RunRecord, locked, move_aside
from training.train_flags import parse_args
from training.validation import Validation

EPOCHS = 3


@pytest.fixture(scope="module")
def flags(tiny_network, small_demo):
    """A function from a folder and further flags to the arguments of one and the same run."""
    def arguments(result, **more):
        # A snapshot after each batch; momentum and a step, so that their state matters.
        return training_flags(tiny_network, small_demo, result, **{
            "num_epoch": EPOCHS, "batch_size": 8, "lr_step_epochs": "1,2", "lr_factor": 0.5,
            "checkpoint_minutes": 1e-9, **more})
    return arguments


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    result = tmp_path_factory.mktemp("undisturbed")
    script("train_multilabel.py", *flags(result, checkpoint_minutes=0))
    return result


IMPORTS = f"""
import os, resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from common.cli import run
from training.compute import Alone
from training.frozen_stages import allocate
from train_multilabel import main
from training.run import StopRequests
"""


def start(arguments):
    return Forked("train_multilabel.py", *arguments, merged=True)


def forked(code, folder):
    """A process that runs `code`, which is written to a file in `folder`."""
    (folder / "code.py").write_text(IMPORTS + textwrap.dedent(code))
    return Forked(folder / "code.py")


def wait_for(result, text, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = result / "train.log"
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{text} did not come")


def assert_same_run(result, undisturbed):
    for number in range(1, EPOCHS + 1):
        _, args, aux = checkpoint.load(str(result / "tiny"), number)
        _, expected_args, expected_aux = checkpoint.load(str(undisturbed / "tiny"), number)
        for got, expected in ((args, expected_args), (aux, expected_aux)):
            for name in expected:
                np.testing.assert_allclose(got[name].asnumpy(), expected[name].asnumpy(),
                                           atol=1e-6, rtol=0, err_msg=name)
    assert measures(result) == measures(undisturbed)
    assert not [f for f in os.listdir(result) if f.startswith(".")]


def measures(result, name="tiny"):
    with open(result / f"{name}-history.csv") as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
                for row in csv.DictReader(file)]


@pytest.mark.parametrize("number,status", [
    (signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)])
def test_a_signal_saves_and_resume_goes_on(number, status, flags, undisturbed, tmp_path):
    process = start(flags(tmp_path, checkpoint_minutes=10))
    wait_for(tmp_path, "Epoch[0] Time cost")
    time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == status
    log = (tmp_path / "train.log").read_text()
    where = re.search(r"Stopped by SIG\w+, and saved at epoch (\d+), batch (\d+)", log)
    assert where
    text = script("train_multilabel.py", *flags(tmp_path, resume=True))
    assert f"Resuming at epoch {where[1]}, batch {where[2]}" in text
    assert_same_run(tmp_path, undisturbed)


STOP_BEFORE_VALIDATION = """
import signal, sys
from common.cli import run
from training.run import Run
from train_multilabel import main
after_training = Run.after_training

def stopped_after_training(self, *args):
    if self.epoch == int(sys.argv[1]):
        self.stops.received = signal.SIGTERM
    return after_training(self, *args)

Run.after_training = stopped_after_training
run(main, sys.argv[2:])
"""


@pytest.mark.parametrize("epoch", [0, EPOCHS - 1])
@pytest.mark.slow
def test_resume_makes_up_for_a_validation_that_was_not_reached(
        epoch, flags, undisturbed, tmp_path):
    stopped = subprocess.run(
        [sys.executable, "-c", STOP_BEFORE_VALIDATION, str(epoch), *flags(tmp_path)], cwd=ROOT,
        stderr=subprocess.PIPE, text=True)
    assert stopped.returncode == 143
    assert f"saved at epoch {epoch + 1}, batch 9" in stopped.stderr
    text = script("train_multilabel.py", *flags(tmp_path, resume=True))
    assert f"Epoch {epoch + 1} of {EPOCHS}: " in text and "lready" not in text
    assert_same_run(tmp_path, undisturbed)


@pytest.fixture(scope="module")
def dropout_network(tiny_network, tmp_path_factory):
    """Prefix of the tiny network with a Dropout layer before its classifier."""
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    net = mx.sym.Dropout(sym.get_internals()["flatten0_output"], p=0.5, name="dropout0")
    net = mx.sym.FullyConnected(net, num_hidden=10, name="fc1")
    prefix = str(tmp_path_factory.mktemp("dropout") / "tiny")
    checkpoint.save(prefix, 0, net, arg_params, aux_params)
    return prefix


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "sgld", "nag"])
def test_a_resumed_run_draws_the_same_dropout(optimizer, flags, dropout_network, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = {"model": dropout_network, "optimizer": optimizer, "wd": 0.01, "resume": True}
    runs = train_all([flags(folder, num_epoch=epochs, **more)
                      for folder, epochs in ((whole, 2), (parts, 1), (parts, 2))])
    assert [status for status, _ in runs] == [0, 0, 0]
    assert "Resuming at epoch 2, batch 0" in runs[2][1]
    names = [f"tiny-{number:04d}.params" for number in (1, 2)]
    assert [(parts / name).read_bytes() for name in names] == [
        (whole / name).read_bytes() for name in names]


@pytest.mark.slow
def test_frozen_stages_stay_the_snapshots_whatever_model_is_named(
        flags, tiny_network, tmp_path):
    symbol, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    other = tmp_path / "other"
    checkpoint.save(str(other), 0, symbol, {name: value + 1 for name, value in arg_params.items()},
                    aux_params)
    options = {"freeze_stages": 1, "squash": True, "optimizer": "adam", "lr": 0.001}
    script("train_multilabel.py", *flags(tmp_path / "a", num_epoch=2, **options))
    script("train_multilabel.py", *flags(tmp_path / "b", num_epoch=1, **options))
    script("train_multilabel.py", *flags(tmp_path / "b", num_epoch=2, model=other, resume=True,
                                         **options))
    expected, got = (checkpoint.load(str(tmp_path / name / "tiny"), 2)[1] for name in "ab")
    assert np.array_equal(expected["conv0_weight"].asnumpy(), arg_params["conv0_weight"].asnumpy())
    for name, value in expected.items():
        assert np.array_equal(got[name].asnumpy(), value.asnumpy()), name


def kill_and_resume(flags, result, times):
    """Start a run again and again and kill it at a random moment after its first snapshot."""
    chance, log = random.Random(0), result / "train.log"
    kills = 0
    for _ in range(times):
        logged = log.stat().st_size if log.exists() else 0
        process = start(flags(result, resume=True))
        while process.poll() is None and not (
                log.exists() and log.stat().st_size > logged
                and (result / "tiny-resume.npz").exists()):
            time.sleep(0.005)
        try:
            process.wait(chance.uniform(0, 0.5))
            assert process.returncode == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    return kills


def test_kill_9_at_random_moments(flags, undisturbed, tmp_path):
    assert kill_and_resume(flags, tmp_path, 2)
    script("train_multilabel.py", *flags(tmp_path, resume=True))
    assert "Resuming at epoch" in (tmp_path / "train.log").read_text()
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_kill_9_twenty_times(flags, undisturbed, tmp_path):
    for attempt in range(4):
        result = tmp_path / str(attempt)
        assert kill_and_resume(flags, result, 5)
        script("train_multilabel.py", *flags(result, resume=True))
        assert_same_run(result, undisturbed)


def test_a_snapshot_cut_in_half_gives_way_to_the_one_before(flags, undisturbed, tmp_path):
    process = start(flags(tmp_path))
    wait_for(tmp_path, "Epoch[0] Time cost")
    process.kill()
    process.wait()
    newest = tmp_path / "tiny-resume.npz"
    newest.write_bytes(newest.read_bytes()[:newest.stat().st_size // 2])
    text = script("train_multilabel.py", *flags(tmp_path, resume=True))
    assert f"warning: {newest}: cut short or damaged" in text
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("make", [
    lambda path: path.write_bytes(b"PK\x03\x04 and no more"), os.mkfifo, os.mkdir])
def test_no_whole_snapshot_is_an_error(make, flags, tmp_path):
    make(tmp_path / "tiny-resume.npz")
    text = script("train_multilabel.py", *flags(tmp_path, resume=True), status=2)
    assert "cut short or damaged" in text.splitlines()[-1] and "Traceback" not in text


def test_a_snapshot_that_the_machine_cannot_read_is_not_taken_for_a_damaged_one(
        copied, monkeypatch):
    newest, previous = (copied / f"tiny-resume{end}.npz" for end in ("", "-previous"))
    newest.rename(previous)
    newest.symlink_to("/proc/self/mem")  # whose first bytes nobody may read: EIO
    monkeypatch.setattr(files, "RETRY_SECONDS", (0, 0))
    with expect_error(file=newest) as caught:
        load_snapshot(str(copied / "tiny"), Alone())
    assert "Input/output error" in str(caught.value) and exit_status(caught.value) == 75


@pytest.fixture
def copied(undisturbed, tmp_path):
    """A folder with the state of the undisturbed run."""
    for name in ("tiny-resume.npz", "tiny-history.csv"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("change,named", [
    ({"batch_size": 4}, "--batch-size was 8 when the run was saved, and is 4 now"),
    ({"lr": 0.01}, "--lr was 0.05"), ({"squash": True}, "--squash"),
    ({"layer_before_fullc": "relu0"}, "--layer-before-fullc")], ids=str)
def test_resuming_another_run_is_refused_by_name(change, named, flags, copied):
    text = script("train_multilabel.py", *flags(copied, resume=True, **change), status=2)
    assert named in text.splitlines()[-1]


def test_resume_anyway_goes_on_without_validation(flags, copied):
    text = script("train_multilabel.py", *flags(
        copied, resume_anyway=True, num_epoch=EPOCHS + 1, data_val=None, image_val=None))
    assert "Best: checkpoint" in text and (copied / f"tiny-{EPOCHS + 1:04d}.params").exists()


def test_resume_anyway_goes_on_all_the_same(flags, copied):
    text = script("train_multilabel.py", *flags(
        copied, resume_anyway=True, num_epoch=EPOCHS + 1, batch_size=4, lr=0.01))
    assert f"Resuming at epoch {EPOCHS + 1}, batch 0" in text
    assert (copied / f"tiny-{EPOCHS + 1:04d}.params").exists()


def test_resume_anyway_trains_stages_that_were_frozen(flags, tmp_path):
    done = train_all([flags(tmp_path, num_epoch=1, freeze_stages=1, squash=True),
                      flags(tmp_path, num_epoch=2, squash=True, resume_anyway=True)])
    assert [status for status, _ in done] == [0, 0], done[1][1]
    before, after = (checkpoint.load(str(tmp_path / "tiny"), number)[1]["conv0_weight"].asnumpy()
                     for number in (1, 2))
    assert not np.array_equal(before, after)


def test_another_network_is_refused(flags, copied, tiny_network):
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    # The same but for one layer more; its weights would be drawn at random.
    net = mx.sym.BatchNorm(sym.get_internals()["flatten0_output"], name="more")
    net = mx.sym.FullyConnected(net, num_hidden=10, name="fc1")
    for part in ("gamma", "beta"):
        arg_params[f"more_{part}"] = mx.nd.ones(16)
    aux_params.update({f"more_moving_{part}": mx.nd.ones(16) for part in ("mean", "var")})
    checkpoint.save(str(copied / "other"), 0, net, arg_params, aux_params)
    text = script("train_multilabel.py", *flags(copied, resume=True, model=copied / "other"),
                  status=2)
    assert "--resume: the parameter names was" in text.splitlines()[-1]


def test_another_measure_chooses_its_best_anew(flags, copied):
    text = script("train_multilabel.py", *flags(
        copied, resume=True, num_epoch=EPOCHS + 1, monitor_metric="loss"))
    assert "--monitor-metric was mAP and is loss now" in text
    loss = re.findall(r"Validation-loss=([.\d]+)", (copied / "train.log").read_text())[-1]
    assert f"Best: checkpoint {EPOCHS + 1}, validation loss {float(loss):.4f}" in text


@pytest.mark.slow
def test_runs_that_share_a_folder_have_a_history_each(flags, copied):
    before = measures(copied)
    script("train_multilabel.py", *flags(copied, save_name="other", num_epoch=1))
    assert measures(copied) == before and len(measures(copied, "other")) == 1
    script("train_multilabel.py", *flags(copied, resume=True, num_epoch=EPOCHS + 1))
    assert [int(float(row["epoch"])) for row in measures(copied)] == list(
        range(1, EPOCHS + 2))


@pytest.mark.slow
def test_a_run_leaves_one_alone_that_is_called_like_its_best_checkpoint(flags, copied):
    for file in list(copied.iterdir()):
        file.rename(copied / file.name.replace("tiny", "x-best"))
    (copied / "x-best-0001.params").write_text("precious")
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    text = script("train_multilabel.py", *flags(copied, save_name="x"), status=2)
    assert "--save-name x: its best checkpoint would overwrite" in text.splitlines()[-1]
    after = {file.name: file.read_bytes() for file in copied.iterdir()}
    assert {name: after[name] for name in before} == before
    text = script("train_multilabel.py", *flags(copied, save_name="x-best"), status=2)
    assert "--save-name must not end in -best" in text.splitlines()[-1]


@pytest.mark.slow
def test_a_run_that_was_stopped_early_stays_stopped(flags, tmp_path):
    arguments = flags(tmp_path, num_epoch=9, early_stop=1, lr=0)
    script("train_multilabel.py", *arguments)
    number = max(f.name for f in tmp_path.glob("tiny-0*.params"))
    text = script("train_multilabel.py", *arguments, "--resume")
    assert "--early-stop has ended this run already, after epoch 2" in text
    assert number == max(f.name for f in tmp_path.glob("tiny-0*.params")) == "tiny-0002.params"


@pytest.mark.slow
def test_without_a_snapshot_resume_says_so_and_starts(flags, tmp_path):
    text = script("train_multilabel.py", *flags(tmp_path, resume=True, num_epoch=1))
    assert f"--resume: there is no {tmp_path}/tiny-resume.npz: starting anew" in text
    assert (tmp_path / "tiny-0001.params").exists()


def test_a_restart_refuses_another_runs_snapshot(flags, copied):
    process = forked(f"""
        os.environ["MULTILABEL_RUN_ID"] = "another"
        run(main, {flags(copied, resume=True)})
        """, copied)
    assert process.wait() == 2
    assert "saved by another run than the one to be resumed" in process.err.splitlines()[-1]


def test_a_second_signal_of_the_other_kind_ends_the_process_at_once(tmp_path):
    process = forked("""
        requests = StopRequests(Alone())
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        """, tmp_path)
    assert process.wait() == -signal.SIGINT


def test_nohup_keeps_sighup_from_the_run(tmp_path):
    process = forked("""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        requests = StopRequests(Alone())
        signal.raise_signal(signal.SIGHUP)
        assert requests.received is None
        """, tmp_path)
    assert process.wait() == 0, process.err


def test_a_signal_in_the_warm_head_is_answered(flags, tmp_path):
    process = start(flags(tmp_path, warm_head_epochs=100000))
    wait_for(tmp_path, "Warm head[1]")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    text = process.out
    assert "Traceback" not in text
    assert "Stopped by SIGTERM in the warm head" in text


def test_what_a_killed_process_was_writing_is_cleared_away(flags, tmp_path):
    for name in ("tiny-0001.params", "tiny-history.png", "tiny-2-0001.params"):
        (tmp_path / f".abc~{name}").write_text("half")
    script("train_multilabel.py", *flags(tmp_path, num_epoch=1))
    assert [f.name for f in tmp_path.glob(".*")] == [".abc~tiny-2-0001.params"]


@pytest.mark.slow
def test_a_second_run_of_a_name_ends_at_once_until_the_first_is_gone(flags, tmp_path):
    first = start(flags(tmp_path, num_epoch=10000))
    wait_for(tmp_path, "Epoch[0] Time cost")
    text = script("train_multilabel.py", *flags(tmp_path), status=2)
    assert f"another run (process {first.pid} on " in text and len(text.splitlines()) == 1
    script("train_multilabel.py", *flags(tmp_path, save_name="other", num_epoch=1))
    assert first.poll() is None
    first.kill()
    first.wait()
    script("train_multilabel.py", *flags(tmp_path, num_epoch=1))
    assert not list(tmp_path.glob(".*"))


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("content")
    (tmp_path / ".tiny.lock").symlink_to("precious")
    with pytest.raises(InputError, match="cannot be written"), locked(str(tmp_path / "tiny")):
        raise AssertionError("locked")
    assert (tmp_path / "precious").read_text() == "content"


def test_a_leftover_that_cannot_be_removed_is_told_and_ends_no_run(tmp_path, caplog):
    leftover = tmp_path / ".abc~tiny-0001.params"
    leftover.mkdir()
    with locked(str(tmp_path / "tiny")):
        assert f"{leftover}: cannot be removed" in caplog.text


def test_an_earlier_run_is_moved_aside_whatever_its_date(tmp_path):
    (tmp_path / "tiny-0001.params").write_text("")
    os.utime(tmp_path / "tiny-0001.params", (-1e9, -1e9))
    target = move_aside(str(tmp_path / "tiny"))
    assert os.listdir(target) == ["tiny-0001.params"]


def test_a_run_that_starts_anew_moves_the_earlier_one_aside(flags, copied):
    before = {f.name: f.read_bytes() for f in copied.iterdir()}
    text = script("train_multilabel.py", *flags(copied, num_epoch=1))
    earlier, = copied.glob("tiny-until-*")
    assert f"The files of the earlier run of this name are in {earlier} now" in text
    assert {f.name: f.read_bytes() for f in earlier.iterdir()} == before
    assert len(measures(copied)) == 1


def test_no_room_for_mapped_features_is_told(tmp_path):
    features = tmp_path / "features"
    features.mkdir()
    process = forked(f"""
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        run(lambda argv: allocate(1000, (1000,), {str(features)!r}, 1) and None)
        """, tmp_path)
    assert process.wait() == 2 and "no room for 4 MB of features" in process.err
    assert "Traceback" not in process.err and not list(features.iterdir())


def test_a_changed_lst_is_refused(flags, copied, small_demo):
    changed = copied / "train.lst"
    text = (small_demo / "train.lst").read_text()
    changed.write_text(text.replace("0.000000", "1.000000", 1))
    text = script("train_multilabel.py", *flags(copied, resume=True, data_train=changed),
                  status=2)
    assert "the content of --data-train was" in text.splitlines()[-1]


def test_a_finished_run_has_nothing_to_resume(flags, undisturbed):
    def files():
        return {f.name: f.stat().st_mtime_ns for f in undisturbed.iterdir() if f.suffix != ".log"}

    before = files()
    text = script("train_multilabel.py", *flags(undisturbed, resume=True))
    assert files() == before and len(text.splitlines()) == 1
    assert f"--num-epoch has ended this run already, after epoch {EPOCHS}" in text


def test_a_run_that_was_killed_before_its_result_was_written_gets_it(flags, undisturbed, copied):
    text = script("train_multilabel.py", *flags(copied, resume=True))
    assert "--num-epoch has ended this run already" in text and "Best: checkpoint" in text
    got, expected = (json.loads((folder / "tiny-result.json").read_text())
                     for folder in (copied, undisturbed))
    assert got["best"] == expected["best"] and got["checkpoint"] == f"{copied}/tiny-best"


def test_a_finished_run_that_goes_on_has_no_result_until_it_ends_again(
        flags, undisturbed, copied):
    result = copied / "tiny-result.json"
    result.write_bytes((undisturbed / "tiny-result.json").read_bytes())
    process = start(flags(copied, resume=True, num_epoch=EPOCHS + 9))
    wait_for(copied, "Resuming at")
    wait_for(copied, f"Epoch[{EPOCHS}] Time cost")
    process.kill()
    process.wait()
    assert not result.exists()


TIMED = ("import sys, time; from train_multilabel import main; began = time.monotonic(); "
         "main(sys.argv[1:]); print(time.monotonic() - began)")


@pytest.mark.slow
def test_an_epochs_seconds_are_its_own_and_not_the_warm_heads_too(flags, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *flags(tmp_path, num_epoch=1, warm_head_epochs=60)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    with open(tmp_path / "tiny-history.csv") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert len(seconds) == 2 and sum(seconds) <= float(done.stdout)


def test_every_worker_knows_of_the_checkpoints_that_rank_0_writes(flags, tmp_path):
    settings = SimpleNamespace(flags=parse_args(flags(tmp_path, keep=2)), prefix="tiny")
    files = RunFiles(settings, None, None, {}, RunRecord(), is_writer=False)
    for number in (1, 2, 3):
        files.save_checkpoint(number, {}, {})
    assert files.record.checkpoints == [2, 3]
    assert "the last good checkpoint is kept" in str(files.not_finite("the loss is nan"))


def test_only_rank_0_writes_what_an_epoch_ends_with(flags, tmp_path, small_demo):
    validation = Validation(SampleList(read_lst(small_demo / "val.lst"), ""), "f1")
    labels = validation.lst.lst.labels(range(validation.lst.num_rows)).astype(np.int8)
    samples = {"labels": labels, "scores": np.random.RandomState(0).rand(*labels.shape)}
    for is_writer in (False, True):
        assert not list(tmp_path.iterdir())
        settings = SimpleNamespace(flags=parse_args(flags(tmp_path)), prefix=str(tmp_path / "x"))
        symbol = checkpoint.set_attributes(mx.sym.Variable("data"), training={"recipe": ""})
        files = RunFiles(settings, symbol, validation, {}, RunRecord(checkpoints=[1]), is_writer)
        files.close_epoch(1, {"seconds": 1}, {}, {"mAP": 0.5}, samples, ({}, {}))
        assert files.record.best["number"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        "x-symbol.json", "x-best-symbol.json", "x-best-0000.params", "x-history.csv",
        "x-history.png"}


def test_a_full_disk_ends_in_one_line_and_the_earlier_checkpoint_stays(flags, tmp_path):
    arguments = flags(tmp_path, checkpoint_minutes=0)
    script("train_multilabel.py", *arguments)
    before = (tmp_path / "tiny-0001.params").read_bytes()

    log = (tmp_path / "train.log")
    log.unlink()  # it is longer than that already
    text = script("train_multilabel.py", *arguments, status=2,
                  limits=[(resource.RLIMIT_FSIZE, 4096, 4096)])
    assert "cannot be written" in text.splitlines()[-1] and "Traceback" not in text
    earlier, = tmp_path.glob("tiny-until-*")
    assert (earlier / "tiny-0001.params").read_bytes() == before
    assert not list(tmp_path.glob("tiny-0*")) and not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_made_is_an_error(flags, tmp_path):
    (tmp_path / "file").write_text("")
    text = script("train_multilabel.py", *flags(tmp_path / "file" / "result"), status=2)
    assert "--save-result" in text.splitlines()[-1] and "Traceback" not in text


def test_keeps_the_last_checkpoints_and_the_best(flags, undisturbed, tmp_path):
    text = script("train_multilabel.py", *flags(tmp_path, keep=2))
    scores = [float(s) for s in re.findall(r"Epoch\[\d+\] Validation-mAP=([.\d]+)",
                                           (tmp_path / "train.log").read_text())]
    kept = sorted(f.name for f in tmp_path.glob("tiny-0*.params"))
    assert kept == [f"tiny-{number:04d}.params" for number in (EPOCHS - 1, EPOCHS)]
    best = int(np.argmax(scores)) + 1
    assert f"Best: checkpoint {best}, validation mAP {max(scores):.4f}" in text
    assert (tmp_path / "tiny-best-0000.params").read_bytes() == (
        undisturbed / f"tiny-{best:04d}.params").read_bytes()
