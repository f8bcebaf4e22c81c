import gc
import logging
import math
import multiprocessing
import os
import pickle
import signal
import textwrap
import threading
import time
import traceback
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Forked, expect_error

import lst_iter
from common.cli import InputError
from common.mx_compat import mx
from lst_iter import LstIter
from reading.batch_sampler import BatchSampler
from reading.image_file import NEUTRAL
from reading.image_list import ImageList
from reading.image_shape import best_shape, median_size
from reading.lst_file import read_lst
from reading.read_options import AREA, ReadOptions

ROOT = Path(__file__).resolve().parents[1]
RANDOM = ReadOptions(random_crop=True, random_mirror=True, brightness=0.2)
SHAPE = (3, 24, 32)


def make_list(folder, count, classes=3):
    """Photos of many sizes, and labels that are the bits of the row's number."""
    rng = np.random.RandomState(count)
    rows = []
    for row in range(count):
        image = cv2.resize(rng.randint(0, 256, (5, 7, 3)).astype(np.uint8),
                           (40 + 3 * (row % 7), 50 + row % 11), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{row}.jpg"), image)
        labels = "".join(f"{row >> bit & 1:.6f}\t" for bit in range(classes))
        rows.append(f"{100 + row}\t{labels}{row}.jpg\n")
    (folder / "train.lst").write_text("".join(rows))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 23 images and their train.lst."""
    folder = tmp_path_factory.mktemp("photos")
    make_list(folder, 23)
    return folder


@pytest.fixture
def own_photos(tmp_path):
    """A folder of 23 images that a test may spoil."""
    make_list(tmp_path, 23)
    return tmp_path


def make(folder, batch_size=4, **options):
    options.setdefault("num_threads", 2)
    return LstIter(batch_size, SHAPE, str(folder / "train.lst"), str(folder), **options)


def contents(batches):
    """Everything of the batches to come, comparable."""
    return [(batch.data[0].asnumpy().tobytes(), batch.label[0].asnumpy().tobytes(), batch.pad,
             batch.index.tolist()) for batch in batches]


def rows_of(batches):
    return [row for batch in batches for row in batch.index[:len(batch.index) - batch.pad].tolist()]


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("LstIter")]


@pytest.fixture
def started():
    """Lists the threads that iterators started since the test began."""
    gc.collect()
    before = reader_threads()
    return lambda: [thread for thread in reader_threads() if thread not in before]


@pytest.fixture
def python(tmp_path):
    """A function that starts a process with `code`, the iterator's names and a folder."""
    def start(code, folder):
        program = tmp_path / "program.py"
        program.write_text(
            f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
            "from pathlib import Path\nfrom test_lst_iter import *\n"
            f"folder = Path({str(folder)!r})\n" + textwrap.dedent(code))
        processes.append(Forked(program))
        return processes[-1]

    processes = []
    yield start
    for process in processes:
        process.kill()  # it does not outlive a test that fails


def wait_for(process, text, seconds=60):
    """Wait until a process has printed a line."""
    deadline = time.monotonic() + seconds
    while process.out != text:
        assert process.poll() is None and time.monotonic() < deadline, process.err
        time.sleep(0.01)


def output(process):
    """Standard output and error of a process that ends."""
    process.wait(60)
    return process.out, process.err


# What MXNet asks of an iterator


def test_batches_have_the_shapes_and_types_that_were_announced(photos):
    batches = make(photos)
    data, label = batches.provide_data[0], batches.provide_label[0]
    assert (data.name, data.shape, data.dtype, data.layout) == (
        "data", (4,) + SHAPE, np.uint8, "NCHW")
    assert (label.name, label.shape, label.dtype) == ("softmax_label", (4, 3), np.float32)
    for batch in batches:
        assert batch.data[0].shape == data.shape and batch.data[0].dtype == data.dtype
        assert batch.label[0].shape == label.shape and batch.label[0].dtype == label.dtype
        assert batch.index.dtype == np.int64 and batch.index.shape == (4,)
    assert isinstance(batches, mx.io.DataIter)
    assert (batches.num_rows, batches.num_batches, batches.num_classes) == (23, 6, 3)


def test_one_class_still_has_a_column(tmp_path):
    make_list(tmp_path, 3, classes=1)
    batches = make(tmp_path)
    assert batches.provide_label[0].shape == (4, 1)
    assert batches.next().label[0].shape == (4, 1)


def test_names_and_the_type_of_the_pixels_can_be_chosen(photos):
    batches = make(photos, data_name="image", label_name="truth", dtype="float32")
    assert (batches.provide_data[0].name, batches.provide_label[0].name) == ("image", "truth")
    batch = batches.next()
    assert batch.data[0].dtype == batches.provide_data[0].dtype == np.float32
    assert (batch.data[0].asnumpy() == make(photos).next().data[0].asnumpy()).all()


@pytest.mark.smoke
def test_images_and_labels_are_those_of_imageiter(photos):
    theirs = mx.image.ImageIter(4, SHAPE, label_width=3, path_imglist=str(photos / "train.lst"),
                                path_root=str(photos), resize=40)
    theirs, ours = list(theirs), list(make(photos, read_options=ReadOptions(resize=40)))
    assert len(theirs) == len(ours) == 6
    for expected, batch in zip(theirs, ours):
        assert batch.pad == expected.pad
        real = slice(0, 4 - batch.pad)
        assert (batch.label[0].asnumpy()[real] == expected.label[0].asnumpy()[real]).all()
        difference = batch.data[0].asnumpy().astype(float) - expected.data[0].asnumpy()
        assert np.abs(difference).mean() < 6  # they resize by cubic interpolation


def test_padding_carries_the_first_images_and_no_labels(photos):
    batches = list(make(photos, shuffle=True, read_options=RANDOM))
    first, last = batches[0], batches[-1]
    assert [batch.pad for batch in batches] == [0, 0, 0, 0, 0, 1]
    assert last.index[3] == first.index[0]
    assert (last.data[0].asnumpy()[3] == first.data[0].asnumpy()[0]).all()
    assert (last.label[0].asnumpy()[3] == -1).all()
    assert (last.label[0].asnumpy()[:3] >= 0).all()


def test_fewer_rows_than_a_batch_and_a_single_row(photos, tmp_path):
    (batch,) = make(photos, 50)
    assert batch.pad == 27 and batch.index.tolist() == [*range(23), *range(23), 0, 1, 2, 3]
    make_list(tmp_path, 1)
    (batch,) = make(tmp_path)
    assert batch.pad == 3 and (batch.label[0].asnumpy()[1:] == -1).all()


def test_discard_leaves_the_last_rows_out(photos):
    batches = make(photos, last_batch_handle="discard")
    assert batches.num_batches == 5
    assert rows_of(batches) == list(range(20))
    with expect_error(flag="last_batch_handle"):
        make(photos, 24, last_batch_handle="discard")


def test_roll_over_takes_the_last_rows_first_in_the_next_epoch(photos):
    batches = make(photos, 5, last_batch_handle="roll_over")
    epochs = []
    for _ in range(5):
        num_batches = batches.num_batches
        epochs.append(rows_of(batches))
        assert len(epochs[-1]) == 5 * num_batches
        batches.reset()
    assert [len(rows) for rows in epochs] == [20, 25, 20, 25, 25]
    assert sum(epochs, []) == list(range(23)) * 5


def test_roll_over_with_less_than_a_batch(photos):
    batches = make(photos, 40, last_batch_handle="roll_over")
    lengths = []
    for _ in range(4):
        lengths.append(len(rows_of(batches)))
        batches.reset()
    assert lengths == [0, 40, 0, 40]


def test_roll_over_and_seek_agree(photos):
    options = {"last_batch_handle": "roll_over", "shuffle": True, "read_options": RANDOM}
    whole = make(photos, 5, **options)
    for _ in range(2):
        contents(whole)
        whole.reset()
    resumed = make(photos, 5, **options)
    resumed.seek(2, 1)
    assert contents(resumed) == contents(whole)[1:]


@pytest.mark.smoke
def test_module_fit_and_score_take_it(photos):
    data = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32")
    logits = mx.sym.FullyConnected(mx.sym.Flatten(data / 255), num_hidden=3)
    module = mx.mod.Module(mx.sym.LogisticRegressionOutput(
        logits, mx.sym.Variable("softmax_label"), name="softmax"))
    train = make(photos, shuffle=True, read_options=RANDOM)
    module.fit(train, eval_data=make(photos), eval_metric="mse", num_epoch=2)
    assert train.epoch == 2
    assert module.predict(make(photos)).shape == (23, 3)


# Order


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 7])
def test_shards_are_disjoint_complete_and_equally_long(shuffle, num_parts):
    for epoch in (0, 1):
        shards = []
        for part in range(num_parts):
            order = BatchSampler(23, 4, shuffle, 5, part, num_parts)
            batches = list(order.batches(epoch))
            assert len(batches) == order.num_batches(epoch) == math.ceil(
                math.ceil(23 / num_parts) / 4)
            assert len(batches) == BatchSampler(23, 4, num_parts=num_parts).num_batches(epoch)
            real = [row for rows, _, pad in batches for row in rows[:4 - pad].tolist()]
            assert len(real) == order.num_rows
            shards.append(real)
        assert sorted(sum(shards, [])) == list(range(23))


