"""The client's profile file of a running stack."""

from __future__ import annotations

from typing import Final

from aegis_client.profiles import Profile, write_profiles
from aegis_local.credentials import CLIENTS
from aegis_local.stack.layout import Layout

PEOPLE: Final = "people"
DEFAULT: Final = "sdk"


def write_stack_profiles(layout: Layout) -> None:
    """Write a profile for each client certificate, and `people`: the JWT door, with a token kept fresh."""
    bundle = layout.credentials.bundle
    machines = f"localhost:{layout.ports['machines']}"
    profiles = {
        account: Profile(
            address=machines, ca=bundle, cert=layout.pair(account).cert, key=layout.pair(account).key
        )
        for account in CLIENTS
    }
    profiles[PEOPLE] = Profile(
        address=f"localhost:{layout.ports['people']}", ca=bundle, token_file=layout.token_file
    )
    write_profiles(layout.state.profiles, profiles, default=DEFAULT)
