"""Training by several workers: real schedulers, servers and workers on the loopback address."""
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT, script, training_flags
from test_architecture import DOORS
from test_launch import Launched
from test_resume import measures, wait_for

from common.cli import InputError
from common.mx_compat import mx
from distributed import connections
from distributed.connections import LostWorker
from distributed.workers import PaddedLst, Workers, create_kvstore
from lst_iter import LstIter
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision
from network import checkpoint
from network.fine_tune import training_symbol
from reading.lst_file import read_lst
from train_multilabel import get_fine_tune_model
from training.compute import Alone, open_compute
from training.module import FineTuningModule
from training.train_flags import parse_args

EPOCHS = 4  # as test_resume compares
SECONDS = 180
TRAIN = (sys.executable, ROOT / "train_multilabel.py")


def launched(arguments, *options, workers=3, servers=2, command=TRAIN, **more):
    return Launched("-n", workers, "-s", servers, *options, *command, *arguments, **more)


def finish(job, status=0):
    assert job.end(SECONDS) == status, job.text
    return job.text


def pid_of(job, role, rank):
    """The process that trains or serves, not its supervisor."""
    for pid in job.left():
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            supervisor = b"\0-c\0" in file.read()
        wanted = {b"DMLC_ROLE=" + role.encode(), b"DMLC_RANK=%d" % rank}
        if wanted <= set(variables) and not supervisor:
            return pid
    raise AssertionError(f"no {role} {rank}: {job.text}")


@pytest.fixture(scope="module")
def flags(tiny_network, small_demo):
    """A function from a folder and further flags to the arguments of one and the same run."""
    def arguments(result, **more):
        return training_flags(tiny_network, small_demo, result, **{
            "kv_store": "dist_sync", "num_epoch": EPOCHS, "batch_size": 3, "lr_step_epochs": "1,3",
            "lr_factor": 0.5, "checkpoint_minutes": 1e-9, "data_nthreads": 1,
            # At 0.05 the last bits, in which equal runs differ, may grow to 2e-5 in four epochs.
            "lr": 0.01, **more})
    return arguments


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    result = tmp_path_factory.mktemp("undisturbed")
    finish(launched(flags(result, checkpoint_minutes=0)))
    return result


def same_parameters(result, expected, number):
    for got, wanted in zip(checkpoint.load(str(result / "tiny"), number)[1:],
                           checkpoint.load(str(expected / "tiny"), number)[1:]):
        for name in wanted:
            np.testing.assert_allclose(got[name].asnumpy(), wanted[name].asnumpy(), atol=1e-5,
                                       rtol=0, err_msg=name)


def same_run(result, undisturbed):
    # Servers add up three gradients in the order in which they come: the last bits differ.
    for name in result.glob(".*"):  # what a killed process was writing
        name.unlink()
    for got, expected in zip(measures(result), measures(undisturbed)):
        assert {k: float(v) for k, v in got.items()} == pytest.approx(
            {k: float(v) for k, v in expected.items()}, abs=1e-4)
    for number in range(1, EPOCHS + 1):
        same_parameters(result, undisturbed, number)


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_is_made_good_by_a_restart(flags, undisturbed, tmp_path):
    job = launched(flags(tmp_path), "--max-restarts", 1)
    wait_for(tmp_path, "Epoch[1] Time cost")
    os.kill(pid_of(job, "worker", 2), signal.SIGKILL)
    text = finish(job)
    assert "worker 2 ended with exit status 137" in text
    assert re.search(r"Resuming at epoch [234], batch \d", text)
    # Rank 0 logs, the others are quiet.
    assert "[worker 0]" in text and not re.search(r"\[worker 1\].*(Epoch|Saved|images)", text)
    same_run(tmp_path, undisturbed)


def test_two_workers_equal_one_with_twice_the_batch(flags, tmp_path):
    plain = {"num_epoch": 1, "mom": 0, "random_crop": 0, "random_mirror": 0, "freeze": "bn.*"}
    finish(launched(flags(tmp_path / "two", batch_size=7, **plain), workers=2, servers=1))
    script("train_multilabel.py", *flags(tmp_path / "one", batch_size=14, kv_store="local",
                                         **plain))
    same_parameters(tmp_path / "two", tmp_path / "one", 1)
    # Training's and validation's measures over both shards are those of one process.
    two, one = (measures(tmp_path / name)[0] for name in ("two", "one"))
    assert {k: float(v) for k, v in two.items()} == pytest.approx(
        {k: float(v) for k, v in one.items()}, rel=1e-5)


