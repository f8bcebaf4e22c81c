"""Supervises one process of a distributed run, on the machine on which it runs.

distributed/attempt.py passes this file's text to `python3 -c`, here or over ssh, so it imports
nothing of the project. Signals to pass on come as numbers over standard input. When it ends,
however launch.py or the connection died, the process is killed with all its children.
"""
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading


def choose_address():
    """Let MXNet listen only at the address from which this machine reaches the scheduler.

    It would take the first network interface that it finds, and that may be a public one.
    """
    scheduler = os.environ.get("DMLC_PS_ROOT_URI")
    if scheduler and not (os.environ.get("DMLC_NODE_HOST") or os.environ.get("DMLC_INTERFACE")):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((scheduler, 9))  # sends nothing: it only chooses the route
            except OSError as error:
                sys.exit(f"no route to the scheduler, {scheduler}: {error.strerror}")
            os.environ["DMLC_NODE_HOST"] = probe.getsockname()[0]


def die_with_parent():
    """Have the kernel kill this process when its parent dies (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def send(process, number):
    """Send a signal to a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def pass_signals_on(process):
    """Send the signals that standard input names, and SIGKILL at its end."""
    for line in sys.stdin:
        send(process, int(line))
    send(process, signal.SIGKILL)


def main(command):
    """Run the command to its end, and exit with its status."""
    choose_address()
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True,
                                   preexec_fn=die_with_parent)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=pass_signals_on, args=(process,), daemon=True).start()
    status = process.wait()
    send(process, signal.SIGKILL)
    sys.stdout.flush()
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main(sys.argv[1:])
