"""The command ``livephase doctor``: what is installed, what answers, what is wrong and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from livephase.doctor.finding import Finding


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="TOML with the table [microscope]: its devices are loaded and unloaded.")
    ] = None,
    probe_ports: Annotated[
        bool,
        typer.Option(
            "--probe-ports",
            help="Send 'Start' to every serial port to find Optotune lens drivers. It sets the current of their lens"
            " to 0, and other devices get the five bytes too.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for what is wrong with installation, adapters, microscope, models, disk, ports and clock.

    Exit code 0 only if nothing is wrong.
    """
    from livephase.doctor.examine import examine

    findings: list[Finding] = []
    for finding in examine(config, probe_ports=probe_ports):
        findings.append(finding)
        if not as_json:
            _show(finding)
    wrong = sum(finding.status == "wrong" for finding in findings)
    if as_json:
        print(json.dumps({"ok": wrong == 0, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print("Nothing is wrong." if wrong == 0 else f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong.")
    if wrong:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    mark = "WRONG" if finding.status == "wrong" else finding.status
    print(f"{finding.check:14}{mark:7}{finding.text}", flush=True)
    if finding.advice is not None:
        print(f"{'':21}-> {finding.advice}", flush=True)
