"""The command line: ``livephase COMMAND``; expected errors are one line, without a traceback.

Exit codes: 0 success, 1 a fault, 2 a mistake of the user (wrong argument, file or configuration). Heavy
modules are imported by the commands that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from livephase.calibrate_cli import calibrate
from livephase.collect_cli import collect
from livephase.doctor_cli import doctor
from livephase.evaluate_cli import evaluate
from livephase.illumination_cli import illumination
from livephase.image_commands import simulate, tie
from livephase.models_cli import models, show_card
from livephase.reconstruct_cli import reconstruct
from livephase_devices.errors import LivephaseError

app = typer.Typer(
    name="livephase",
    help="Live, pixel-super-resolved quantitative phase from one defocused bright-field frame.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models, name="models")
app.add_typer(illumination, name="illumination")
app.command()(calibrate)
app.command()(collect)
app.command()(doctor)
app.command()(evaluate)
app.command()(reconstruct)
app.command()(simulate)
app.command()(tie)

DEMO_DEFOCUS_UM = 6.0
"""The paper's defocus."""


def main() -> None:
    """Run the command line; never returns."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="livephase", standalone_mode=False)
    except LivephaseError as error:
        return _fail(str(error), 2 if error.status < 500 else 1)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        return 1
    except Exception as error:
        describe = getattr(error, "format_message", None)  # wrong usage, as typer reports it
        if describe is None:
            raise
        return _fail(f"{describe()} (livephase --help)", 2)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"livephase: {' '.join(message.split())}", file=sys.stderr)
    return code


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 chooses a free one.")] = 8000,
    data: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("livephase-data"),
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    speedup: Annotated[float, typer.Option(min=0, max=1e6, help="Biology seconds per real second.")] = 60.0,
    model: Annotated[
        str | None, typer.Option(help="Name of a model, or a model file; by default one that fits.")
    ] = None,
) -> None:
    """Start the simulated microscope and the service, and show live phase."""
    from livephase.config import LiveTable, ModelTable, ServerTable, ServiceConfig
    from livephase.phase.library import find_model
    from livephase.serving import serve as run_service
    from livephase_devices.config import MicroscopeConfig

    microscope = MicroscopeConfig.load("twin.toml")
    config = ServiceConfig(
        microscope=microscope,
        service=ServerTable(port=port, data=data),
        model=ModelTable(path=None if model is None else find_model(model).path),
        live=LiveTable(on_start=True, defocus_um=DEMO_DEFOCUS_UM),
    )

    def started(url: str) -> None:
        print(f"livephase demo: {url}", flush=True)
        if not no_browser:
            webbrowser.open(url)

    run_service(config, properties={(microscope.camera, "Speedup"): speedup}, started=started)


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="TOML with the table [microscope].")],
    host: Annotated[str | None, typer.Option(help="Loopback address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="TCP port; 0 chooses a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the runs.")] = None,
) -> None:
    """Start the service on a microscope; options win over the TOML."""
    from livephase.config import ServiceConfig
    from livephase.serving import serve as run_service

    loaded = ServiceConfig.load(config)
    given = {name: value for name, value in (("host", host), ("port", port), ("data", data)) if value is not None}
    loaded = loaded.model_copy(update={"service": loaded.service.model_copy(update=given)})
    run_service(loaded, properties={}, started=lambda url: print(f"livephase: {url}", flush=True))


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="TOML that fixes the training run.")],
    out: Annotated[Path, typer.Option(help="Folder for pairs, checkpoints, pictures and the model file.")],
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda if there is one.")] = None,
) -> None:
    """Train a model by a recipe, or go on where a run in that folder stopped."""
    from livephase.training.command import train as run_training

    show_card(run_training(recipe, out, device), as_json=False)