@pytest.mark.parametrize("environment,kv_store,said", [
    ({}, "dist_sync", "start them with tools/launch.py"),
    ({"DMLC_ROLE": "worker"}, "device", "--kv-store dist_sync joins them")])
def test_a_kvstore_that_does_not_fit_is_told(environment, kv_store, said, monkeypatch):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    flags = parse_args(["--data-train", "x", "--image-train", "x", "--model", "x",
                        "--kv-store", kv_store])
    with pytest.raises(InputError, match=said) as told:
        create_kvstore(kv_store) if environment else open_compute(flags).__enter__()
    assert told.value.flag == f"--kv-store {kv_store}"


def test_a_run_by_default_flags_imports_nothing_behind_doors(flags, tmp_path):
    code = ("import atexit, sys; from common.cli import run; from train_multilabel import main; "
            "atexit.register(lambda: print(*sys.modules)); run(main, sys.argv[1:])")
    done = subprocess.run(
        [sys.executable, "-c", code, *flags(tmp_path, num_epoch=1, kv_store="device",
                                            data_val=None, image_val=None)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    used = done.stdout.splitlines()[-1].replace(".", "/").split()
    assert "training/module" in used
    assert not [module for module in used if f"{module}.py".startswith(DOORS)]


@pytest.mark.slow
def test_a_mistake_at_one_worker_ends_all_with_its_line(flags, small_demo, tmp_path):
    lst = tmp_path / "train.lst"
    lines = (small_demo / "train.lst").read_text().splitlines()
    lines[1] = lines[1].rpartition("\t")[0] + "\tno-such.jpg"
    lst.write_text("\n".join(lines) + "\n")
    text = finish(launched(flags(tmp_path / "result", data_train=lst)), 2)
    assert "train.lst:2:" in text and "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("role", ["server", "scheduler", "worker"])
def test_whoever_is_killed_all_end_and_resume_goes_on(role, flags, undisturbed, tmp_path):
    job = launched(flags(tmp_path))
    wait_for(tmp_path, "Epoch[0] Time cost")
    os.kill(pid_of(job, role, 0), signal.SIGKILL)
    finish(job, 137)
    text = finish(launched(flags(tmp_path, resume=True)))
    assert "Resuming at epoch" in text
    same_run(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_at_the_same_batch_and_resume_goes_on(
        number, flags, undisturbed, tmp_path):
    job = launched(flags(tmp_path, checkpoint_minutes=10))
    wait_for(tmp_path, "Epoch[1] Time cost")
    job.process.send_signal(number)
    finish(job, 128 + number)
    where = re.search(r"Stopped by SIG\w+, and saved at epoch (\d+), batch (\d+)", job.text)
    text = finish(launched(flags(tmp_path, resume=True)))
    assert f"Resuming at epoch {where[1]}, batch {where[2]}" in text
    same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_signal_at_one_worker_stops_all(flags, tmp_path):
    job = launched(flags(tmp_path, checkpoint_minutes=10, num_epoch=200))
    wait_for(tmp_path, "Epoch[1] Time cost")
    os.kill(pid_of(job, "worker", 1), signal.SIGTERM)
    finish(job, 143)
    assert "Stopped by SIGTERM, and saved at" in job.text


@pytest.mark.slow
def test_a_worker_that_starts_20_s_late(flags, undisturbed, tmp_path):
    late = ("sh", "-c", 'if [ $DMLC_ROLE$DMLC_RANK = worker1 ]; then sleep 20; fi; exec "$@"',
            "sh", *TRAIN)
    start = time.monotonic()
    finish(launched(flags(tmp_path, checkpoint_minutes=0), command=late))
    assert time.monotonic() - start > 20
    same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_resuming_with_another_number_of_workers_is_refused(flags, undisturbed):
    text = finish(launched(flags(undisturbed, resume=True), workers=2), 2)
    assert "the number of workers was 3 when the run was saved, and is 2 now" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_folder_of_results_that_only_rank_0_has(flags, undisturbed, tmp_path):
    """As on machines without a shared folder: the others get the snapshot from rank 0."""
    own = ("sh", "-c", 'mkdir -p $DMLC_ROLE$DMLC_RANK; cd $DMLC_ROLE$DMLC_RANK; exec "$@"', "sh",
           *TRAIN)
    job = launched(flags("result"), command=own, cwd=tmp_path)
    wait_for(tmp_path / "worker0" / "result", "Epoch[1] Time cost")
    os.kill(pid_of(job, "worker", 1), signal.SIGKILL)
    finish(job, 137)
    finish(launched(flags("result", resume=True), command=own, cwd=tmp_path))
    same_run(tmp_path / "worker0" / "result", undisturbed)
    assert not list((tmp_path / "worker1").rglob("*.*"))


@pytest.mark.slow
def test_lists_and_images_of_each_workers_own(flags, small_demo, tmp_path):
    script("tools/make_lst.py", "shard", small_demo / "train.lst", "--num-parts", 3, "--prefix",
           tmp_path / "train")
    for rank in range(3):
        (tmp_path / f"images/{rank}").mkdir(parents=True)
        for name in (tmp_path / f"train_{rank}_files.txt").read_text().splitlines():
            shutil.copy(small_demo / "images" / name, tmp_path / f"images/{rank}")
    own = {"data_train": tmp_path / "train_{rank}.lst", "image_train": tmp_path / "images/{rank}",
           "pos_weight": "auto", "num_epoch": 2, "warm_head_epochs": 1}
    text = finish(launched(flags(tmp_path / "result", **own)))
    assert "70 training images" in text
    finish(launched(flags(tmp_path / "result", resume=True, **{**own, "num_epoch": 3})))
    lst = tmp_path / "train_1.lst"
    lst.write_text("".join(lst.read_text().splitlines(keepends=True)[:-4]))
    text = finish(launched(flags(tmp_path / "other", **own)))
    assert "66 training images" in text  # and nobody waits for the shorter list


def test_a_shorter_list_is_padded_with_rows_of_unknown_labels(small_demo):
    lst = read_lst(small_demo / "val.lst")
    filled = PaddedLst(lst, 23)
    rows = np.array([22, 3, 19, 20])
    np.testing.assert_array_equal(filled.labels(rows)[[1, 2]], lst.labels([3, 19]))
    assert (filled.labels(rows)[[0, 3]] == -1).all()
    assert filled.name(22) == lst.name(2) and filled.name(3) == lst.name(3)
    with LstIter(8, (3, 32, 32), filled, small_demo / "images") as batches:
        known = [(batch.label[0].asnumpy() >= 0).any(axis=1).sum() for batch in batches]
    assert known == [8, 8, 4]


@pytest.mark.slow
def test_more_workers_than_rows_a_shard_is_empty_and_nobody_waits(flags, small_demo, tmp_path):
    lines = (small_demo / "train.lst").read_text().splitlines(keepends=True)
    (tmp_path / "two.lst").write_text("".join(lines[:2]))
    (tmp_path / "val.lst").write_text("".join(lines[2:4]))
    finish(launched(flags(tmp_path / "result", data_train=tmp_path / "two.lst", num_epoch=2,
                          data_val=tmp_path / "val.lst", warm_head_epochs=2,
                          image_val=small_demo / "images")))


@pytest.mark.slow
def test_the_warm_head_sees_all_workers_images(flags, small_demo, tmp_path):
    only_head = {"num_epoch": 0, "warm_head_epochs": 60, "warm_head_mirror": True,
                 "batch_size": 16}
    finish(launched(flags(tmp_path / "three", **only_head)))
    script("train_multilabel.py", *flags(tmp_path / "one", kv_store="local", **only_head))
    three, one = (checkpoint.load(str(tmp_path / name / "tiny"), 0)[1] for name in
                  ("three", "one"))
    # The rows come in another order, so after many passes only nearly the same head comes out.
    difference = np.abs(three["fc_weight"].asnumpy() - one["fc_weight"].asnumpy()).max()
    assert difference < 0.02 < np.abs(one["fc_weight"].asnumpy()).max()


@pytest.mark.slow
def test_2bit_compression_moves_weights_synchronouss_of_its_threshold(flags, tmp_path):
    plain = {"num_epoch": 3, "lr": 0.05, "lr_schedule": "constant", "mom": 0, "wd": 0}
    finish(launched(flags(tmp_path, gc_type="2bit", gc_threshold=0.5, **plain)))
    first, last = (checkpoint.load(str(tmp_path / "tiny"), number)[1]["fc_weight"].asnumpy()
                   for number in (1, 3))
    # A worker sends -1, 0 or 1 times the threshold; the mean is over 3 workers' batches of 3.
    steps = (last - first) / (0.05 * 0.5 / 9)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-2)
    assert len(np.unique(steps.round())) > 3
    losses = [float(row["train-loss"]) for row in measures(tmp_path)]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_dist_async_trains_and_goes_on_after_whole_epochs(flags, tmp_path):
    run = {"kv_store": "dist_async", "lr": 0.05}
    finish(launched(flags(tmp_path, num_epoch=2, **run)))
    text = finish(launched(flags(tmp_path, resume=True, **run)))
    assert "Resuming at epoch 3, batch 0" in text
    rows = measures(tmp_path)
    assert len(rows) == EPOCHS and float(rows[-1]["train-loss"]) < float(rows[0]["train-loss"])
    # The step after epoch 1, counted in all workers' batches.
    assert [float(row["learning_rate"]) for row in rows[:2]] == [0.05, 0.025]


@pytest.mark.slow
def test_dist_async_goes_on_in_the_schedule_of_learning_rates(flags, tmp_path):
    # After epoch 1 the rate is 0, also on the servers, whose optimizer is a new one.
    run = {"kv_store": "dist_async", "lr_step_epochs": "1", "lr_factor": 0, "mom": 0}
    for epochs in (1, 2):
        finish(launched(flags(tmp_path, resume=True, **{**run, "num_epoch": epochs}), workers=1,
                        servers=1))
    first, last = (checkpoint.load(str(tmp_path / "tiny"), number)[1] for number in (1, 2))
    for name, value in first.items():
        assert np.array_equal(value.asnumpy(), last[name].asnumpy()), name


@pytest.fixture
def two_hosts(tmp_path):
    """Two machines with a cable between them, as network namespaces: launch.py's flags and words.

    Also a function that plugs the cable in or out. What ssh would run on a host runs in its
    namespace, so that only the run's own network is lost, not launch.py's connection to the host.
    """
    a, b = names = [f"mlt{os.getpid()}{end}" for end in "ab"]

    def ip(*words, check=True):
        return subprocess.run(["ip", *words], check=check, stderr=subprocess.DEVNULL).returncode

    if not shutil.which("ip") or ip("netns", "add", a, check=False):
        pytest.skip("no network namespaces can be made here")
    try:
        ip("netns", "add", b)
        ip("link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b)
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", name)
            for device in ("lo", name):
                ip("-n", name, "link", "set", device, "up")
        (tmp_path / "hosts.txt").write_text("10.77.0.1\n10.77.0.2\n")
        (tmp_path / "ssh").write_text(
            '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nhost=$2\nshift 2\n'
            f'[ "$host" = 10.77.0.1 ] && name={a} || name={b}\n'
            f'exec ip netns exec $name sh -c "$*"\n')
        (tmp_path / "ssh").chmod(0o755)
        yield (("--launcher", "ssh", "-H", tmp_path / "hosts.txt", "--host-ip", "10.77.0.1"),
               ("ip", "netns", "exec", a),
               {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
               lambda state: ip("-n", b, "link", "set", b, state))
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


@pytest.mark.slow
def test_a_lost_network_ends_all_and_a_restart_goes_on_once_it_is_back(
        flags, two_hosts, tmp_path):
    options, inside, environment, cable = two_hosts
    job = launched(flags(tmp_path / "result", num_epoch=12), *options, "--network-timeout", 12,
                   "--max-restarts", 3, workers=2, servers=1, inside=inside, env=environment)
    wait_for(tmp_path / "result", "Epoch[1] Time cost")
    cable("down")
    job.wait_for("ending all")
    assert "the network to worker" in job.text or "lost worker" in job.text
    job.wait_for("waiting until")  # the first restart has failed, too
    cable("up")
    assert re.search(r"Resuming at epoch \d+, batch \d", finish(job))
    assert len(measures(tmp_path / "result")) == 12


@pytest.mark.slow
def test_a_worker_that_stands_still_for_25_s_goes_on(flags, undisturbed, tmp_path):
    """With a limit below that: what is lost is the network, not a worker's patience."""
    job = launched(flags(tmp_path, checkpoint_minutes=0), "--network-timeout", 12)
    wait_for(tmp_path, "Epoch[1] Time cost")
    worker = pid_of(job, "worker", 1)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(25)
    os.kill(worker, signal.SIGCONT)
    finish(job)
    same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_workers_that_do_not_find_each_other_end_with_a_message(flags, tmp_path):
    missing = ("sh", "-c", 'if [ $DMLC_ROLE$DMLC_RANK = worker1 ]; then sleep 1000; fi; exec "$@"',
               "sh", *TRAIN)
    text = finish(launched(flags(tmp_path), "--network-timeout", 5, command=missing), 75)
    assert "not all scheduler, servers and workers have connected within 5 s" in text


@pytest.mark.slow
def test_an_io_error_is_no_mistake_and_is_made_good_by_a_restart(flags, tmp_path):
    """The first fsync of worker 0 in its second epoch fails, in the first attempt alone."""
    code = f"""
import errno, os, sys
sys.path.insert(0, {str(ROOT)!r})
fsync = os.fsync
def failing(handle):
    if os.path.exists({str(tmp_path / 'tiny-0001.params')!r}) and "--resume" not in sys.argv:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    fsync(handle)
os.fsync = failing
from common.cli import run
from train_multilabel import main
run(main)
"""
    text = finish(launched(flags(tmp_path), "--max-restarts", 1, workers=2, servers=1,
                           command=(sys.executable, "-c", code)))
    assert "cannot be written: Input/output error" in text and "Traceback" not in text
    assert "ended with exit status 75" in text and len(measures(tmp_path)) == EPOCHS


class FakeStore:
    """A kvstore for workers that are threads of one process."""

    type = "dist_sync"

    def __init__(self, rank, shared):
        self.rank, self.num_workers, self._shared = rank, shared.parties, shared

    def init(self, key, value):
        if self.rank == 0:
            self._shared.value = value.asnumpy()
        self._shared.wait(30)

    def pull(self, key, out):
        out[:] = mx.nd.array(self._shared.value)


def as_threads(count, work, monkeypatch, ranks=None):
    """What `work(workers)` returned or raised, by number of the kvstore."""
    monkeypatch.setenv("DMLC_NODE_HOST", "127.0.0.1")
    requested = threading.local()
    monkeypatch.setattr(connections, "_requested_rank", lambda: requested.rank)
    shared, results = threading.Barrier(count), [None] * count

    def one(number):
        requested.rank = ranks[number] if ranks else -1
        try:
            with Workers(FakeStore(number, shared)) as workers:
                results[number] = work(workers)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.mark.parametrize("ranks", [None, [0, 1, 2], [2, 0, 1], [1, 2, 0], [7, 7, 7]])
def test_gather_broadcast_sum_and_mean(ranks, monkeypatch):
    def work(workers):
        rank = workers.rank
        gathered = workers.gather({"x": np.full(rank + 1, rank, np.int8), "file": np.float64(rank)})
        told = workers.broadcast({"r": np.array([rank])})
        nothing = workers.broadcast(None)
        total = workers.sum([1, 0.1 * rank, float("nan") if rank == 1 else 0])
        mean = workers.mean({"m": mx.nd.array([rank, 3])})["m"].asnumpy()
        return rank, gathered, told["r"][0], nothing, total, mean

    results = as_threads(3, work, monkeypatch, ranks)
    expected = ranks if ranks and sorted(ranks) == [0, 1, 2] else [0, 1, 2]
    assert [result[0] for result in results] == expected
    for rank, gathered, told, nothing, total, mean in results:
        assert (gathered is None) == (rank != 0)
        for number, part in enumerate(gathered or []):
            assert part["x"].tolist() == [number] * (number + 1) and part["file"] == number
            assert part["x"].dtype == np.int8
        assert told == 0 and nothing is None and np.isnan(total[2])
        np.testing.assert_allclose(total[:2], [3, 0.3])
        assert mean.tolist() == [1, 3]


def test_a_lost_worker_is_noticed_and_not_waited_for(monkeypatch):
    def work(workers):
        if workers.rank == 1:
            return "left"
        return workers.sum([1])

    results = as_threads(3, work, monkeypatch)
    assert results[1] == "left"
    assert all(isinstance(results[rank], LostWorker) for rank in (0, 2))


def say_nothing(stranger):
    pass


def ask_for_a_page(stranger):
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + b"x" * 64)


def send_a_byte_per_second(stranger):
    """What begins like a message of 64 bytes."""
    def send():
        with contextlib.suppress(OSError):
            for byte in b"\0\0\0\x40" + b"x" * 64:
                stranger.sendall(bytes([byte]))
                time.sleep(1)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("strangers,act", [
    (3, say_nothing), (300, say_nothing), (1, ask_for_a_page), (1, send_a_byte_per_second)])
def test_strangers_at_the_workers_port_delay_nobody(strangers, act, monkeypatch):
    create_server, opened = socket.create_server, []

    def with_strangers(address, **options):
        server = create_server(address, **{**options, "backlog": 512})
        opened.extend(socket.create_connection(server.getsockname()) for _ in range(strangers))
        for stranger in opened:
            act(stranger)
        return server

    monkeypatch.setattr(connections.socket, "create_server", with_strangers)
    # No stranger has ended or proved that it knows the key: nobody waits for them.
    assert as_threads(2, lambda w: w.sum([1]).tolist(), monkeypatch) == [[2], [2]]
    for stranger in opened:
        stranger.close()


def test_merged_measures_equal_those_of_one_process(monkeypatch):
    rng = np.random.RandomState(0)
    labels = rng.choice([-1, 0, 1], (50, 4)).astype(np.float32)
    scores = rng.rand(50, 4).astype(np.float32).round(2)  # with ties

    def metrics(workers):
        return workers.metrics([Loss(), Accuracy(), MeanAveragePrecision()])

    def measure(workers):
        total = metrics(workers)
        # The third shard gets nothing at all.
        rows = [slice(0, 50, 2), slice(1, 50, 2), slice(0, 0)][workers.rank]
        if workers.rank < 2:
            total.update([mx.nd.array(labels[rows])], [mx.nd.array(scores[rows])])
        return total.get_global_name_value()

    alone = metrics(Alone())
    alone.update([mx.nd.array(labels)], [mx.nd.array(scores)])
    for result in as_threads(3, measure, monkeypatch):
        assert dict(result) == pytest.approx(dict(alone.get_global_name_value()), rel=1e-6)


@pytest.mark.parametrize("compression", [None, {"type": "2bit", "threshold": 1e-9}])
def test_two_devices_in_a_process_equal_one(compression, tiny_network, monkeypatch):
    """With compression: it is taken, and moves each weight by no more than its threshold."""
    monkeypatch.delenv("MXNET_UPDATE_ON_KVSTORE", raising=False)
    sym, arg_params, aux_params = checkpoint.load(tiny_network, 0)
    sym, constants = checkpoint.with_normalisation(sym, checkpoint.IMAGENET_MEAN,
                                                   checkpoint.IMAGENET_STD)
    net, arg_params = get_fine_tune_model(sym, {**arg_params, **constants}, 8)
    frozen = [*checkpoint.NORMALISATION, "bn0_gamma", "bn0_beta", "bn1_gamma", "bn1_beta"]
    rng = np.random.RandomState(0)
    pixels = mx.nd.array(rng.randint(0, 256, (16, 3, 32, 32)), dtype="uint8")
    labels = mx.nd.array(rng.randint(0, 2, (16, 8)))
    arg_params.update(fc_weight=mx.nd.array(rng.randn(8, 16) / 4), fc_bias=mx.nd.zeros(8))

    def train(devices):
        module = FineTuningModule(
            training_symbol(net, frozen, 1), context=devices,
            fixed_param_names=frozen, compression_params=compression)
        module.bind([mx.io.DataDesc("data", pixels.shape, np.uint8)],
                    [mx.io.DataDesc("softmax_label", labels.shape)])
        module.init_params(arg_params=arg_params, aux_params=aux_params)
        module.init_optimizer("device", "sgd", {"learning_rate": 0.05, "momentum": 0.9})
        for _ in range(5):
            module.forward_backward(mx.io.DataBatch([pixels], [labels]))
            module.update()
        return module.get_params()

    one, two = train([mx.cpu(0)]), train([mx.cpu(0), mx.cpu(1)])
    for got, expected in zip(two, one):
        for name in expected:
            reference = arg_params[name] if compression and name in arg_params else expected[name]
            np.testing.assert_allclose(got[name].asnumpy(), reference.asnumpy(), atol=1e-5,
                                       rtol=0, err_msg=name)
