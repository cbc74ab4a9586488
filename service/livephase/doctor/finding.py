"""What the doctor found: one sentence, and what to do where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes
    ----------
    check : str
        What was looked at: ``"installation"``, ``"adapters"``, ``"ports"``, ...
    status : str
        ``"ok"``; ``"note"``: worth knowing, and nobody has to do anything; ``"wrong"``: something has to be done.
    text : str
        What was found.
    advice : str or None
        What to do; never None where something is wrong.
    """

    check: str
    status: Status
    text: str
    advice: str | None = None

    @classmethod
    def ok(cls, check: str, text: str) -> Finding:
        """Make a finding that all is well."""
        return cls(check, "ok", text)

    @classmethod
    def note(cls, check: str, text: str, advice: str | None = None) -> Finding:
        """Make a finding that is worth knowing."""
        return cls(check, "note", text, advice)

    @classmethod
    def wrong(cls, check: str, text: str, advice: str) -> Finding:
        """Make a finding of something that is wrong."""
        return cls(check, "wrong", text, advice)
