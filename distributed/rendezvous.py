"""How the workers of one run find each other and connect.

MXNet's rank 0, the hub, listens at a free port and publishes through the kvstore where, together
with a random key. The others connect to it, and both sides prove that they know the key without
sending it (the HMAC challenge of multiprocessing.connection). Whoever else connects is ignored.
A second connection of each, over which nothing is sent, shows whether the network is still there.
"""
import contextlib
import os
import secrets
import socket
import struct
import threading
import time
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

import numpy as np

from common.mx_compat import mx
from distributed.array_stream import ArrayStream
from distributed.hosts import address_towards

KVSTORE_KEY = "workers"  # under which the hub publishes its invitation
INVITATION = struct.Struct("!4sH16s")  # IPv4 address, port, secret key
SECONDS_BETWEEN_LOOKS = 0.01
MAX_UNKNOWN = 64  # connections beyond the workers' number that may be open without proof of the key


class LostWorker(Exception):
    """Another worker has ended or cannot be reached."""


def connect_workers(kv):
    """Connect the workers of a kvstore of type dist_*, just made; all of them must call this.

    Returns the rank of this worker, the rank of the one that is connected to all others, the hub,
    and the connections by rank: of the hub to all others, of the others to the hub. First a dict of
    ArrayStream, then one of sockets for `network_watch`. LostWorker is raised when a worker cannot
    be reached; `network_watch.time_to_connect` limits the time.
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
        stream.send_numbers([rank, ranks[0]])
    return ranks[0], ranks[0], streams, watched


def _connect_to_hub(kv):
    host, port, key = INVITATION.unpack(_publish(kv, bytes(INVITATION.size)))
    stream, silent = (ArrayStream(socket.create_connection((socket.inet_ntoa(host), port)))
                      for _ in range(2))
    for number, connected in ((kv.rank, stream), (kv.num_workers + kv.rank, silent)):
        if not _knows_key(connected.connection, key, answer_challenge, deliver_challenge):
            raise EOFError
        connected.send_numbers([number, _requested_rank()])
    rank, hub = map(int, stream.receive_numbers(2))
    return rank, hub, {hub: stream}, {hub: silent.connection}


def _publish(kv, invitation):
    """The invitation of MXNet's rank 0, at every worker.

    kvstore.init is the one call that gives all workers one worker's value unchanged.
    """
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
                number, requested = map(int, stream.receive_numbers(2))
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
    if given:
        return socket.gethostbyname(given)
    return address_towards(os.environ["DMLC_PS_ROOT_URI"], int(os.environ["DMLC_PS_ROOT_PORT"]))
