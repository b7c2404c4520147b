"""Tools through both doors: reading an image, and a batch in which one action fails."""

from __future__ import annotations

import base64
from typing import Final

from aegis_client import Action, AegisApiError
from aegis_local.demo import picture
from aegis_local.demo.doors import machines, people
from aegis_local.demo.report import Report
from aegis_local.runner import Stack

SENTENCE: Final = "Der Strom ist heute Nacht besonders sauber, also trainieren wir jetzt."
_LANGUAGE: Final = "de"


async def read_image(stack: Stack, report: Report) -> None:
    """Read one image through HTTPS/JSON and through gRPC."""
    png = picture.render()
    expected = " / ".join(picture.LINES)
    report.heading(f"Reading a rendered image of {len(png)} bytes")

    body = {
        "payload": [
            {"name": "image", "inlineBytes": base64.b64encode(png).decode(), "mediaType": "image/png"}
        ]
    }
    async with people(stack) as client:
        answer = await client.post("/v1/tools/image_ocr:dispatch", json=body)
    if answer.is_success:
        result = answer.json()
        text = str(result["result"][0]["json"]["text"])
        found = f"{' / '.join(text.splitlines())!r} in {result['executionTime']}"
        report.check("HTTPS/JSON", picture.same_text(text), expected=expected, found=found)
    else:
        report.check("HTTPS/JSON", False, expected="200", found=f"{answer.status_code} {answer.text[:300]}")

    async with machines(stack) as sdk:
        reading = await sdk.tools.run("image_ocr", {"image": png})
    text = str(reading.value["text"])
    seconds = reading.execution_time.total_seconds() if reading.execution_time else 0.0
    found = f"{' / '.join(text.splitlines())!r} in {seconds:.6f}s, score {reading.value['mean_score']:.3f}"
    report.check("gRPC", picture.same_text(text), expected=expected, found=found)


async def run_batch(stack: Stack, report: Report) -> None:
    """Run three actions at once, of which one cannot work."""
    report.heading("Three actions at once, one of which cannot work")
    actions = [
        Action(tool="echo", arguments={"text": "hello"}),
        Action(tool="image_ocr", arguments={"image": b"these bytes are no image"}),
        Action(tool="detect_language", arguments={"text": SENTENCE}),
    ]
    async with machines(stack) as sdk:
        echoed, read, detected = await sdk.tools.batch(actions)
    value = _value(echoed)
    report.check("echo", value == "hello", expected="hello", found=value)
    is_refused = isinstance(read, AegisApiError) and read.reason == "INVALID_TOOL_INPUT"
    report.check("image_ocr of no image", is_refused, expected="INVALID_TOOL_INPUT", found=_value(read))
    value = _value(detected)
    language = value.get("language") if isinstance(value, dict) else None
    shown = f"{language} ({value['probability']:.3f})" if isinstance(value, dict) else value
    report.check("detect_language", language == _LANGUAGE, expected=_LANGUAGE, found=shown)


def _value(outcome: object) -> object:
    if isinstance(outcome, AegisApiError):
        return f"{outcome.code} {outcome.reason}: {outcome.message}"
    return getattr(outcome, "value", outcome)
