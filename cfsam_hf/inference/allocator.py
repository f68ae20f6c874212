"""The C library's allocator, told to keep what a network frees.

A network's large tensors are freed and asked for again many times a second. glibc gives blocks above 32 MB back to the
kernel at once, which has to clear every page of the next one; a fifth of the time of a tile on two cores went there.
"""

import ctypes
import os

# Numbers of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Larger blocks still go back to the kernel: those are a large image's, made once, and no tile's.
LARGEST_KEPT_BYTES = 256 * 2**20
# What is set is the user's choice.
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Lets this process keep freed memory for its next tensors: one heap, of which nothing is given back.

    For programs whose process is theirs, at their start, before tensors are made; a library does not choose this for
    others. The heap stays at its peak until the process ends.

    Returns:
        Whether it is so: not where the C library is another than glibc, or the environment chooses (`VARIABLES`).
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
