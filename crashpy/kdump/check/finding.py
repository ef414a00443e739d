"""What the doctor says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: str  # error: there will be no dump; warning: there may be none, or a bad one
    what: str
    consequence: str
    remedy: str
