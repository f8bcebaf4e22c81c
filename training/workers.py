"""The workers of one training run: who they are, and how they tell each other more than gradients.

MXNet's parameter server sums gradients. What else the workers share (scores to measure, running
statistics, a wish to stop) it would sum, compress or take for gradients too. So this goes over
plain connections of all workers to one of them. A worker that ends breaks its connection, and
the others hear of it at once, where MXNet's own calls would wait for ever.

    kv = mx.kvstore.create("dist_sync")
    with Workers(kv) as workers:
        parts = workers.gather({"scores": scores})      # a list at rank 0, None elsewhere
        total = workers.sum([1.0, loss])                # the same everywhere
"""
import io
import os
import secrets
import socket
import struct

import numpy as np

from common.mx_compat import mx

KEY = "workers"  # of the kvstore, under which the hub says where it listens
TOKEN_BYTES = 16
SECONDS_TO_CONNECT = 600
LENGTH = struct.Struct("<Q")
GREETING = struct.Struct("<qq")


class LostWorker(Exception):
    """Another worker is gone."""


class Workers:
    """All workers of a run, as seen by one of them. A single process is a run of one worker.

    All workers must call the same methods in the same order.

    Parameters
    ----------
    kv : mx.kvstore.KVStore, optional
        Just made. All others of its workers must come here too. None: there are no others.

    Attributes
    ----------
    rank, count : int
        This worker's number, from 0, and how many there are. DMLC_RANK gives the number, where
        the launcher sets it: the kvstore's own changes from start to start.
    in_step : bool
        Whether all take each batch together; not so with "dist_async".
    """

    def __init__(self, kv=None):
        distributed = kv is not None and "dist" in kv.type
        self.rank, self.count = (kv.rank, kv.num_workers) if distributed else (0, 1)
        self.in_step = not (distributed and "async" in kv.type)
        # By rank. One worker, the hub, is connected to all the others, and these to the hub.
        self._connections = {}
        self._is_hub = self.rank == 0
        if self.count > 1:
            self._meet(kv)

    def gather(self, arrays):
        """Bring what each worker has to rank 0.

        Parameters
        ----------
        arrays : dict of str to np.ndarray

        Returns
        -------
        list of dict of str to np.ndarray
            By rank; None everywhere but at rank 0.
        """
        if self.count == 1:
            return [arrays]
        if self._is_hub:
            messages = {rank: self._receive(rank) for rank in self._connections}
            messages[self.rank] = _packed(arrays)
            if self.rank:
                for rank in range(self.count):
                    self._send(0, messages[rank])
                return None
        else:
            self._to_hub(_packed(arrays))
            if self.rank:
                return None
            messages = [self._from_hub() for _ in range(self.count)]
        return [_unpacked(messages[rank]) for rank in range(self.count)]

    def broadcast(self, arrays):
        """What rank 0 has, to all.

        Parameters
        ----------
        arrays : dict of str to np.ndarray
            None for nothing. Only rank 0's counts.

        Returns
        -------
        dict of str to np.ndarray
            None where rank 0 gave that.
        """
        if not self._is_hub:
            if self.rank:
                return _unpacked(self._from_hub())
            self._to_hub(_packed(arrays))
            return arrays
        if self.count > 1:
            message = self._receive(0) if self.rank else _packed(arrays)
            for rank in self._connections:
                if rank:
                    self._send(rank, message)
        return _unpacked(message) if self.rank else arrays

    def sum(self, values):
        """The sum of the numbers that each worker gives.

        Parameters
        ----------
        values : sequence of float

        Returns
        -------
        np.ndarray, (len(values),), float64
            To the bit the same everywhere.
        """
        mine = np.array(values, np.float64)
        if not self._is_hub:
            self._to_hub(mine.tobytes())
            return np.frombuffer(self._from_hub(), np.float64)
        parts = {rank: np.frombuffer(self._receive(rank), np.float64)
                 for rank in self._connections}
        parts[self.rank] = mine
        # By rank, because the order matters to the last bit.
        total = sum(parts[rank] for rank in range(self.count))
        for rank in self._connections:
            self._send(rank, total.tobytes())
        return total

    def mean(self, params):
        """The mean over the workers.

        Parameters
        ----------
        params : dict of str to mx.nd.NDArray

        Returns
        -------
        dict of str to mx.nd.NDArray
        """
        if self.count == 1 or not params:
            return params
        parts = self.gather({name: value.asnumpy() for name, value in params.items()})
        means = None if self.rank else {
            name: np.mean([part[name] for part in parts], axis=0, dtype=np.float64).astype(
                parts[0][name].dtype) for name in params}
        means = self.broadcast(means)
        return {name: mx.nd.array(value, dtype=value.dtype) for name, value in means.items()}

    def close(self):
        """End the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _meet(self, kv):
        """Connect: the hub listens, and says through the kvstore where, and what to greet it with.

        kvstore.init is the one call that hands everyone one worker's value as it is.
        """
        listener = None
        invitation = np.zeros(2 + 4 + TOKEN_BYTES, np.float32)
        if self._is_hub:
            listener = socket.create_server((_own_address(), 0), backlog=self.count)
            listener.settimeout(SECONDS_TO_CONNECT)
            host, port = listener.getsockname()
            token = secrets.token_bytes(TOKEN_BYTES)
            invitation[:] = list(struct.pack(">H", port) + socket.inet_aton(host) + token)
        received = mx.nd.zeros(invitation.shape)
        kv.init(KEY, mx.nd.array(invitation))
        kv.pull(KEY, out=received)
        invitation = bytes(received.asnumpy().astype(np.uint8))
        token = invitation[6:]
        wanted = _wanted_rank()
        try:
            if self._is_hub:
                known = self._welcome(listener, token)
                listener.close()
                known[0] = (None, wanted)
                self._number(known)
            else:
                port = struct.unpack(">H", invitation[:2])[0]
                connection = socket.create_connection(
                    (socket.inet_ntoa(invitation[2:6]), port), SECONDS_TO_CONNECT)
                _set_up(connection)
                connection.sendall(token + GREETING.pack(self.rank, wanted))
                self.rank, hub = GREETING.unpack(_read(connection, GREETING.size))
                self._connections = {hub: connection}
        except OSError as error:
            raise LostWorker(f"worker {self.rank} cannot reach the others: {error}") from None

    def _welcome(self, listener, token):
        """Connections of those who know the token, and the ranks that they want, by kv.rank."""
        known = {}
        while len(known) < self.count - 1:
            connection, _ = listener.accept()
            connection.settimeout(10)
            try:
                greeting = _read(connection, TOKEN_BYTES + GREETING.size)
            except OSError:
                greeting = b""
            if not secrets.compare_digest(bytes(greeting[:TOKEN_BYTES]), token):
                connection.close()
                continue
            _set_up(connection)
            number, wanted = GREETING.unpack(greeting[TOKEN_BYTES:])
            known[number] = (connection, wanted)
        return known

    def _number(self, known):
        """Give everyone the rank that it wants, or the kvstore's where these are no numbering."""
        ranks = {number: wanted for number, (_, wanted) in known.items()}
        if sorted(ranks.values()) != list(range(self.count)):
            ranks = {number: number for number in known}
        self.rank = ranks[0]
        for number, (connection, _) in known.items():
            if connection:
                connection.sendall(GREETING.pack(ranks[number], self.rank))
                self._connections[ranks[number]] = connection

    def _to_hub(self, message):
        self._send(next(iter(self._connections)), message)

    def _from_hub(self):
        return self._receive(next(iter(self._connections)))

    def _send(self, rank, message):
        try:
            self._connections[rank].sendall(LENGTH.pack(len(message)))
            self._connections[rank].sendall(message)
        except OSError:
            raise LostWorker(f"worker {self.rank} lost worker {rank}") from None

    def _receive(self, rank):
        connection = self._connections[rank]
        try:
            return _read(connection, LENGTH.unpack(_read(connection, LENGTH.size))[0])
        except OSError:
            raise LostWorker(f"worker {self.rank} lost worker {rank}") from None


