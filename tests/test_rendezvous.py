"""Connecting the workers of a run, against the standard library's own client."""
import io
import socket
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import numpy as np
import pytest

from distributed.connections import ArrayStream, accept_workers


def greeting(*numbers):
    """What an ArrayStream sends first: the number of the connection, and the rank asked for."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array(numbers))
    return b'["ranks"]\n' + file.getvalue()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def streams(listener):
    ends = [ArrayStream(socket.create_connection(listener.getsockname())),
            ArrayStream(listener.accept()[0])]
    yield ends
    for end in ends:
        end.close()


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def test_only_a_client_with_the_key_is_accepted(listener):
    workers = {}
    accepting = in_thread(lambda: workers.update(accept_workers(listener, b"key", 1)))
    with pytest.raises(AuthenticationError):
        Client(listener.getsockname(), authkey=b"another key")
    assert accepting.is_alive()
    with Client(listener.getsockname(), authkey=b"key") as client:
        client._send(greeting(1, 7))
        accepting.join(10)
    assert list(workers) == [1] and workers[1][0] == 7


def test_strangers_threads_end_with_the_rendezvous(listener):
    before = set(threading.enumerate())
    with socket.create_connection(listener.getsockname()) as stranger:
        accepting = in_thread(accept_workers, listener, b"key", 1)
        with Client(listener.getsockname(), authkey=b"key") as client:
            client._send(greeting(1, 7))
            accepting.join(10)
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
            assert not thread.is_alive()
        stranger.settimeout(10)
        while stranger.recv(100):  # the challenge, and then the end
            pass


@pytest.mark.parametrize("arrays", [
    None, {}, {"a": np.arange(6).reshape(2, 3).T, "b c\n": np.array("über"), "0": np.float64(3)},
    {"empty": np.zeros((0, 4), np.int8), "scalar": np.array(True), "half": np.ones(3, np.float16)}])
def test_arrays_arrive_as_they_are(arrays, streams):
    streams[0].send(arrays)
    received = streams[1].receive()
    assert (received is None) == (arrays is None)
    assert list(received or {}) == list(arrays or {})
    for name, array in (arrays or {}).items():
        np.testing.assert_array_equal(received[name], array)
        assert received[name].dtype == array.dtype and received[name].shape == np.shape(array)


def test_a_connection_that_ends_within_an_array_is_an_eof_error(streams):
    streams[0]._file.write(b'["x"]\n\x93NUMPY\x01\x00')
    streams[0].close()
    with pytest.raises(EOFError):
        streams[1].receive()


def test_objects_are_neither_sent_nor_unpickled(streams):
    hostile = np.array([Unpickled()], object)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        streams[0].send({"x": hostile})
    np.lib.format.write_array(streams[0]._file, hostile, allow_pickle=True)
    streams[0]._file.flush()
    with pytest.raises(EOFError):
        streams[1].receive()


class Unpickled:
    def __reduce__(self):
        return pytest.fail, ("a pickle ran",)


@pytest.mark.slow
def test_an_array_of_more_than_2_gib(streams):
    large = np.zeros(2 ** 31 + 5, np.uint8)
    large[-1] = 7
    sending = in_thread(streams[0].send, {"large": large})
    received = streams[1].receive()["large"]
    sending.join()
    assert received.shape == large.shape and received[-1] == 7
