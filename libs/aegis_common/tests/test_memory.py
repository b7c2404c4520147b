"""Memory that many threads allocated and freed."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ctypes, re, sys, threading
if {few}:
    from aegis_common.memory import keep_few_arenas
    keep_few_arenas()
everyone = threading.Barrier(8)
def work():
    everyone.wait()
    held = [ctypes.create_string_buffer(1 << 10) for _ in range(100)]
    everyone.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
library = ctypes.CDLL(None)
library.open_memstream.restype = library.fopen.restype = ctypes.c_void_p
text, size = ctypes.c_char_p(), ctypes.c_size_t()
stream = ctypes.c_void_p(library.open_memstream(ctypes.byref(text), ctypes.byref(size)))
library.malloc_info(0, stream)
library.fclose(stream)
print(text.value.count(b"<heap "))
"""


def arenas(*, few: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{few}", str(few))],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return int(done.stdout)


def test_threads_share_two_heaps() -> None:
    assert arenas(few=False) > 2
    assert 2 == arenas(few=True)
