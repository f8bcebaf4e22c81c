"""Start a training run of several workers, on this machine or on several, and look after it.

    python tools/launch.py -n 2 -s 1 python train_multilabel.py --kv-store dist_sync ...
    python tools/launch.py -n 4 -s 4 -H hosts.txt --launcher ssh python train_multilabel.py ...

The same command runs as scheduler, servers and workers; MXNet tells them apart by the DMLC_*
variables. When one of them fails all are ended, and the exit status is that of the first failure.
"""
import argparse
import contextlib
import dataclasses
import ipaddress
import math
import os
import re
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import ArgumentParser, HelpFormatter, InputError, run  # noqa: E402

# Variables of this process that remote ones get too, beside MXNet's own and --env.
TRAVELLING = ("PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
              "DMLC_INTERFACE")
TRAVELLING_PREFIXES = ("MXNET_", "PS_")
HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*")

SECONDS_TO_SAVE = 120  # after a signal; a second one ends all at once
SECONDS_TO_FOLLOW = 30  # after a signal, once a process has ended by it
SECONDS_TO_FAIL = 5  # after a signal, once a process has failed: the others may wait for it
SAME_SIGNAL = 0.2  # seconds within which a second signal is the first one, by another way
SECONDS_TO_LEAVE = 3  # after a failure, and for servers after the last worker
SECONDS_TO_DIE = 5

# Runs beside each process, on its machine: signals come as numbers over standard input, and
# its end, however launch.py or the connection died, ends the process with all its children. Its
# own end, by kill -9 say, ends the process too (PR_SET_PDEATHSIG, on Linux).
KEEPER = """
import ctypes, os, signal, subprocess, sys, threading
def end_with_me():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
def send(number):
    try:
        os.killpg(job.pid, number)
    except ProcessLookupError:
        pass
def obey():
    for line in sys.stdin:
        send(int(line))
    send(signal.SIGKILL)
try:
    job = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True,
                           preexec_fn=end_with_me)
except OSError as error:
    sys.exit("%s: %s" % (sys.argv[1], error.strerror))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
threading.Thread(target=obey, daemon=True).start()
status = job.wait()
send(signal.SIGKILL)
sys.stdout.flush()
os._exit(status if status >= 0 else 128 - status)
"""


@dataclasses.dataclass
class Process:
    """One of the scheduler, the servers and the workers."""

    role: str
    rank: int
    keeper: subprocess.Popen
    unfinished: bytes = b""
    status: int = None

    @property
    def name(self):
        """As it stands before its lines."""
        return "scheduler" if self.role == "scheduler" else f"{self.role} {self.rank}"

    def send(self, number):
        """Send a signal to it and its children; nothing where it has ended."""
        with contextlib.suppress(OSError):
            self.keeper.stdin.write(b"%d\n" % number)


