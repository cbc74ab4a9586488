"""Runs a job of ``doctor.child`` and reads what it says; a child that falls silent is killed with all its children."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from typing import IO, TYPE_CHECKING, Any, Final

import psutil

from livephase.doctor.child import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S: Final = 60.0
"""Starting Python and loading Micro-Manager's core, on a busy computer."""


class ChildDiedError(Exception):
    """The child ended or was killed before it was done.

    Attributes
    ----------
    begun : str or None
        What it had begun and not finished.
    how : str
        How it ended: ``"ended the process (exit code -6)"``, ``"did not answer within 20 s"``.
    last_words : str
        The last line that it wrote to stderr.
    """

    def __init__(self, begun: str | None, how: str, last_words: str) -> None:
        super().__init__(how)
        self.begun = begun
        self.how = how
        self.last_words = last_words


def results(job: str, *arguments: str, silence_s: float) -> Iterator[dict[str, Any]]:
    """Run a job in a child and give its results as they come.

    Parameters
    ----------
    job, arguments : str
        One of ``doctor.child.JOBS``, and what it takes.
    silence_s : float
        Longest time without a word of the child; its start may take longer.

    Raises
    ------
    ChildDiedError
        It crashed, or was silent for too long. Nothing is left running.
    """
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(  # noqa: S603 - this Python and a module of livephase
            [sys.executable, "-m", "livephase.doctor.child", job, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        lines: queue.Queue[bytes | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child, lines), name="doctor", daemon=True)
        reader.start()
        begun: str | None = None
        try:
            patience_s = silence_s + _START_S
            while (line := lines.get(timeout=patience_s)) is not None:
                patience_s = silence_s
                text = line.decode("utf-8", errors="replace")
                if not text.startswith(MARK):
                    continue  # libraries print what they like
                result: dict[str, Any] = json.loads(text.removeprefix(MARK))
                if "begin" in result:
                    begun = str(result["begin"])
                else:
                    begun = None
                    yield result
            code = child.wait(silence_s)
            if code != 0:
                raise ChildDiedError(begun, f"ended the process (exit code {code})", _last_line(errors))
        except (queue.Empty, subprocess.TimeoutExpired):
            raise ChildDiedError(begun, f"did not answer within {silence_s:g} s", "") from None
        finally:
            _end(child)
            reader.join()
            if child.stdout is not None:
                child.stdout.close()


def _read(child: subprocess.Popen[bytes], lines: queue.Queue[bytes | None]) -> None:
    if child.stdout is not None:
        for line in child.stdout:
            lines.put(line)
    lines.put(None)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and everything that it has started."""
    if child.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(child.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        child.kill()
    child.wait()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    written = errors.read().decode("utf-8", errors="replace").strip()
    return written.splitlines()[-1].strip()[:300] if written else ""
