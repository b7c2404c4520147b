"""The kernel's limit on watched files is known before Envoy aborts on it."""

from __future__ import annotations

import ctypes
import os

import pytest

from aegis_local import watches
from aegis_local.errors import TooFewWatches


def test_an_instance_of_this_process_is_counted() -> None:
    before = watches.free()
    number = ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_CLOEXEC)
    try:
        after = watches.free()
    finally:
        os.close(number)

    assert before is not None
    assert after is not None
    assert after < before


def test_more_sites_than_the_kernel_allows_are_refused_with_the_way_out() -> None:
    with pytest.raises(TooFewWatches, match=r"max_user_instances"):
        watches.check(1_000_000)


def test_a_stack_without_sites_needs_less() -> None:
    assert watches.needed(0) < watches.needed(3)
