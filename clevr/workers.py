"""Worker processes: how many this machine allows, and how they end."""

import multiprocessing
import os
import threading
from pathlib import Path

WORKER_BYTES = (
    0.5e9  # measured: 0.2 GB to render, 0.4 if the renderer has to be compiled
)


def default_workers(root="/"):
    """How many workers this process may run, at least 1. A container shows all the CPUs and memory of its
    machine, so the limits of the control groups (cgroups) count, too."""
    cpus = [
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    ]
    memory = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in control_groups(Path(root)):  # version 2, or version 1
        quota = numbers_in(folder, "cpu.max") or numbers_in(
            folder, "cpu.cfs_quota_us", "cpu.cfs_period_us"
        )
        if len(quota) == 2 and quota[0] > 0:  # -1 is no limit
            cpus.append(quota[0] / quota[1])
        memory += numbers_in(folder, "memory.max") or numbers_in(
            folder, "memory.limit_in_bytes"
        )
    return max(1, int(min(*cpus, min(memory) / WORKER_BYTES)))


def control_groups(root):
    """The folders of this process's control groups and all above them, of which the highest limit nothing."""
    path = root / "proc/self/cgroup"  # only Linux has it
    for line in path.read_text().splitlines() if path.exists() else ():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            folder = root / "sys/fs/cgroup" / controller / group.lstrip("/")
            yield from (folder, *folder.parents)


def numbers_in(folder, *names):
    """The whole numbers in these files; none if one is missing or sets no limit ("max")."""
    try:
        return [
            int(word) for name in names for word in (folder / name).read_text().split()
        ]
    except (OSError, ValueError):
        return []


def end_with_parent():
    """Ends this worker with its parent; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
