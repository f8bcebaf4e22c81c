"""The machines of a distributed run: their names, their addresses, and commands on them by ssh."""
import ipaddress
import re
import shlex
import socket
from pathlib import Path

from common.cli import InputError

HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*")


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
        name, colon, port = host.partition(":")
        good_port = not colon or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
        if not (HOST.fullmatch(name) and good_port):
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
            address = address_towards(name, 22)
        except OSError as error:
            raise InputError(f"{name}: {error.strerror}; {{flag}} says at which address the hosts "
                             "reach this machine", flag="--host-ip") from None
        if not ipaddress.ip_address(address).is_loopback:
            return address
    return "127.0.0.1"


def address_towards(host, port):
    """The IPv4 address of this machine on its route to a host; an OSError if there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # a datagram socket sends nothing: it only chooses the route
        return probe.getsockname()[0]


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
