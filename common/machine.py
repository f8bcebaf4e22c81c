"""How many processors and how much memory this process may use.

Functions that take `root` look up /proc and /sys in it.
"""
import math
import os
from pathlib import Path

# In versions 2 and 1 of Linux's control groups: where the quota and its period stand; the limit,
# the memory in use, and the prefix of memory.stat's lines.
CPU_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
MEMORY_FILES = (("memory.max", "memory.current", ""),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))


def processors():
    """Number of processors that the process may run on, hyperthreads counted, at least 1.

    A container's CPU quota is kept: with 1.5 processors' worth of time it is 2.
    """
    return math.ceil(min(len(os.sched_getaffinity(0)), max(cgroup_quota(), 1)))


def physical_cores():
    """Number of cores that the process may run on, hyperthreads not counted twice, at least 1."""
    cores = set()
    for number in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        cores.add(topology.read_text() if topology.exists() else number)
    return min(len(cores), processors())


def cgroup_quota(root="/"):
    """Processors' worth of time that control groups allow the process; infinity without limit."""
    return min(map(_quota_of, _control_groups("cpu", root)), default=math.inf)


def available_memory(root="/"):
    """Bytes that the machine has free and the container may still take; infinity if unknown.

    Counted as free is what the system only keeps of files that were read.
    """
    free = _values(Path(root, "proc/meminfo")).get("MemAvailable:", math.inf) * 1024
    return max(min([free, *map(_left_in, _control_groups("memory", root))]), 0)


def _control_groups(controller, root):
    """The folders of the control groups that bound this process's `controller`."""
    try:
        lines = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return set()
    groups = set()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = Path(root, "sys/fs/cgroup", controllers and controller)
        group = mount / path.lstrip("/")
        # Within a container the path may be the host's, while the mount begins at its own group.
        groups |= {mount, group, *(p for p in group.parents if mount in p.parents)}
    return groups


def _quota_of(group):
    for names in CPU_FILES:
        try:
            limit, period = " ".join((group / name).read_text() for name in names).split()
            if limit not in ("max", "-1"):
                return int(limit) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            pass
    return math.inf


def _left_in(group):
    """Bytes below a control group's limit."""
    for limit, usage, prefix in MEMORY_FILES:
        try:
            left = int((group / limit).read_text()) - int((group / usage).read_text())
        except (OSError, ValueError):  # other version, or "max"
            continue
        cached = _values(group / "memory.stat")
        return left + sum(cached.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    return math.inf


def _values(path):
    """The numbers of a file of lines `NAME NUMBER ...`, by name."""
    try:
        fields = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {field[0]: int(field[1]) for field in fields if len(field) > 1 and field[1].isdigit()}
