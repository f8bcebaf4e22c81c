"""Connections between the workers of one run: how they find each other, and what goes over them.

MXNet's rank 0, the hub, listens at a free port and publishes through the kvstore where, together
with a random key. The others connect to it, and both sides prove that they know the key without
sending it (the HMAC challenge of multiprocessing.connection). Whoever else connects is ignored.
A second connection of each, over which nothing is sent, shows whether the network is still there:
MXNet's own calls would wait for ever.
"""
import contextlib
import json
import os
import secrets
import socket
import struct
import sys
import threading
import time
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

import numpy as np

from common.cli import MAY_PASS
from common.mx_compat import mx
from distributed.supervisor import address_towards

BUFFER_BYTES = 1 << 16
KVSTORE_KEY = "workers"  # under which the hub publishes its invitation
INVITATION = struct.Struct("!4sH16s")  # IPv4 address, port, secret key
SECONDS_BETWEEN_LOOKS = 0.01
MAX_UNKNOWN = 64  # connections beyond the workers' number that may be open without proof of the key
# Seconds in which a lost network is noticed, and in which the workers must connect; set by
# launch.py --network-timeout.
NETWORK_TIMEOUT = int(os.environ.get("MULTILABEL_NETWORK_TIMEOUT", 60))


class LostWorker(Exception):
    """Another worker has ended or cannot be reached."""


class ArrayStream:
    """Named NumPy arrays of any length over a connected socket, in NumPy's own .npy format.

    One end of a connection between two workers that trust each other. `send` and `receive` raise
    OSError or EOFError when the connection has ended. `close` closes the socket, too.
    """

    def __init__(self, connection):
        self.connection = connection
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = connection.makefile("rwb", BUFFER_BYTES)

    def send(self, arrays):
        """Send a dict of str to np.ndarray, or None."""
        self._file.write(json.dumps(arrays and list(arrays)).encode() + b"\n")
        for array in (arrays or {}).values():
            np.lib.format.write_array(self._file, np.asanyarray(array), allow_pickle=False)
        self._file.flush()

    def receive(self):
        """What the other end sends with `send`."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        names = json.loads(line)
        try:
            return names and {name: np.lib.format.read_array(self._file, allow_pickle=False)
                              for name in names}
        except ValueError:  # NumPy's error for a file that ends too early
            raise EOFError from None

    def close(self):
        with contextlib.suppress(OSError):
            self._file.close()
        self.connection.close()


def connect_workers(kv):
    """Connect the workers of a kvstore of type dist_*, just made; all of them must call this.

    Returns the rank of this worker, the rank of the one that is connected to all others, the hub,
    and the connections by rank: of the hub to all others, of the others to the hub. First a dict of
    ArrayStream, then one of sockets for `watch_network`. LostWorker is raised when a worker cannot
    be reached; `time_to_connect` limits the time.
    """
    try:
        return _connect_to_hub(kv) if kv.rank else _connect_as_hub(kv)
    except (OSError, EOFError) as error:
        raise LostWorker(f"worker {kv.rank} cannot reach the others: "
                         f"{error or 'the connection has ended'}") from None


def _connect_as_hub(kv):
    with socket.create_server((_own_address(), 0), backlog=128) as listener:
        host, port = listener.getsockname()
        key = secrets.token_bytes(16)
        _publish(kv, INVITATION.pack(socket.inet_aton(host), port, key))
        workers = accept_workers(listener, key, 2 * (kv.num_workers - 1))
    others = range(1, kv.num_workers)
    ranks = [_requested_rank(), *(workers[number][0] for number in others)]
    if sorted(ranks) != list(range(kv.num_workers)):
        ranks = range(kv.num_workers)
    streams = {ranks[number]: workers[number][1] for number in others}
    watched = {ranks[number]: workers[kv.num_workers + number][1].connection for number in others}
    for rank, stream in streams.items():
        stream.send({"ranks": [rank, ranks[0]]})
    return ranks[0], ranks[0], streams, watched


def _connect_to_hub(kv):
    host, port, key = INVITATION.unpack(_publish(kv, bytes(INVITATION.size)))
    stream, silent = (ArrayStream(socket.create_connection((socket.inet_ntoa(host), port)))
                      for _ in range(2))
    for number, connected in ((kv.rank, stream), (kv.num_workers + kv.rank, silent)):
        if not _knows_key(connected.connection, key, answer_challenge, deliver_challenge):
            raise EOFError
        connected.send({"ranks": [number, _requested_rank()]})
    rank, hub = stream.receive()["ranks"].tolist()
    return rank, hub, {hub: stream}, {hub: silent.connection}


def _publish(kv, invitation):
    """The invitation of MXNet's rank 0, at every worker."""
    # kvstore.init is the one call that gives all workers one worker's value unchanged.
    received = mx.nd.zeros(len(invitation))
    kv.init(KVSTORE_KEY, mx.nd.array(list(invitation)))
    kv.pull(KVSTORE_KEY, out=received)
    return bytes(received.asnumpy().astype(np.uint8))


