"""Supervises one process of a distributed run, on the machine on which it runs.

distributed/launcher.py passes this file's text to `python3 -c`, here or over ssh, so it imports
nothing of the project. Signals to pass on come as bytes over standard input. When it ends, however
launch.py or the connection died, the process is killed with all its children. Over ssh also when
nothing comes for some seconds: what a lost network cut off would hinder the next attempt.
"""
import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading


def address_towards(host):
    """The IPv4 address of this machine on its route to a host; an OSError if there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # a datagram socket sends nothing: it only chooses the route
        return probe.getsockname()[0]


def choose_address():
    """Let MXNet listen only at the address from which this machine reaches the scheduler.

    It would take the first network interface that it finds, and that may be a public one.
    """
    scheduler = os.environ.get("DMLC_PS_ROOT_URI")
    if scheduler and not (os.environ.get("DMLC_NODE_HOST") or os.environ.get("DMLC_INTERFACE")):
        try:
            os.environ["DMLC_NODE_HOST"] = address_towards(scheduler)
        except OSError as error:
            sys.exit(f"no route to the scheduler, {scheduler}: {error.strerror}")


def die_with_parent():
    """Have the kernel kill this process when its parent dies (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def send(process, number):
    """Send a signal to a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def pass_signals_on(process, seconds):
    """Send the signals that standard input names, and SIGKILL at its end.

    And after so many seconds in which nothing came, not even a 0, which is a sign of life; None
    waits for ever.
    """
    numbers = b"\0"
    while numbers:
        for number in numbers:
            send(process, number)
        ready = select.select([0], [], [], seconds)[0]
        numbers = os.read(0, 4096) if ready else b""
    send(process, signal.SIGKILL)


def main(seconds, *command):
    """Run the command to its end, and exit with its status; `seconds` as text, "" is None."""
    choose_address()
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True,
                                   preexec_fn=die_with_parent)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=pass_signals_on, args=(process, int(seconds) if seconds else None),
                     daemon=True).start()
    status = process.wait()
    send(process, signal.SIGKILL)
    sys.stdout.flush()
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main(*sys.argv[1:])