def test_more_parts_than_rows_leave_padding_only(photos):
    batches = make(photos, num_parts=30, part_index=25, shuffle=True)
    (batch,) = batches
    assert batches.num_rows == 0 and batch.pad == 4
    assert (batch.label[0].asnumpy() == -1).all()
    for handle in ("discard", "roll_over"):
        with expect_error(flag="last_batch_handle"):
            make(photos, num_parts=30, last_batch_handle=handle)


@pytest.mark.parametrize("handle", ["discard", "roll_over"])
def test_without_padding_shards_are_equally_long_too(handle):
    shards = [BatchSampler(23, 2, False, 0, part, 3, handle) for part in range(3)]
    for epoch in range(4):
        assert len({len(list(shard.batches(epoch))) for shard in shards}) == 1


def test_every_epoch_is_shuffled_over_the_whole_list(photos):
    batches = make(photos, shuffle=True, num_parts=2, seed=3)
    epochs = []
    for _ in range(16):
        epochs.append(rows_of(batches))
        batches.reset()
    assert len({tuple(rows) for rows in epochs}) == 16
    assert set().union(*epochs) == set(range(23))  # a shard sees all of it in time
    again = make(photos, shuffle=True, num_parts=2, seed=3)
    assert rows_of(again) == epochs[0]
    assert rows_of(make(photos, shuffle=True, num_parts=2, seed=4)) != epochs[0]