def accept_workers(listener, key, count):
    """Accept connections until so many have proved that they know the key.

    Each connection is examined in a thread of its own, so that nobody waits for one that is
    silent or slow. Of many such connections the oldest are closed. Returns, by the number that each
    sends first (the kvstore's rank; of the second connections the number of workers more), the rank
    that its worker asks for, and the ArrayStream to it.
    """
    workers, unknown = {}, {}

    def examine(connection):
        try:
            if _knows_key(connection, key, deliver_challenge, answer_challenge):
                stream = ArrayStream(connection)
                number, requested = stream.receive()["ranks"].tolist()
                workers[number] = requested, stream
                return
        except (OSError, EOFError):
            pass
        finally:
            del unknown[connection]
        connection.close()

    listener.setblocking(False)
    try:
        while len(workers) < count:
            try:
                connection, _ = listener.accept()
            except OSError:  # nobody is there, or too many files are open
                time.sleep(SECONDS_BETWEEN_LOOKS)
                continue
            connection.setblocking(True)
            unknown[connection] = None
            threading.Thread(target=examine, args=(connection,), daemon=True).start()
            for surplus in list(unknown)[:-(MAX_UNKNOWN + count)]:
                _hang_up(surplus)
    finally:
        for connection in list(unknown):
            _hang_up(connection)
    return workers


def _knows_key(connection, key, *challenges):
    """Whether the other end knows the key, and is told that this end does."""
    # On a duplicate, because a Connection takes its file descriptor over.
    with Connection(os.dup(connection.fileno())) as messages:
        try:
            for challenge in challenges:
                challenge(messages, key)
        except Exception:  # whatever else a stranger's bytes lead to
            return False
    return True


def _hang_up(connection):
    """End a connection under the thread that reads from it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _requested_rank():
    """The rank that the launcher gave this worker; -1 where it gave none."""
    rank = os.environ.get("DMLC_RANK", "")
    return int(rank) if rank.isdigit() else -1


def _own_address():
    """The IPv4 address of this machine at which the others reach it."""
    given = os.environ.get("DMLC_NODE_HOST")
    return socket.gethostbyname(given) if given else address_towards(
        os.environ["DMLC_PS_ROOT_URI"])


@contextlib.contextmanager
def time_to_connect():
    """Let the process end if the block, in which the workers connect, takes too long."""
    timer = threading.Timer(NETWORK_TIMEOUT, _end_process, [
        f"not all scheduler, servers and workers have connected within {NETWORK_TIMEOUT} s"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def watch_network(connections):
    """Let the process end when the network to one of the other workers is lost.

    `connections` are sockets by rank. Nothing may be sent over them: then the kernel probes them,
    and that of the other machine answers, however busy its worker is, even if it is stopped. A
    connection that the other worker closes is not watched any longer.
    """
    def watch(rank, connection):
        with connection:
            try:
                connection.recv(1)  # waits for the end
            except OSError as error:
                _end_process(f"the network to worker {rank} is lost: {error.strerror}")

    for rank, connection in connections.items():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # It fails after two thirds of so many seconds.
        for option, value in ((socket.TCP_KEEPIDLE, NETWORK_TIMEOUT // 4), (socket.TCP_KEEPCNT, 5),
                              (socket.TCP_KEEPINTVL, NETWORK_TIMEOUT // 12)):
            connection.setsockopt(socket.IPPROTO_TCP, option, max(value, 1))
        threading.Thread(target=watch, args=(rank, connection), daemon=True).start()


def _end_process(reason):
    """End the process from any thread; the launcher ends the others, and may start all anew."""
    print(f"worker {os.environ.get('DMLC_RANK', '?')}: {reason}", file=sys.stderr, flush=True)
    os._exit(MAY_PASS)
