"""Makes the C library's allocator keep the memory that a network frees.

A network frees and requests large tensors many times a second. glibc returns blocks above 32 MB to the kernel at once,
which then has to clear every page of the next one; that took a fifth of the time of a tile on two cores.
"""

import ctypes
import os

# Numbers of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Larger blocks are still returned: they belong to a large image or a region of a slide, are made once, and would leave
# gaps in the heap. The largest tensor of a window of 576 px in cfsam-tiny is smaller.
LARGEST_KEPT_BYTES = 48 * 2**20
# If the user sets one of these, that choice stands.
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Lets this process keep freed memory for its next tensors, in one heap that is never trimmed.

    For programs that own their process, at their start, before any tensors are made; a library does not decide this
    for others. The heap stays at its peak size until the process ends.

    Returns:
        False if nothing changed: the C library is not glibc, or the environment decides (`VARIABLES`).
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (musl has a mallopt that does nothing)
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: LARGEST_KEPT_BYTES, M_TRIM_THRESHOLD: 2**31 - 1}
    return all(mallopt(option, value) == 1 for option, value in options.items())
