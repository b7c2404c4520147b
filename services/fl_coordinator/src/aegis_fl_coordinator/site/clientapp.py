"""Flower's ClientApp process at a site, which does nothing that the site's policy does not allow.

Flower starts it by the name `flwr-clientapp`, once for each message. Before a line of the app is read, the
bundle, the run and the message are held against the policy; a refusal goes back as an error with its reason.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, Message
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

from aegis_common.errors import AegisError
from aegis_fl_coordinator.clientapp.local_noise import NOISE_MULTIPLIER, RECORD, private_updates
from aegis_fl_coordinator.domain.site_policy import Ask, refusal
from aegis_fl_coordinator.flower import SITE_HOME_VARIABLE, SITE_POLICY_VARIABLE
from aegis_fl_coordinator.runfile import RUN_KEY
from aegis_fl_coordinator.site.policy_file import SpentFile, read_policy

FLOWER_MODULE: Final = "flwr.supernode.runtime.run_clientapp"


class SiteRefused(Exception):
    """The site's policy does not allow what was asked."""


class Guard:
    """Stands between Flower and the app of one message.

    Args:
        policy: File of the policy; read now, so that a change counts from the next message on.
        folder: Keeps what the node has spent.
    """

    def __init__(self, policy: Path, folder: Path) -> None:
        self._policy = policy
        self._spent = SpentFile(folder)

    def check(self, bundle: bytes, message: Message, run_config: Any) -> None:
        """Return when the policy allows it, which is then counted.

        Raises:
            SiteRefused: It does not, or cannot be read.
        """
        record = message.content.config_records.get(RECORD)
        noise = record.get(NOISE_MULTIPLIER) if record is not None else None
        ask = Ask(
            hashlib.sha256(bundle).hexdigest(),
            str(run_config.get(RUN_KEY, "")),
            # Flower's kinds may have a name behind a dot.
            message.metadata.message_type.partition(".")[0],
            float(noise)
            if isinstance(noise, int | float) and not isinstance(noise, bool) and noise > 0
            else None,
        )
        try:
            policy = read_policy(self._policy)
            with self._spent.locked() as spent:
                fault = refusal(policy, ask, spent)
                if not fault:
                    # First counted, then done: a process that is killed has been counted.
                    self._spent.write(spent.after(ask))
        except (AegisError, OSError) as error:
            raise SiteRefused(f"the site's policy allows nothing: {error}") from error
        if fault:
            raise SiteRefused(f"refused by the site's policy: {fault}")


def noisy(app: Callable[..., Message]) -> Callable[..., Message]:
    """Return *app* with the noise that a message asks for, whether it has the mod itself or not."""

    def call(message: Message, context: Context) -> Message:
        def inner(message: Message, context: Context) -> Message:
            # Once is enough: the app's own mod finds nothing to do.
            message.content.pop(RECORD, None)
            return app(message=message, context=context)

        return private_updates(message, context, inner)

    return call


def install(guard: Guard) -> None:
    """Put *guard* between Flower and the app, in this process.

    Raises:
        AttributeError: Flower is of another version and has no such place: nothing may run.
    """
    flower: Any = importlib.import_module(FLOWER_MODULE)
    pull, unpack, loader = flower.pull_task_input, flower.install_from_fab, flower.get_load_client_app_fn
    asked: list[tuple[Message, Context]] = []

    def guarded_pull(client: Any) -> Any:
        message, context, run, fab = pull(client)
        asked.append((message, context))
        return message, context, run, fab

    def guarded_unpack(content: bytes, *args: Any, **options: Any) -> Any:
        message, context = asked[-1]
        # Here, where a refusal is answered with its reason, and before any file of the app is written.
        guard.check(content, message, context.run_config)
        return unpack(content, *args, **options)

    def guarded_loader(*args: Any, **options: Any) -> Callable[..., Callable[..., Message]]:
        load = loader(*args, **options)
        return lambda *names: noisy(load(*names))

    flower.pull_task_input = guarded_pull
    flower.install_from_fab = guarded_unpack
    flower.get_load_client_app_fn = guarded_loader


def main() -> None:
    """Run what Flower calls `flwr-clientapp`."""
    environment = os.environ  # noqa: TID251  # Flower's process has no Settings
    try:
        install(Guard(Path(environment[SITE_POLICY_VARIABLE]), Path(environment[SITE_HOME_VARIABLE])))
    except (KeyError, AttributeError) as error:
        sys.exit(f"aegis: the site's policy cannot be kept, so nothing runs: {error!r}")
    flwr_clientapp()


if __name__ == "__main__":
    main()
