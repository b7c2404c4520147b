"""What the C library keeps of the memory that was freed."""

from __future__ import annotations

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2


def keep_few_arenas() -> None:
    """Let all threads allocate from few heaps; call it before there are any.

    The GNU library would give up to eight to each core, and each keeps the most that was ever allocated
    there: with large content on its way through, many times what is in use. Other libraries stay as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, _ARENAS)