class Job:
    """Scheduler, servers and workers of one attempt.

    Parameters
    ----------
    args : argparse.Namespace
    hosts : list of str
        Where servers and workers run, in turn; empty for this machine.
    command : list of str
    """

    def __init__(self, args, hosts, command):
        self.args, self.hosts, self.command = args, hosts, command
        self.processes = []
        self.selector = selectors.DefaultSelector()
        self.signal = self.signalled = None
        self.failed = None  # the first of whose failure was heard

    def start(self):
        """Start the scheduler, then servers and workers."""
        args, hosts = self.args, self.hosts
        address = args.host_ip or _own_address(hosts)
        environment = {
            "DMLC_PS_ROOT_URI": address, "DMLC_PS_ROOT_PORT": str(_port(address, args.port)),
            "DMLC_NUM_WORKER": str(args.num_workers), "DMLC_NUM_SERVER": str(args.num_servers)}
        if ipaddress.ip_address(address).is_loopback:
            environment["DMLC_NODE_HOST"] = address
        if not hosts and "OMP_NUM_THREADS" not in os.environ:
            # Each would else take all cores, and they would wait for each other.
            environment["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // args.num_workers, 1))
        self._start("scheduler", 0, None, environment)
        for role, count in (("server", args.num_servers), ("worker", args.num_workers)):
            for rank in range(count):
                self._start(role, rank, hosts[rank % len(hosts)] if hosts else None, environment)

    def _start(self, role, rank, host, environment):
        environment = {**environment, "DMLC_ROLE": role, "DMLC_RANK": str(rank), **self.args.env}
        if host is None:
            keep = [sys.executable, "-c", KEEPER, *self.command]
            here = {**os.environ, **environment}
        else:
            travelling = {name: value for name, value in os.environ.items()
                          if name in TRAVELLING or name.startswith(TRAVELLING_PREFIXES)}
            keep = ssh_command(host, self.args.remote_dir or os.getcwd(),
                               {**travelling, **environment}, self.command)
            here = None
        keeper = subprocess.Popen(
            keep, env=here, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True)
        process = Process(role, rank, keeper)
        self.processes.append(process)
        self.selector.register(keeper.stdout, selectors.EVENT_READ, process)
        if self.signal and role == "worker":
            process.send(self.signal)

    def watch(self):
        """Pass lines on until all workers are done or one process failed; the exit status."""
        deadline = None
        while True:
            self._read(0.1)
            failed, now = self.failed, time.monotonic()
            if failed and not self.signal:
                _say(f"{failed.name} ended with exit status {failed.status}: ending all")
                return failed.status
            if all(p.status is not None for p in self.processes if p.role == "worker"):
                return failed.status if failed else 0
            if self.signal:
                deadline = min(deadline or math.inf, now + SECONDS_TO_SAVE)
            if self.signal and failed:
                by_signal = failed.status == 128 + self.signal
                deadline = min(deadline, now + (
                    SECONDS_TO_FOLLOW if by_signal else SECONDS_TO_FAIL))
            if deadline and now > deadline:
                _say("not all have ended after the signal: killing the rest")
                return failed.status if failed else 128 + self.signal

    def pass_on(self, number, frame=None):
        """Pass a signal on: workers save and stop. A second one ends them at once."""
        if self.signal:
            if time.monotonic() - self.signalled > SAME_SIGNAL:
                self.kill()
            return
        self.signal, self.signalled = number, time.monotonic()
        for process in self.processes:
            # Without scheduler and servers the workers could not save.
            if process.role == "worker":
                process.send(number)

    def end(self, friendly=False):
        """End what still runs; on return nothing does.

        Parameters
        ----------
        friendly : bool
            All workers are done: servers and scheduler are about to leave by themselves.
        """
        if not friendly:
            for process in self.processes:
                process.send(signal.SIGTERM)
        self._read_until(time.monotonic() + SECONDS_TO_LEAVE)
        self.kill()
        self._read_until(time.monotonic() + SECONDS_TO_DIE)
        for process in self.processes:
            if process.status is None:
                process.keeper.kill()
                process.keeper.wait()
            process.keeper.stdin.close()
        self.selector.close()

    def kill(self):
        """Kill what still runs."""
        for process in self.processes:
            if process.status is None:
                process.send(signal.SIGKILL)

    def _read_until(self, deadline):
        while time.monotonic() < deadline and (
                self.selector.get_map() or any(p.status is None for p in self.processes)):
            self._read(0.1)

    def _read(self, seconds):
        """Pass on what was written meanwhile, line by line, and note who ended."""
        if self.selector.get_map():
            for key, _ in self.selector.select(seconds):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    self.selector.unregister(key.fileobj)
                _write(key.data, data)
        else:
            time.sleep(seconds)
        for process in self.processes:
            if process.status is None:
                status = process.keeper.poll()
                process.status = status if status is None or status >= 0 else 128 - status
                self.failed = self.failed or (process if process.status else None)


def _write(process, data):
    """Write whole lines, each behind the name of its process; b"" ends the last line."""
    *lines, process.unfinished = (process.unfinished + data).split(b"\n")
    if not data and process.unfinished:
        lines, process.unfinished = [process.unfinished], b""
    for line in lines:
        # Of a progress bar, which goes back to the line's begin, only the last state.
        shown = line.rstrip(b"\r").rpartition(b"\r")[2]
        sys.stdout.buffer.write(b"[%s] %s\n" % (process.name.encode(), shown))
    sys.stdout.buffer.flush()


def _say(text):
    print(f"launch.py: {text}", file=sys.stderr, flush=True)


def ssh_command(host, folder, environment, command):
    """The arguments of ssh that run a command on a host, whatever is in its words.

    Parameters
    ----------
    host : str
        [user@]name[:port], from `read_hosts`.
    folder : str
        Where it runs there.
    environment : dict of str to str
    command : list of str
    """
    name, _, port = host.partition(":")
    words = ["env", *(f"{key}={value}" for key, value in environment.items()),
             "python3", "-c", KEEPER, *command]
    # The home folder there is known there only.
    home, folder = ("~/", folder[2:]) if folder.startswith("~/") else ("", folder)
    remote = f"cd {home}{shlex.quote(folder)} && exec {' '.join(map(shlex.quote, words))}"
    # Without a terminal nobody could type a password.
    return ["ssh", "-o", "BatchMode=yes", *(["-p", port] if port else []), "--", name, remote]


def read_hosts(path):
    """Hosts of a file, one a line as [user@]name[:port]; # begins a comment.

    Raises
    ------
    InputError
        With the line of what is not a host's name.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', 'not UTF-8 text')}") from None
    hosts = []
    for number, line in enumerate(lines, 1):
        host = line.partition("#")[0].strip()
        name, colon, port = host.partition(":")
        good_port = not colon or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
        if host and not (HOST.fullmatch(name) and good_port):
            raise InputError(f"{path}:{number}: {host!r} is not [user@]name[:port]")
        hosts += [host] if host else []
    if not hosts:
        raise InputError(f"{path}: names no host")
    return hosts


def _own_address(hosts):
    """The address at which the hosts reach this machine; a loopback one if all are this machine."""
    for host in hosts:
        name = host.rpartition("@")[2].partition(":")[0]
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                # For datagrams this sends nothing: it only chooses the way.
                probe.connect((name, 22))
                address = probe.getsockname()[0]
        except OSError as error:
            raise InputError(f"{name}: {error.strerror}; --host-ip says at which address the "
                             "hosts reach this machine") from None
        if not ipaddress.ip_address(address).is_loopback:
            return address
    return "127.0.0.1"


def _port(address, wanted):
    """A port that is free at the moment; with `wanted` that one, or an InputError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, wanted or 0))
        except OSError as error:
            raise InputError(f"{address}, port {wanted or 'any'}: "
                             f"{error.strerror.lower()}") from None
        return probe.getsockname()[1]


