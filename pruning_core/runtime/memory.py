# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What the C library does with memory that was freed: kept in training, given back in control.

The tensors of an update are megabytes each. glibc returns such blocks to the system as soon as
they are free, and gets them back page by page: 16,000 page faults an update at the reference's
sizes, a tenth of its time (`python benchmarks/training.py`). A controller allocates nothing of
that size in its loop, but loads bundles that come and go: glibc, which keeps larger blocks the
larger the ones that were freed, would let one heap grow around their holes.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEEP_BYTES = 1 << 28
_RETURN_BYTES = 1 << 17  # glibc's own bound, before it begins to raise it


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MB that it has freed.

    Returns:
        Whether the C library was told; others than glibc have no such setting, and are left alone.
    """
    return _tell((_M_MMAP_THRESHOLD, _KEEP_BYTES), (_M_TRIM_THRESHOLD, _KEEP_BYTES))


def return_freed_memory() -> bool:
    """Let this process give blocks of 128 KB and more back as soon as they are freed.

    Returns:
        Whether the C library was told; others than glibc have no such setting, and are left alone.
    """
    return _tell((_M_MMAP_THRESHOLD, _RETURN_BYTES), (_M_TRIM_THRESHOLD, _RETURN_BYTES))


def _tell(*settings: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    done = [mallopt(*setting) for setting in settings]
    return all(done)
