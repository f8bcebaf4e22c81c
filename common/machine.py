"""How many processors and how much memory this process may use.

Functions that take `root` look up /proc and /sys in it.
"""
import math
import os
from pathlib import Path

# In versions 2 and 1 of Linux's control groups: the quota and its period; the limit and the memory
# in use.
CPU_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
MEMORY_FILES = (("memory.max", "memory.current"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes"))


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
    return min((quota / period for _, quota, period in _limits("cpu", CPU_FILES, root)
                if quota > 0), default=math.inf)


def available_memory(root="/"):
    """Bytes that the machine has free and the container may still take; infinity if unknown.

    Counted as free is what the system only keeps of files that were read.
    """
    free = [_values(Path(root, "proc/meminfo")).get("MemAvailable:", math.inf) * 1024]
    for group, limit, used in _limits("memory", MEMORY_FILES, root):
        stat = _values(group / "memory.stat")
        cached = sum(stat.get(f"total_{kind}_file", stat.get(f"{kind}_file", 0))  # version 1, or 2
                     for kind in ("active", "inactive"))
        free.append(limit - used + cached)
    return max(min(free), 0)


def _limits(controller, files, root):
    """Each control group that has a limit, and two numbers that its `files` hold."""
    for group in _control_groups(controller, root):
        for names in files:
            try:
                first, second = " ".join((group / name).read_text() for name in names).split()
                yield group, int(first), int(second)
            except (OSError, ValueError):  # another version's, or "max"
                pass


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


def _values(path):
    """The numbers of a file of lines `NAME NUMBER ...`, by name."""
    try:
        fields = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {field[0]: int(field[1]) for field in fields if len(field) > 1 and field[1].isdigit()}