def test_the_order_of_a_seed_and_epoch_never_changes():
    rows, _, _ = next(BatchSampler(10, 10, shuffle=True, seed=2**40 + 1).batches(7))
    assert rows.tolist() == [3, 1, 6, 4, 0, 5, 7, 8, 2, 9]


@pytest.mark.parametrize("num_threads", [1, 16])
def test_batches_do_not_depend_on_the_number_of_threads(photos, num_threads):
    options = {"shuffle": True, "seed": 7, "read_options": RANDOM}
    expected = make(photos, num_threads=2, **options)
    batches = make(photos, num_threads=num_threads, prefetch=5, **options)
    for _ in range(2):
        assert contents(batches) == contents(expected)
        batches.reset()
        expected.reset()


def test_augmentation_changes_with_the_epoch_and_the_seed(photos):
    batches = make(photos, read_options=RANDOM)
    first = contents(batches)
    batches.reset()
    assert contents(batches) != first
    assert contents(make(photos, read_options=RANDOM, seed=1)) != first


def test_seek_continues_as_if_nothing_had_happened(photos):
    options = {"shuffle": True, "read_options": RANDOM}
    whole = make(photos, **options)
    contents(whole)
    whole.reset()
    expected = contents(whole)
    resumed = make(photos, **options)
    resumed.seek(1, 4)
    assert contents(resumed) == expected[4:]
    resumed.seek(1, 6)
    assert contents(resumed) == []
    with expect_error(file=photos / "train.lst"):
        resumed.seek(1, 7)


