"""All benchmarks as one table: ``python -m benchmarks`` (``--only NAME``, ``--json FILE``).

Absolute figures belong to the machine that is named above them; what carries over are the ratios within one run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from livephase.evaluation.environment import processor

BENCHMARKS = ("inference", "storage", "preview", "forward_model", "misfit")


def gpu() -> str:
    """Name of the first NVIDIA GPU, or 'no GPU'."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"
    return found.stdout.splitlines()[0]


def main() -> int:
    """Run the benchmarks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BENCHMARKS, help="run one of them")
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    arguments = parser.parse_args()
    machine = (
        f"{processor()}, {os.cpu_count()} cores, {gpu()}, Python {platform.python_version()}, torch {version('torch')}"
    )
    table = Table("benchmark", "what", "value", "unit", title=machine)
    rows: list[dict[str, str | float]] = []
    for name in (arguments.only,) if arguments.only else BENCHMARKS:
        for what, value, unit in importlib.import_module(f"benchmarks.bench_{name}").main():
            rows.append({"benchmark": name, "what": what, "value": value, "unit": unit})
            table.add_row(name, what, f"{value:.4g}", unit)
    Console(width=max(120, Console().width)).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
