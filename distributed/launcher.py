"""One attempt of a distributed run: its machines and processes, their output and their end."""
import contextlib
import dataclasses
import io
import ipaddress
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from common.cli import InputError, silence
from distributed.supervisor import address_towards

SUPERVISOR = Path(__file__).with_name("supervisor.py").read_text(encoding="utf-8")

HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*(?::([0-9]{1,5}))?")
# Variables that remote processes get as well as local ones.
FORWARDED = ("PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
             "DMLC_INTERFACE")
FORWARDED_PREFIXES = ("MXNET_", "PS_")

SECONDS_TO_SAVE = 120  # for all workers, after a signal
SECONDS_OF_ONE_SIGNAL = 0.2  # within which a signal that arrives twice counts once
SECONDS_TO_LEAVE = 3  # for all after a failure, and for servers after the last worker
SECONDS_TO_DIE = 5  # after SIGKILL
SECONDS_BETWEEN_LOOKS = 0.1


@dataclasses.dataclass
class Process:
    """One of the scheduler, the servers and the workers."""

    role: str
    name: str  # put before its lines
    supervisor: subprocess.Popen
    status: int = None  # once it has ended, as a shell gives it

    def __post_init__(self):
        self.output = threading.Thread(target=self._print_output, daemon=True)
        self.output.start()

    def _print_output(self):
        """Print the lines that it writes, until it ends, after its name."""
        for line in io.BufferedReader(self.supervisor.stdout):
            # Only the last state of a progress bar, which returns to the start of its line.
            shown = line.rstrip(b"\r\n").rpartition(b"\r")[2]
            _print(sys.stdout, b"[%s] %s" % (self.name.encode(), shown))

    def send(self, number):
        """Send a signal to the process and its children, unless it has ended."""
        with contextlib.suppress(OSError, ValueError):  # ended, closed
            self.supervisor.stdin.write(bytes([number]))