def parse_args(argv=None):
    """The flags; see --help."""
    parser = ArgumentParser(
        description="Start a training run of several workers, and look after it.",
        allow_abbrev=False, formatter_class=HelpFormatter)
    parser.add_argument("-n", "--num-workers", type=int, required=True, metavar="N",
                        help="workers")
    parser.add_argument("-s", "--num-servers", type=int, metavar="N",
                        help="servers (default: as many as workers)")
    parser.add_argument("--launcher", choices=["local", "ssh"], default="local",
                        help="start them on this machine, or over ssh on the hosts of -H")
    parser.add_argument("-H", "--hostfile", metavar="FILE",
                        help="hosts, one a line as [user@]name[:port]; servers and workers are "
                             "dealt out to them in turn, the scheduler stays here")
    parser.add_argument("--remote-dir", metavar="DIR",
                        help="working folder on the hosts, absolute or ~/FOLDER (default: this "
                             "one's path)")
    parser.add_argument("--host-ip", metavar="ADDRESS",
                        help="address at which the hosts reach this machine (default: that of "
                             "the way to the first)")
    parser.add_argument("-p", "--port", type=int, metavar="PORT",
                        help="port of the scheduler (default: any free one)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE",
                        help="a further variable for all processes; may be repeated")
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N",
                        help="after a failure start all anew, with --resume, so many times; not "
                             "after a mistake in the flags or data (exit status 2)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...",
                        help="what scheduler, servers and workers run")
    args = parser.parse_args(argv)
    args.command = args.command[args.command[:1] == ["--"]:]
    if args.num_servers is None:
        args.num_servers = args.num_workers
    for name, least in (("num_workers", 1), ("num_servers", 1), ("max_restarts", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} must be {least} or more")
    if not args.command:
        raise InputError("nothing to start: the command comes last, python train_multilabel.py "
                         "... say")
    if args.port is not None and not 0 < args.port < 65536:
        raise InputError(f"--port: {args.port} is no port")
    if args.host_ip:
        try:
            ipaddress.IPv4Address(args.host_ip)
        except ValueError:
            raise InputError(f"--host-ip: {args.host_ip} is not an IPv4 address") from None
    if (args.launcher == "ssh") != bool(args.hostfile):
        raise InputError("--launcher ssh and -H HOSTFILE belong together")
    if args.launcher == "ssh" and not shutil.which("ssh"):
        raise InputError("--launcher ssh: there is no program ssh on this machine")
    for setting in args.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", setting, re.DOTALL):
            raise InputError(f"--env: {setting!r} is not NAME=VALUE")
    args.env = dict(setting.split("=", 1) for setting in args.env)
    return args


def main(argv=None):
    """Start the processes, as often as --max-restarts allows; the exit status."""
    args = parse_args(argv)
    hosts = read_hosts(args.hostfile) if args.hostfile else []
    command = args.command
    if not {"--resume", "--resume-anyway"} & set(command):
        # So that a restart goes on from this run's snapshots, and from no earlier run's.
        args.env.setdefault("RUN_ID", secrets.token_hex(8))
    for attempt in range(args.max_restarts + 1):
        job = Job(args, hosts, command)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, job.pass_on)
        status = 1
        try:
            job.start()
            status = job.watch()
        finally:
            job.end(friendly=status == 0)
        if status in (0, 2) or job.signal:
            return status
        if attempt < args.max_restarts:
            _say(f"starting anew with --resume ({attempt + 1} of {args.max_restarts})")
            command = args.command + ["--resume"] * ("--resume" not in args.command)
    return status


if __name__ == "__main__":
    run(main)
