"""The values that a caller may give an app."""

from __future__ import annotations

import pytest

from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.ports import AppBundle
from aegis_fl_coordinator.domain.run import ConfigValue
from aegis_fl_coordinator.domain.training import checked_config

APP = AppBundle("app", b"", "", {"aegis-run": "", "rate": 0.1, "epochs": 1, "name": "a", "fast": False})


def test_values_get_the_type_that_the_app_declares() -> None:
    checked = checked_config({"rate": 1, "epochs": 5.0, "name": "b", "fast": True}, APP)

    assert checked == {"rate": 1.0, "epochs": 5, "name": "b", "fast": True}
    assert [type(value) for value in checked.values()] == [float, int, str, bool]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"epochs": 1.5}, "epochs: 1.5 is no int"),
        ({"epochs": float("inf")}, "epochs: inf is no int"),
        ({"epochs": True}, "epochs: True is no int"),
        ({"rate": "0.1"}, "rate: '0.1' is no float"),
        ({"name": 1.0}, "name: 1.0 is no str"),
        ({"fast": 1.0}, "fast: 1.0 is no bool"),
        ({"colour": "red"}, "colour: not one of epochs, fast, name, rate"),
        ({"aegis-run": "other"}, "aegis-run: not one of epochs, fast, name, rate"),
    ],
)
def test_other_values_are_refused_by_name(config: dict[str, ConfigValue], fault: str) -> None:
    with pytest.raises(InvalidRunConfig, match=f"app_config does not fit app 'app': {fault}") as error:
        checked_config(config, APP)

    assert [path.rsplit(".", 1)[-1] for path in error.value.violations] == list(config)