class Attempt:
    """Scheduler, servers and workers of one attempt, by the flags of tools/launch.py.

    Servers and workers are assigned to `hosts` in turn; an empty list is this machine.
    """

    def __init__(self, args, hosts):
        self.args, self.hosts = args, hosts
        self.processes = []
        self.signal = self.signalled = None
        self.failed = None  # the first process that failed
        self.next_sign_of_life = 0.0

    def run(self):
        """Start all processes, print what they write, and end them all; the exit status."""
        status = 1
        try:
            self._start_all()
            status = self._watch()
            return status
        finally:
            self._end(succeeded=status == 0)

    def _start_all(self):
        args, hosts = self.args, self.hosts
        address = str(args.host_ip or own_address(hosts))
        environment = {
            "DMLC_PS_ROOT_URI": address, "DMLC_PS_ROOT_PORT": str(free_port(address, args.port)),
            "DMLC_NUM_WORKER": str(args.num_workers), "DMLC_NUM_SERVER": str(args.num_servers),
            "MULTILABEL_NETWORK_TIMEOUT": str(args.network_timeout)}
        if ipaddress.ip_address(address).is_loopback:
            environment["DMLC_NODE_HOST"] = address
        if not hosts and "OMP_NUM_THREADS" not in os.environ:
            # Otherwise each worker would use all cores, and they would wait for each other.
            environment["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // args.num_workers, 1))
        self._start("scheduler", 0, None, environment)
        for role, count in (("server", args.num_servers), ("worker", args.num_workers)):
            for rank in range(count):
                self._start(role, rank, hosts[rank % len(hosts)] if hosts else None, environment)

    def _start(self, role, rank, host, environment):
        environment = {**environment, "DMLC_ROLE": role, "DMLC_RANK": str(rank), **self.args.env}
        timeout = self.args.network_timeout
        supervised = ["-c", SUPERVISOR, str(timeout) if host else "", *self.args.command]
        if host:
            forwarded = {name: value for name, value in os.environ.items()
                         if name in FORWARDED or name.startswith(FORWARDED_PREFIXES)}
            command = ssh_command(host, self.args.remote_dir or os.getcwd(),
                                  {**forwarded, **environment}, ["python3", *supervised],
                                  timeout)
            local = None
        else:
            command, local = [sys.executable, *supervised], {**os.environ, **environment}
        supervisor = subprocess.Popen(
            command, env=local, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True)
        name = role if role == "scheduler" else f"{role} {rank}"
        process = Process(role, name, supervisor)
        self.processes.append(process)
        if self.signal and role == "worker":
            process.send(self.signal)

    def _watch(self):
        """Wait until all workers have ended or a process fails; the exit status."""
        while True:
            self._look()
            failed = self.failed
            if failed and not (self.signal and failed.status == 128 + self.signal):
                report(f"{failed.name} ended with exit status {failed.status}: ending all")
                return failed.status
            if all(p.status is not None for p in self.processes if p.role == "worker"):
                return failed.status if failed else 0
            if self.signal and time.monotonic() > self.signalled + SECONDS_TO_SAVE:
                report("not all have ended after the signal: killing the rest")
                return 128 + self.signal

    def pass_on(self, number, frame=None):
        """Pass a signal on to the workers, which save and stop. A second one kills all."""
        if not self.signal:
            self.signal, self.signalled = number, time.monotonic()
            # The workers need the scheduler and the servers until they have saved.
            self._send(number, ("worker",))
        elif time.monotonic() - self.signalled > SECONDS_OF_ONE_SIGNAL:
            self._send(signal.SIGKILL)

    def _end(self, succeeded):
        """End all processes; after success servers and scheduler end by themselves."""
        if not succeeded:
            self._send(signal.SIGTERM)
        self._wait(SECONDS_TO_LEAVE)
        self._send(signal.SIGKILL)
        self._wait(SECONDS_TO_DIE)
        for process in self.processes:
            if process.status is None:
                process.supervisor.kill()
                process.supervisor.wait()
            process.supervisor.stdin.close()

    def _send(self, number, roles=("scheduler", "server", "worker")):
        for process in self.processes:
            if process.role in roles:
                process.send(number)

    def _wait(self, seconds):
        """Wait, so long at most, until all have ended and all that they wrote is printed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(
                p.status is None or p.output.is_alive() for p in self.processes):
            self._look()

    def _look(self):
        """Note, after a moment, which processes have ended."""
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if self.hosts and time.monotonic() > self.next_sign_of_life:
            self.next_sign_of_life = time.monotonic() + self.args.network_timeout / 5
            self._send(0)
        for process in self.processes:
            if process.status is None and process.supervisor.poll() is not None:
                process.output.join(SECONDS_BETWEEN_LOOKS)  # its last lines before what follows
                status = process.supervisor.returncode
                process.status = status if status >= 0 else 128 - status
                self.failed = self.failed or (process if process.status else None)


def report(text):
    """Print a message of launch.py itself."""
    _print(sys.stderr, f"launch.py: {text}".encode(errors="backslashreplace"))


def _print(stream, line):
    """Print a line as long as somebody reads: a closed terminal ends no run before it has saved."""
    try:
        stream.buffer.write(line + b"\n")
        stream.buffer.flush()
    except OSError:
        silence(stream)


def read_hosts(path):
    """Read a file of hosts, one per line as [user@]name[:port]; # begins a comment."""
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(getattr(error, "strerror", "not UTF-8 text"), file=path) from None
    hosts = []
    for number, line in enumerate(lines, 1):
        host = line.partition("#")[0].strip()
        if not host:
            continue
        match = HOST.fullmatch(host)
        if not match or match[1] and not 0 < int(match[1]) < 65536:
            raise InputError(f"{host!r} is not [user@]name[:port]", file=path, line=number)
        hosts.append(host)
    if not hosts:
        raise InputError("names no host", file=path)
    return hosts


def ssh_command(host, folder, environment, command, timeout):
    """Arguments of ssh that run a command on a host, whatever characters it contains.

    `host` is one of `read_hosts`; `folder`, where the command runs, is absolute or ~/FOLDER. ssh
    ends when the host does not answer for `timeout` seconds.
    """
    name, _, port = host.partition(":")
    words = ["env", *(f"{key}={value}" for key, value in environment.items()), *command]
    # Only the host knows its home folder.
    home, folder = ("~/", folder[2:]) if folder.startswith("~/") else ("", folder)
    remote = f"cd {home}{shlex.quote(folder)} && exec {' '.join(map(shlex.quote, words))}"
    options = {"ConnectTimeout": timeout, "ServerAliveInterval": max(timeout // 5, 1),
               "ServerAliveCountMax": 3,
               "BatchMode": "yes"}  # without a terminal nobody could type a password
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", *words, *(["-p", port] if port else []), "--", name, remote]


def own_address(hosts):
    """The address at which the hosts reach this machine; 127.0.0.1 if all are this machine."""
    for host in hosts:
        name = host.rpartition("@")[2].partition(":")[0]
        try:
            address = address_towards(name)
        except OSError as error:
            raise InputError(f"{name}: {error.strerror}; {{flag}} says at which address the hosts "
                             "reach this machine", flag="--host-ip") from None
        if not ipaddress.ip_address(address).is_loopback:
            return address
    return "127.0.0.1"


def free_port(address, port=None):
    """A port of this machine's address that is free at the moment: `port`, or any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port or 0))
        except OSError as error:
            raise InputError(
                f"{address}, port {port or 'any'}: {error.strerror.lower()}") from None
        return probe.getsockname()[1]
