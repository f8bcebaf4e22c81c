"""Start a training run of several workers, on this machine or on several, and supervise it.

    python tools/launch.py -n 2 -s 1 python train_multilabel.py --kv-store dist_sync ...
    python tools/launch.py -n 4 -s 4 -H hosts.txt --launcher ssh python train_multilabel.py ...

The same command runs as scheduler, servers and workers; MXNet distinguishes them by the DMLC_*
variables. When one of them fails, all are ended, and the exit status is that of the first failure.
"""
import argparse
import ipaddress
import re
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import ArgumentParser, InputError, at_least, run
from distributed.launcher import Attempt, read_hosts, report


def parse_args(argv=None):
    """Parse and check the flags; see --help."""
    parser = ArgumentParser(
        description="Start a training run of several workers, and supervise it.",
        allow_abbrev=False)
    add = parser.add_argument
    add("-n", "--num-workers", type=at_least(1), required=True, metavar="N",
        help="number of workers")
    add("-s", "--num-servers", type=at_least(1), metavar="N",
        help="number of servers (default: as many as workers)")
    add("--launcher", choices=["local", "ssh"], default="local",
        help="start them on this machine, or over ssh on the hosts of -H")
    add("-H", "--hostfile", metavar="FILE",
        help="hosts, one per line as [user@]name[:port]; servers and workers are assigned to them "
             "in turn, the scheduler runs here")
    add("--remote-dir", metavar="DIR",
        help="working folder on the hosts, absolute or ~/FOLDER (default: this one's path)")
    add("--host-ip", type=ipaddress.IPv4Address, metavar="ADDRESS",
        help="IPv4 address at which the hosts reach this machine; only there and in the same "
             "network does the run listen (default: that of the route to the first host)")
    add("-p", "--port", type=at_least(1, bits=16), metavar="PORT",
        help="port of the scheduler (default: any free one)")
    add("--env", action="append", type=_variable, default=[], metavar="NAME=VALUE",
        help="a further variable for all processes; may be repeated")
    add("--max-restarts", type=at_least(0), default=0, metavar="N",
        help="times that all processes are restarted with --resume after a failure; not after a "
             "mistake in flags or data (exit status 2); restarts are at least --network-timeout "
             "apart")
    add("--network-timeout", type=at_least(5), default=60, metavar="SECONDS",
        help="all processes end with a message when the network between them is lost for so long, "
             "or when they do not find each other in this time at the start")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND ...",
        help="what the scheduler, the servers and the workers run")
    args = parser.parse_args(argv)
    args.command = args.command[args.command[:1] == ["--"]:]
    args.num_servers = args.num_servers or args.num_workers
    if not args.command:
        raise InputError("nothing to start: the command comes last, for instance python "
                         "train_multilabel.py ...")
    if (args.launcher == "ssh") != bool(args.hostfile):
        raise InputError("{flag} ssh and -H HOSTFILE belong together", flag="--launcher")
    if args.launcher == "ssh" and not shutil.which("ssh"):
        raise InputError("there is no program ssh on this machine", flag="--launcher")
    args.env = dict(args.env)
    return args


def _variable(text):
    """NAME=VALUE as (name, value)."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", text, re.DOTALL):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return text.split("=", 1)


def main(argv=None):
    """Run the processes, with up to --max-restarts restarts; return the exit status."""
    args = parse_args(argv)
    hosts = read_hosts(args.hostfile) if args.hostfile else []
    if not {"--resume", "--resume-anyway"} & set(args.command):
        # A restart then resumes from snapshots of this run only, not of an earlier one.
        args.env.setdefault("MULTILABEL_RUN_ID", secrets.token_hex(8))
    restarts, next_restart = 0, 0
    while True:
        attempt = Attempt(args, hosts)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, attempt.pass_on)
        status = attempt.run()
        if status in (0, 2) or attempt.signal or restarts == args.max_restarts:
            return status
        # Until a network is back, restarts would fail at once and soon be used up.
        if time.monotonic() < next_restart:
            report(f"waiting until {args.network_timeout} s have passed since the last start")
        while time.monotonic() < next_restart:
            time.sleep(0.1)
            if attempt.signal:
                return 128 + attempt.signal
        next_restart = time.monotonic() + args.network_timeout
        restarts += 1
        report(f"starting anew with --resume ({restarts} of {args.max_restarts})")
        if "--resume" not in args.command:
            args.command.append("--resume")


if __name__ == "__main__":
    run(main)
