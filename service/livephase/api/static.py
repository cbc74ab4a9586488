"""Where the page's files are."""

from __future__ import annotations

from pathlib import Path


def client_directory() -> Path:
    """Return the folder of the page: inside the installed package, or the checkout's when installed editable.

    Raises
    ------
    FileNotFoundError
        Neither is there: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "client", package.parents[1] / "client"
    for folder in (installed, checkout):
        if (folder / "index.html").is_file():
            return folder
    raise FileNotFoundError(
        f"the page is missing: neither {installed} nor {checkout} has an index.html; reinstall livephase"
    )
