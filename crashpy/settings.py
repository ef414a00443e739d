"""The variables of `set`."""

from dataclasses import dataclass


@dataclass
class Settings:
    radix: int = 10
    scroll: bool = True
    print_max: int = 256
    silent: bool = False
