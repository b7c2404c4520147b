"""`aegis fl new`: a training app of one's own, made of the bundled one, with a test that passes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

app = typer.Typer(help="Write a training app with its test.", add_completion=False)

_SOURCE: Final = "digits"

_TEST: Final = '''\
"""The app over virtual nodes on this machine: it learns, repeats, and exports what it has learned."""

from __future__ import annotations

from pathlib import Path

from aegis_fl_coordinator.simulation import Simulation, simulated

APP = Path(__file__).parents[1]


def accuracies(folder: Path) -> list[float]:
    with simulated(Simulation(str(APP), nodes=3, rounds=3, seed=1), folder) as run:
        return [report["metrics"]["accuracy"] for report in run.rounds()]


def test_the_app_learns_and_exports_its_model(tmp_path: Path) -> None:
    accuracy = accuracies(tmp_path / "run")

    assert accuracy[-1] > max(accuracy[0], 0.7)
    assert (tmp_path / "run" / "model.onnx").stat().st_size > 0


def test_the_same_seed_gives_the_same_curve(tmp_path: Path) -> None:
    assert accuracies(tmp_path / "first") == accuracies(tmp_path / "second")
'''

_README: Final = """\
# {name}

A training app for AEGIS: a Flower app (Message API). The coordinator lets its rounds in, checks, keeps and
reports them.

| file | what to change |
|---|---|
| `{module}/task.py` | network; `shard`: what one site trains on; `held_out`: what the server measures on |
| `{module}/client_app.py` | what a site does with the model in a round |
| `{module}/server_app.py` | what the server measures, and what the result is published as |
| `{module}/export.py` | the ONNX file, checked against torch, and what its users have to know |
| `pyproject.toml` | the app's own configuration in `[tool.flwr.app.config]`, and its dependencies |

```sh
pip install 'aegis-fl-coordinator[training]' pytest
pytest
aegis fl simulate . --nodes 5 --rounds 10 --strategy FedMedian    # on this machine, without any service
```

To run it at the sites, an operator names the folder in `AEGIS_FL_COORDINATOR_APP_DIRS`, and an admin approves
its digest: `aegis fl app list`, `aegis fl app approve {folder} SHA256`; then `aegis fl run {folder}`. A
change of any file gives another digest. As it stands it trains on scikit-learn's digits, shared among sites.
"""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the app, for example lung-xray.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where to write it. Default: ./NAME.")
    ] = None,
) -> None:
    """Write a training app (torch) that runs as it stands, with its test."""
    place = folder or Path(name)
    for path in write(name, place):
        typer.echo(path)
    typer.echo(f"next: cd {place} && pytest && aegis fl simulate .", err=True)


def write(name: str, place: Path) -> list[Path]:
    """Write the app into the folder *place* and return its files.

    Raises:
        ConfigurationError: The name cannot be one, the folder is not empty, or it cannot be written.
    """
    from aegis_common.new_package import module_of, write_package
    from aegis_fl_coordinator.apps import BUNDLED

    module = module_of(name)
    names = {
        f"aegis_{_SOURCE}": module,
        f"aegis-{_SOURCE}": name,
        'publisher = "aegis"': 'publisher = "example"',
        "  # noqa: PLC0415": "",  # a rule of this project alone
    }
    source = BUNDLED / _SOURCE
    files = {
        str(path.relative_to(source)): path.read_text("utf-8")
        for path in sorted(source.rglob("*"))
        if path.suffix in (".py", ".toml") or path.name == "LICENSE"
    }
    files[f"tests/test_{module}.py"] = _TEST
    files["README.md"] = _README.format(name=name, module=module, folder=place.resolve().name)
    return write_package(
        place, {_renamed(path, names): _renamed(text, names) for path, text in files.items()}
    )


def _renamed(text: str, names: dict[str, str]) -> str:
    for old, new_name in names.items():
        text = text.replace(old, new_name)
    return text