# Life


def test_reset_begins_the_next_epoch_once_something_was_read(photos):
    batches = make(photos)
    batches.reset()
    assert batches.epoch == 0
    batches.next()
    batches.reset()
    batches.reset()
    assert batches.epoch == 1
    assert len(list(batches)) == 6 and list(batches) == []
    batches.seek(5, 2)
    batches.reset()
    assert (batches.epoch, len(list(batches))) == (5, 4)


def test_a_reset_in_mid_epoch_loses_nothing_of_the_next(photos):
    options = {"shuffle": True, "read_options": RANDOM}
    whole, cut = make(photos, **options), make(photos, **options)
    list(whole)
    cut.next()
    whole.reset()
    cut.reset()
    assert contents(cut) == contents(whole)


def test_batches_stay_as_they_were_handed_out(photos):
    batches = make(photos, read_options=RANDOM)
    kept = list(batches)
    first = [batch.data[0].asnumpy().tobytes() for batch in kept]
    for _ in range(3):
        batches.reset()
        list(batches)
    assert [batch.data[0].asnumpy().tobytes() for batch in kept] == first


def test_two_iterators_at_once(photos):
    first, second = make(photos), make(photos)
    both = list(zip(first, second))
    assert len(both) == 6
    assert contents(a for a, _ in both) == contents(b for _, b in both)


def test_threads_start_at_the_first_batch_and_end_with_the_epoch(photos, started):
    batches = make(photos, num_threads=3)
    assert not started()
    batches.next()
    assert len(started()) == 3
    list(batches)
    assert not started()


def test_closing_ends_the_threads_and_reading_starts_them_again(photos, started):
    with make(photos) as batches:
        batches.next()
        assert started()
    assert not started()
    assert batches.next().index.tolist() == [4, 5, 6, 7]
    batches.close()
    batches.close()


def test_a_dropped_iterator_ends_its_threads(photos, started):
    batches = make(photos)
    batches.next()
    del batches
    assert not started()


def test_reading_ahead_stops_at_the_prefetch_depth(photos, monkeypatch):
    made = []
    new = lst_iter.Batch
    monkeypatch.setattr(lst_iter, "Batch", lambda *args: made.append(1) or new(*args))
    batches = make(photos, 2, prefetch=3)
    batches.next()
    assert len(made) == 4
    batches.next()
    assert len(made) == 5
    batches.close()


def test_an_exception_in_a_thread_arrives_with_its_traceback(photos, monkeypatch, started):
    def broken_reader(path, *_):
        raise ZeroDivisionError(path)

    monkeypatch.setattr(lst_iter, "read_image", broken_reader)
    batches = make(photos)
    with pytest.raises(ZeroDivisionError) as info:
        batches.next()
    assert "broken_reader" in "".join(traceback.format_tb(info.value.__traceback__))
    assert not started()


@pytest.mark.parametrize("when", ["waiting", "training"])
def test_ctrl_c_interrupts_the_consumer_and_closing_ends_the_threads(photos, when, python):
    process = python(f"""
        read_image, reading, interrupted = lst_iter.read_image, threading.Event(), threading.Event()

        def wait_and_read(*args):
            reading.set()
            interrupted.wait()
            read_image(*args)

        if {when == "waiting"}:
            lst_iter.read_image = wait_and_read
        batches = make(folder, 8)
        threading.Thread(target=lambda: reading.wait() and print("begun"), daemon=True).start()
        try:
            while True:
                for batch in batches:
                    reading.set()
                    time.sleep(0.01)  # a training step
                batches.reset()
        finally:
            threads = reader_threads()
            interrupted.set()
            batches.close()
            for thread in threads:
                thread.join()
            print("ended")
        """, photos)
    wait_for(process, "begun\n")
    process.send_signal(signal.SIGINT)
    out, err = output(process)
    assert out == "begun\nended\n" and "KeyboardInterrupt" in err


