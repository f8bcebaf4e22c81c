"""How much memory this process may still take."""
import math
from pathlib import Path

from common.processors import control_groups

# The limit, the memory in use, and the prefix of memory.stat's lines, in each version of Linux's
# control groups.
CGROUP_FILES = (("memory.max", "memory.current", ""),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))


def available_memory(root="/"):
    """Bytes that the machine has free and the container may still take; infinity if unknown.

    Counted as free is what the system only keeps of files that were read. /proc and /sys are
    looked up in `root`.
    """
    free = _values(Path(root, "proc/meminfo")).get("MemAvailable:", math.inf) * 1024
    return max(min([free, *map(_left_in, control_groups("memory", root))]), 0)


def _left_in(group):
    """Bytes below a control group's limit."""
    for limit, usage, prefix in CGROUP_FILES:
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
