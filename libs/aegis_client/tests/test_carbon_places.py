"""Places: the SDK's forms, and the options of the command line."""

from __future__ import annotations

import pytest
from libs.aegis_client.tests.conftest import Deployment

from aegis_client import AsyncClient, NotFound, UsageError


def test_a_place_is_resolved(deployment: Deployment) -> None:
    with deployment.client() as client:
        exact = client.carbon.resolve_zone(cloud_region="aws/eu-west-2")
        near = client.carbon.resolve_zone(location=(51.5, 0.0))
    by_region, by_point = deployment.carbon.places

    assert ("zones/GB", "somewhere") == (exact.zone, exact.place)
    assert ("EXACT", "table", None) == (
        exact.zones[0].quality,
        exact.zones[0].source,
        exact.zones[0].distance_km,
    )
    assert ("NEAREST", "London", 7) == (near.zones[0].quality, near.zones[0].near, near.zones[0].distance_km)
    assert ("cloud_region", "aws/eu-west-2") == (by_region.WhichOneof("place"), by_region.cloud_region)
    assert (51.5, 0.0) == (by_point.location.latitude, by_point.location.longitude)
    assert by_point.location.HasField("longitude")


async def test_the_asynchronous_client_resolves_as_well(deployment: Deployment) -> None:
    async with AsyncClient(deployment.profile()) as client:
        assert "zones/GB" == (await client.carbon.resolve_zone(postcode="SW1A")).zone


def test_one_place_is_named(deployment: Deployment) -> None:
    with deployment.client() as client:
        with pytest.raises(UsageError, match="name one place, not 0"):
            client.carbon.resolve_zone()
        with pytest.raises(UsageError, match="name one place, not 2"):
            client.carbon.resolve_zone(country="DE", postcode="SW1A")
        with pytest.raises(NotFound, match="not known"):
            client.carbon.resolve_zone(country="XX")
