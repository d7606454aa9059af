# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The C library's memory, kept for the next update instead of being given back after each.

The tensors of an update are megabytes each. glibc returns such blocks to the system as soon as
they are free, and gets them back page by page: 16,000 page faults an update at the reference's
sizes, a tenth of its time (`python benchmarks/training.py`).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEEP_BYTES = 1 << 28


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MB that it has freed.

    Returns:
        Whether the C library was told; others than glibc have no such setting, and are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES), mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)])