@pytest.mark.parametrize("ending", ["ctrl-c", "error", "end"])
def test_a_command_ends_cleanly_without_waiting_for_images_in_decoding(
        tmp_path, ending, python):
    rng = np.random.RandomState(0)
    cv2.imwrite(str(tmp_path / "large.png"), rng.randint(0, 256, (1000, 1200, 3)))
    cv2.imwrite(str(tmp_path / "small.png"), rng.randint(0, 256, (50, 60, 3)))
    (tmp_path / "train.lst").write_text("1\t1\tsmall.png\n" * 8 + "1\t1\tlarge.png\n" * 8)
    process = python(f"""
        from common import cli

        read_image, decoding = lst_iter.read_image, threading.Event()

        def read_large_for_ever(path, *args):
            read_image(path, *args)
            while path.endswith("large.png"):
                decoding.set()
                read_image(path, *args)

        lst_iter.read_image = read_large_for_ever

        def main(argv):
            with make(folder, 8, num_threads=8) as batches:
                batches.next()
                decoding.wait()
                print("reading")
                while {ending == "ctrl-c"}:  # signal.pause may begin right after the signal
                    time.sleep(0.01)
            if {ending == "error"}:
                raise InputError("wrong")

        cli.run(main)
        """, tmp_path)
    wait_for(process, "reading\n")
    if ending == "ctrl-c":
        process.send_signal(signal.SIGINT)
    out, err = output(process)
    assert process.returncode == {"ctrl-c": 130, "error": 2, "end": 0}[ending], err
    assert out == "reading\n"
    assert err == ("program.py: error: wrong\n" if ending == "error" else "")


def test_closing_from_another_thread_wakes_the_reader(photos, monkeypatch):
    reading, closed = threading.Event(), threading.Event()

    def wait(*_):
        reading.set()
        closed.wait()

    def close():
        reading.wait()
        time.sleep(0.1)  # until all samples are queued and the consumer waits
        batches.close()
        closed.set()

    monkeypatch.setattr(lst_iter, "read_image", wait)
    batches = make(photos, 16)
    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(RuntimeError, match="closed while"):
        batches.next()
    closer.join()


def test_a_program_that_ends_without_closing_ends(photos, python):
    process = python("batches = make(folder)\nbatches.next()\nprint('end')", photos)
    assert output(process) == ("end\n", "")
    assert process.returncode == 0


def test_a_forked_child_reads_on(photos, python):
    process = python("""
        import os
        batches = make(folder, shuffle=True, read_options=RANDOM)
        batches.next()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                rows = contents(batches)
                os._exit(len(rows))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if hasattr(
                os, "waitstatus_to_exitcode") else os.waitpid(child, 0)[1] >> 8)
        print(len(contents(batches)))
        """, photos)
    assert output(process)[0].split() == ["5"] * 6


def test_pickling_is_refused_clearly(photos):
    with pytest.raises(TypeError, match="LstIter has threads and cannot be pickled"):
        pickle.dumps(make(photos))


def test_a_spawned_process_makes_its_own(photos):
    # A Pool would need semaphores, which a system without /dev/shm does not have.
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=send_number_of_rows, args=(there, str(photos)))
    process.start()
    assert here.poll(60) and here.recv() == 23
    process.join()


def send_number_of_rows(connection, folder):
    connection.send(len(rows_of(make(Path(folder)))))


# Bad images


def spoil(folder, *rows):
    for row in rows:
        (folder / f"{row}.jpg").write_bytes(b"<html>")


def test_the_first_bad_image_stops_with_file_and_line(own_photos, started):
    spoil(own_photos, 13, 14, 6)
    for num_threads in (1, 16):
        batches = make(own_photos, num_threads=num_threads, prefetch=4)
        assert batches.next().index.tolist() == [0, 1, 2, 3]
        for _ in range(2):  # and again, if one asks again
            with expect_error(file=own_photos / "train.lst", line=7, flag="--bad-images"):
                batches.next()
        assert not started()


def test_a_missing_image_is_named_with_its_line(own_photos):
    (own_photos / "2.jpg").unlink()
    with expect_error(file=own_photos / "train.lst", line=3, flag="--bad-images"):
        make(own_photos).next()


