"""What keeps a dump from being opened."""

from crashpy.command import CommandError


class OpeningError(CommandError):
    """One sentence: which file, what it is, and what would help."""
