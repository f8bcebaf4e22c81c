"""Ends this worker when the network to another one is lost, or when they cannot find each other.

MXNet's own calls would wait for ever. The launcher then ends the other processes, and starts all
anew where it may.
"""
import contextlib
import os
import selectors
import socket
import sys
import threading

from common.cli import MAY_PASS

TIMEOUT_VARIABLE = "MULTILABEL_NETWORK_TIMEOUT"  # set by launch.py --network-timeout, in seconds


def network_timeout():
    """Seconds in which a lost network is noticed, and in which the workers must connect."""
    return int(os.environ.get(TIMEOUT_VARIABLE, 60))


@contextlib.contextmanager
def time_to_connect():
    """Let the process end if the block, in which the workers connect, takes too long."""
    seconds = network_timeout()
    timer = threading.Timer(seconds, _end_process, [
        f"not all scheduler, servers and workers have connected within {seconds} s"])
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
    selector = selectors.DefaultSelector()
    for rank, connection in connections.items():
        _probe(connection, network_timeout())
        selector.register(connection, selectors.EVENT_READ, rank)

    def watch():
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    ended = not key.fileobj.recv(1)
                except OSError as error:
                    _end_process(f"the network to worker {key.data} is lost: {error.strerror}")
                if ended:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
        selector.close()

    threading.Thread(target=watch, daemon=True).start()


def _probe(connection, seconds):
    """Have the kernel probe an idle connection: it fails after two thirds of so many seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", seconds // 4), ("TCP_KEEPINTVL", seconds // 12),
                        ("TCP_KEEPCNT", 5)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(value, 1))


def _end_process(reason):
    """End the process from any thread, whatever the main thread waits for."""
    print(f"worker {os.environ.get('DMLC_RANK', '?')}: {reason}", file=sys.stderr, flush=True)
    os._exit(MAY_PASS)
