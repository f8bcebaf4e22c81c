"""How many processors this process may use."""
import math
import os
from pathlib import Path


def processors():
    """Number of processors that the process may run on, hyperthreads counted, at least 1.

    A container's CPU quota is kept: with 1.5 processors' worth of time it is 2.
    """
    count = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
             else os.cpu_count() or 1)
    return math.ceil(min(count, max(cgroup_quota(), 1)))


def physical_cores():
    """Number of cores that the process may run on, hyperthreads not counted twice, at least 1."""
    if not hasattr(os, "sched_getaffinity"):
        return max((os.cpu_count() or 1) // 2, 1)
    cores = set()
    for number in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        cores.add(topology.read_text() if topology.exists() else number)
    return min(len(cores), processors())


def cgroup_quota(root="/"):
    """Processors' worth of time that Linux's control groups, versions 1 and 2, allow the process.

    Infinity where nothing limits it.
    """
    return min(map(_quota_of, control_groups("cpu", root)), default=math.inf)


def control_groups(controller, root="/"):
    """The folders of the control groups, versions 1 and 2, that bound this process's `controller`.

    proc/self/cgroup and sys/fs/cgroup are looked up in `root`.
    """
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


def _quota_of(folder):
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            limit, period = " ".join((folder / name).read_text() for name in names).split()
            if limit not in ("max", "-1"):
                return int(limit) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            pass
    return math.inf