def test_skipped_images_are_grey_and_unknown_and_logged_once(own_photos, caplog):
    spoil(own_photos, 6)
    batches = make(own_photos, 2, bad_images="skip")
    for epoch in range(2):
        seen = list(batches)
        batch = seen[3]
        assert (batch.data[0].asnumpy()[0] == NEUTRAL).all()
        assert batch.label[0].asnumpy().tolist() == [[-1, -1, -1], [1, 1, 1]]
        assert [list(batch.bad) for batch in seen if batch.bad] == [[0]]
        messages = [record.getMessage() for record in caplog.records]
        assert sum("train.lst:7" in message for message in messages) == 1
        assert messages[-1].endswith(f"images left out in epoch {epoch}: 1")
        batches.reset()
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_reported_images_come_with_their_reasons_and_never_stop(own_photos, caplog):
    spoil(own_photos, *range(12))
    batches = make(own_photos, bad_images="report")
    seen = [batch.bad for batch in batches]
    assert [sorted(bad) for bad in seen] == [[0, 1, 2, 3]] * 3 + [[]] * 2 + [[3]]
    assert "no image of a known format" in seen[0][0] and not caplog.records


def test_too_many_bad_images_stop_at_the_end_of_a_short_epoch(own_photos):
    spoil(own_photos, 6, 20)
    batches = make(own_photos, bad_images="skip")
    for _ in range(5):
        batches.next()
    with expect_error(file=own_photos / "train.lst"):
        batches.next()


@pytest.mark.parametrize(("handle", "batch_size"), [("pad", 7), ("discard", 20)])
def test_five_percent_may_be_bad_even_if_they_come_first(tmp_path, handle, batch_size, caplog):
    make_list(tmp_path, 60)
    spoil(tmp_path, *range(3))
    batches = make(tmp_path, batch_size, bad_images="skip", last_batch_handle=handle)
    for epoch in range(2):
        assert len(list(batches)) == batches.num_batches
        assert caplog.messages[-1].endswith(f"images left out in epoch {epoch}: 3")
        batches.reset()


def test_one_more_than_five_percent_stops_at_once(tmp_path):
    make_list(tmp_path, 60)
    spoil(tmp_path, *range(4))
    batches = make(tmp_path, 12, bad_images="skip")
    for _ in range(2):  # and again, if one asks again, counting nothing twice
        with pytest.raises(InputError, match="4 images of epoch 0 .* of all 60"):
            list(batches)


def test_rows_that_are_discarded_do_not_count_for_the_five_percent(tmp_path):
    make_list(tmp_path, 59)
    spoil(tmp_path, 1, 2)  # 3.4 % of the list, but 6.7 % of the one batch that there is
    batches = make(tmp_path, 30, bad_images="skip", last_batch_handle="discard")
    with pytest.raises(InputError, match="2 images .* of all 30"):
        list(batches)


def test_a_file_that_vanishes_while_reading_is_a_bad_image(own_photos):
    batches = make(own_photos, prefetch=1)
    batches.next()
    for row in range(15, 23):
        (own_photos / f"{row}.jpg").unlink()
    with expect_error(file=own_photos / "train.lst", line=16, flag="--bad-images"):
        list(batches)


def test_a_pipe_among_the_images_does_not_block(own_photos):
    (own_photos / "1.jpg").unlink()
    os.mkfifo(own_photos / "1.jpg")
    with expect_error(file=own_photos / "train.lst", line=2, flag="--bad-images"):
        make(own_photos).next()


def test_names_of_any_bytes_and_absolute_ones_open(own_photos):
    odd = b"caf\xe9 \xf0\x9f\x98\x80 .jpg"
    folder = os.fsencode(own_photos)
    os.rename(os.path.join(folder, b"0.jpg"), os.path.join(folder, odd))
    (own_photos / "train.lst").write_bytes(
        b"0\t1\t" + odd + b"\n1\t0\t" + os.path.join(folder, b"1.jpg") + b"\n2\t0\tno\xe9.jpg\n")
    batches = make(own_photos, 2)
    assert batches.next().pad == 0
    with pytest.raises(InputError, match=r"train.lst:3: .*no\\xe9.jpg: no such file"):
        batches.next()


