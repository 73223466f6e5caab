"""Parallel workers: how many there are, and how processes end."""

import multiprocessing
import os
import threading


def default_workers():
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def end_with_parent():
    """Ends this process with its parent; otherwise it would wait for work forever."""
    threading.Thread(target=wait_for_parent, daemon=True).start()


def wait_for_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
