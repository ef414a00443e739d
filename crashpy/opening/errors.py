"""What keeps a dump from being opened."""

from crashpy.command import CommandError


class OpeningError(CommandError):
    """One sentence: which file, what it is, and what would help."""

    def __init__(self, sentence: object) -> None:
        # It may quote a damaged header: one line, and nothing a terminal would obey.
        words = " ".join(str(sentence).split())
        super().__init__("".join(c if c.isprintable() else "?" for c in words))