# Arguments


@pytest.mark.parametrize("wrong", [
    {"batch_size": 0}, {"num_threads": 0}, {"prefetch": 0}, {"seed": -1}, {"part_index": 1},
    {"part_index": 0, "num_parts": 0}, {"last_batch_handle": "keep"}, {"bad_images": "hide"},
    {"dtype": "int8"}, {"label_format": "sparse"}])
def test_wrong_arguments_are_refused(photos, wrong):
    with expect_error(flag=next(iter(wrong))):
        make(photos, **wrong)


def test_another_number_of_labels_is_refused(photos):
    with expect_error(file=photos / "train.lst", line=1, flag="--num-classes"):
        make(photos, label_width=4)


def test_wrong_shapes_and_folders_are_refused(photos):
    path = str(photos / "train.lst")
    for shape in ((1, 24, 24), (3, 24), (3, 0, 24)):
        with expect_error(flag="data_shape"):
            LstIter(4, shape, path, str(photos))
    with expect_error(file=photos / "none"):
        LstIter(4, SHAPE, path, str(photos / "none"))


def test_a_list_that_was_read_already_is_used(photos):
    lst = read_lst(photos / "train.lst")
    assert LstIter(4, SHAPE, lst, str(photos)).lst is lst
    with expect_error(file=photos / "train.lst", flag="label_width"):
        LstIter(4, SHAPE, lst, str(photos), label_width=5)


def test_class_numbers_as_labels(own_photos):
    (own_photos / "train.lst").write_text("0\t2\t0.jpg\n1\t0\t1\t1.jpg\n")
    batch = make(own_photos, 2, label_format="indices").next()
    assert batch.label[0].asnumpy().tolist() == [[0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("ending", [".jfif", ".JPG", ".webp", ".tif"])
def test_image_files_are_found_in_folders_by_their_endings(tmp_path, ending):
    (tmp_path / "inner").mkdir()
    for name in (f"inner/a{ending}", f".hidden{ending}", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    images = ImageList([str(tmp_path)], 2)
    assert [images.name(row) for row in range(len(images))] == [str(tmp_path / f"inner/a{ending}")]


# The command


@pytest.mark.parametrize("name", ["sheet.png", "sheet.foo", "sheet"])
def test_show_draws_a_sheet(photos, tmp_path, name):
    sheet = tmp_path / name
    names = tmp_path / "labels.txt"
    names.write_text("one\ntwo\nüber\n")
    lst_iter.main([str(photos / "train.lst"), "--path-root", str(photos), "--show", str(sheet),
                   "--image-shape", "3,48,64", "--num-images", "8", "--labels", str(names),
                   "--squash", "--contrast", "0.5"])
    image = cv2.imread(str(sheet))
    assert image.shape[0] > 2 * 48 and image.shape[1] > 6 * 64
    assert image.std() > 20 and (image == 255).mean() > 0.1


def test_show_finds_the_image_shape_and_says_where_the_sheet_is(photos, tmp_path, capsys):
    sheet = str(tmp_path / "sheet.png")
    lst_iter.main([str(photos / "train.lst"), "--path-root", str(photos), "--show", sheet,
                   "--image-shape", "auto", "--squash"])
    size = median_size(read_lst(photos / "train.lst"), str(photos), ReadOptions.max_pixels)
    _, height, width = best_shape(*size, AREA)
    said = capsys.readouterr().out
    assert sheet in said and f"{height}x{width} pixels" in said


@pytest.mark.parametrize(("flags", "fields"), [
    (["--labels", "none.txt"], {"file": "none.txt"}), (["--path-root", "none"], {"file": "none"}),
    (["--min-random-area", "2"], {"flag": "--min-random-area"})])
def test_show_refuses_wrong_flags_in_one_line(photos, tmp_path, flags, fields):
    with expect_error(**fields):
        lst_iter.main([str(photos / "train.lst"), "--path-root", str(photos), "--show",
                       str(tmp_path / "sheet.png")] + flags)
    assert not (tmp_path / "sheet.png").exists()
