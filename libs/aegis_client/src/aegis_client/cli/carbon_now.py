"""`aegis carbon now`: the present value in the course of the day before and the day after."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Annotated, Final

import typer

from aegis_client.cli.output import clock, print_fields, print_json, seconds, short
from aegis_client.cli.places import Place, sureness, with_place
from aegis_client.cli.sparkline import sparkline
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.errors import AegisApiError

if TYPE_CHECKING:
    from aegis_client.carbon import ScheduleDecision
    from aegis_client.carbon_places import ZoneResolution
    from aegis_client.carbon_plans import Forecast

_WIDEST: Final = 96
_MARGIN: Final = 2
_NO_FORECAST: Final = "NO_INTENSITY_DATA"


@with_place
def now(
    ctx: typer.Context,
    place: Place,
    zone: Annotated[str, typer.Option(help="Grid zone, for example GB. Default: the deployment's.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """Show how clean a zone's power is now, in the last day and in the next, and whether to start."""
    with state_of(ctx).client() as client:
        resolved = place.resolved(client, zone)
        wanted = resolved.zone if resolved else zone
        decision = client.carbon.check(wanted)
        expected: Forecast | None = None
        try:
            expected = client.carbon.forecast(wanted, with_past=True)
        except AegisApiError as error:
            if error.reason != _NO_FORECAST:
                raise
    if output is Format.JSON:
        print_json({"place": resolved, "decision": decision, "forecast": expected})
        return
    if expected is not None:
        typer.echo(_drawn(expected))
    print_fields(_fields(decision, expected, resolved))


def _drawn(found: Forecast) -> str:
    """Return a line of the day before and the day after, on one scale, and one that marks the present."""
    width = min(_WIDEST, shutil.get_terminal_size().columns - _MARGIN)
    before = _laid_out(found)
    # The forecast is of two days.
    after = [slot.g_per_kwh for slot in found.slots][: max(1, len(found.slots) // 2)]
    values = [*before, *after]
    column = int(len(before) / len(values) * min(width, len(values)))
    return f"{sparkline(values, width)}\n{' ' * column}^ now"


def _laid_out(found: Forecast) -> list[float]:
    """Return the past slots with a NaN for each that is missing."""
    now = found.slots[0].start_time
    known = {
        slot.start_time: slot.g_per_kwh for slot in found.past_slots if now is None or slot.start_time != now
    }
    starts = [start for start in known if start is not None]
    if not starts or now is None or (step := _step(found)) <= 0:
        return []
    count = round((now - min(starts)).total_seconds() / step)
    row = [math.nan] * max(0, count)
    for start, value in known.items():
        if start is not None and 0 <= (number := count - round((now - start).total_seconds() / step)) < count:
            row[number] = value
    return row


def _step(found: Forecast) -> float:
    first = found.past_slots[0]
    if first.start_time is None or first.end_time is None:
        return 0.0
    return (first.end_time - first.start_time).total_seconds()


def _fields(
    decision: ScheduleDecision, expected: Forecast | None, resolved: ZoneResolution | None
) -> dict[str, object]:
    fields: dict[str, object] = {}
    if resolved is not None:
        fields["place"] = f"{resolved.place}: {sureness(resolved)}"
    if found := decision.intensity:
        fields |= {
            "zone": short(found.zone),
            "now": f"{found.g_per_kwh:.0f} gCO2e/kWh ({found.signal.lower()})",
            "quality": found.quality.lower(),
            "source": found.source,
            "age": seconds(found.age),
        }
    else:
        fields |= {"zone": short(expected.zone) if expected else "", "now": "no value"}
    if expected is None:
        fields["next day"] = "no forecast"
    else:
        ahead = expected.slots[: max(1, len(expected.slots) // 2)]
        best = min(ahead, key=lambda slot: slot.g_per_kwh)
        sources = dict.fromkeys(part.source for part in expected.parts)
        fields["cleanest ahead"] = f"{best.g_per_kwh:.0f} gCO2e/kWh at {clock(best.start_time)}"
        fields["last day by"] = expected.past_source or "no values"
        fields["next day by"] = ", ".join(sources)
    threshold = f" ({decision.threshold_g_per_kwh:g} gCO2e/kWh)" if decision.threshold_g_per_kwh else ""
    reason = decision.reason.lower().replace("_", " ")
    fields["decision"] = f"{decision.decision.lower().replace('_', ' ')}: {reason}{threshold}"
    return fields
