"""Snapshots that are mutated or written by an attacker: one line and status 2, or a resumed run."""
import io
import json
import random
import re
import resource
import struct
import time
import zipfile

import numpy as np
import pytest
from conftest import train_all, training_flags
from test_resume import start, wait_for

MEMORY = 3 << 30
SECONDS = 20
PER_PROCESS = 25


@pytest.fixture(scope="module")
def flags(tiny_network, small_demo):
    def arguments(result):
        return training_flags(tiny_network, small_demo, result, batch_size=8, num_epoch=2,
                              optimizer="adam", lr=0.001, checkpoint_minutes=1e-9, resume=True,
                              data_nthreads=1)
    return arguments


@pytest.fixture(scope="module")
def entries(flags, tmp_path_factory):
    """The files in a snapshot from the middle of an epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(flags(folder))
    wait_for(folder, "Epoch[0] Validation-mAP")
    while True:
        time.sleep(0.02)
        with zipfile.ZipFile(folder / "tiny-resume.npz") as archive:
            if any("metric" in name for name in archive.namelist()):
                process.kill()
                process.wait()
                return {name: archive.read(name) for name in archive.namelist()}


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def with_header(content, **changes):
    """An array's file whose header says something else."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (4,), **changes}
    text = (repr(header) + "\n").encode()
    return content[:8] + struct.pack("<H", len(text)) + text + content[128:]


def changed_state(entries, change):
    state = json.loads(np.load(io.BytesIO(entries["state.npy"])).tobytes())
    state = change(state) or state
    text = state if isinstance(state, bytes) else json.dumps(state).encode()
    return {**entries, "state.npy": npy(np.frombuffer(text, np.uint8))}


class Trap:
    def __reduce__(self):
        return print, ("Traceback: the pickle was run",)


VALUES = (None, True, -1, 0, 7, 2 ** 40, 10 ** 30, 0.5, float("nan"), float("inf"), "", "x\x1b[31m",
          [], [[]], {}, {"epoch": []}, [None, 3], "9" * 5000)


def mutated_state(entries, rng):
    """One value of the JSON, at any depth, becomes another or vanishes."""
    def change(state):
        place = state
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
                place = inner
                continue
            place[key] = rng.choice(VALUES)
            if rng.random() < 0.3:
                del place[key]
            break
    return changed_state(entries, change)


def mutated_entry(entries, rng):
    """One array is missing, renamed, of another type, shape or value, or its header lies."""
    name = rng.choice([name for name in entries if name != "state.npy"])
    array = np.load(io.BytesIO(entries[name]))
    new = rng.choice([
        None, npy(array.astype(np.float64)), npy(array.astype(np.int16)), npy(array.ravel()[:-1]),
        npy(array[None]), npy(np.empty(0, array.dtype)), npy(np.full_like(array, -1)),
        npy(array.astype(np.float32) * np.float32("nan")), npy(np.array("text")),
        npy(np.array([Trap()], object)), npy(np.array(array, ">f4")), entries[name][:60], b"",
        with_header(entries[name], shape=(10 ** 12,)), with_header(entries[name], shape=(-1, 2)),
        with_header(entries[name], shape=(2 ** 62, 0)), with_header(entries[name], descr="|O"),
        with_header(entries[name], shape=(1,) * 70), with_header(entries[name], descr="<f8" * 99),
        entries[name][:10] + rng.randbytes(100) + entries[name][110:]])
    entries = dict(entries)
    del entries[name]
    if new is not None:
        entries[name if rng.random() < 0.9 else "arg:" + rng.choice("ab/\x1b")] = new
    return entries


def zipped(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def mutated(entries, rng):
    kind = rng.random()
    if kind < 0.4:
        return zipped(mutated_state(entries, rng))
    if kind < 0.85:
        return zipped(mutated_entry(entries, rng))
    content = bytearray(zipped(entries))
    if kind < 0.9:
        return bytes(content[:rng.randrange(len(content))])
    for _ in range(rng.choice((1, 20))):  # mostly in the directory of the zip file
        content[-rng.randrange(1, 3000)] = rng.randrange(256)
    return bytes(content)


def resume_all(snapshots, flags, folder):
    """Status and output of the runs that resume from these snapshots."""
    runs = []
    for number, content in enumerate(snapshots):
        result = folder / str(number)
        result.mkdir()
        (result / "tiny-resume.npz").write_bytes(content)
        runs.append(flags(result))
    return train_all(runs, SECONDS, [(resource.RLIMIT_AS, MEMORY, MEMORY)])


def assert_harmless(snapshots, flags, folder):
    done = resume_all(snapshots, flags, folder)
    for number, (status, text) in enumerate(done):
        last = text.splitlines()[-1]
        assert status in (0, 2) and "Traceback" not in text, (number, text)
        assert status == 0 or "error: " in last and "out of memory" not in last, (number, text)
        assert "\x1b" not in text, (number, text)
    assert len(done) == len(snapshots), len(done)
    return done


def test_a_snapshot_that_does_not_fit_is_refused_in_one_line(entries, flags, tmp_path):
    weight = entries["arg:fc_weight.npy"]
    without_aux = {name: content for name, content in entries.items() if "aux:" not in name}
    hostile = {
        "lacks the parameter 'fc_weight'": {
            name: content for name, content in entries.items() if "arg:fc_weight" not in name},
        "lacks the parameter 'bn0_moving_mean'": without_aux,
        "fc_weight is (8, 15), but": {
            **entries, "arg:fc_weight.npy": npy(np.load(io.BytesIO(weight))[:, 1:])},
        "the optimizer's state of fc_weight is missing": {
            name: content for name, content in entries.items() if "optimizer:fc_w" not in name},
        "the metrics do not fit": {
            name: content for name, content in entries.items() if "metric:loss" not in name},
        "not a snapshot of a run": changed_state(entries, lambda state: b"[" * 100000),
        "written by another version": changed_state(entries, lambda state: state.pop("version")
                                                    and None)}
    damaged = [
        zipped({**entries, "arg:fc_weight.npy": with_header(weight, shape=(10 ** 12,))}),
        zipped({**entries, "optimizer.npy": npy(np.array([Trap()], object))}),
        zipped({**entries, "bomb.npy": npy(np.zeros(1 << 28, np.uint8))}, zipfile.ZIP_DEFLATED)]
    best = {"number": 99, "metric": "mAP", "value": 9.0}  # no epoch of the history
    without_best = changed_state(entries, lambda state: state["record"].update(best=best))
    done = assert_harmless(
        [zipped(e) for e in hostile.values()] + damaged + [zipped(without_best), zipped(entries)],
        flags, tmp_path)
    for said, (status, text) in zip([*hostile, *["cut short or damaged"] * len(damaged)], done):
        assert status == 2 and said in text.splitlines()[-1], text
    assert done[-1][0] == 0 and re.search(r"Resuming at epoch \d, batch [1-9]", done[-1][1])


@pytest.mark.slow
def test_200_mutated_snapshots_are_harmless(entries, flags, tmp_path):
    rng, refused = random.Random(0), 0
    for start_of_part in range(0, 200, PER_PROCESS):
        folder = tmp_path / str(start_of_part)
        folder.mkdir()
        done = assert_harmless([mutated(entries, rng) for _ in range(PER_PROCESS)], flags, folder)
        refused += sum(status == 2 for status, _ in done)
    assert refused > 100  # the others are damaged where it does not matter
