"""Freed memory that stays with the process, so that every update finds its tensors' pages already there."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_ALL = 2**30  # bytes; larger than any tensor of an update


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed instead of giving it back to the system; returns whether it was told.

    Large tensors, such as the ``[K, P]`` task gradients, are otherwise given back at the end of every update and taken
    again, page by page, at the next: for MT10 a third of the time that the task gradients take. The process grows
    no larger than its largest moment. Other systems and allocators are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _ALL)) and bool(mallopt(_TRIM_THRESHOLD, _ALL))