def _wanted_rank():
    """The launcher's number for this worker; -1 where it gave none."""
    rank = os.environ.get("DMLC_RANK", "")
    return int(rank) if rank.isdigit() else -1


def _own_address():
    """The IPv4 address of this machine at which the others reach it."""
    given = os.environ.get("DMLC_NODE_HOST")
    if given:
        return socket.gethostbyname(given)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # For datagrams this sends nothing: it only chooses the way to the scheduler.
        probe.connect((os.environ["DMLC_PS_ROOT_URI"], int(os.environ["DMLC_PS_ROOT_PORT"])))
        return probe.getsockname()[0]


def _set_up(connection):
    """No waiting for more to send, and a machine that vanished is noticed in a few minutes."""
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _read(connection, length):
    """Exactly that many bytes."""
    message = bytearray(length)
    view, done = memoryview(message), 0
    while done < length:
        count = connection.recv_into(view[done:])
        if not count:
            raise ConnectionResetError("closed")
        done += count
    return message


def _packed(arrays):
    if arrays is None:
        return b""
    file = io.BytesIO()
    # The underscore, because savez has an argument called file.
    np.savez(file, **{f"_{name}": array for name, array in arrays.items()})
    return file.getbuffer()


def _unpacked(message):
    if not message:
        return None
    with np.load(io.BytesIO(message), allow_pickle=False) as arrays:
        return {name[1:]: arrays[name] for name in arrays.files}
