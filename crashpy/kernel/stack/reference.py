"""What `bt -R` looks for in a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crashpy.numbers import can_evaluate, evaluate, htol, is_hexadecimal

if TYPE_CHECKING:
    from crashpy.kernel.stack.unwinder import Unwinder

RIP = 16  # its index in struct pt_regs


class Reference:
    """A function's name, or a hexadecimal value (crash's x86_64_do_bt_reference_check())."""

    def __init__(self, unwinder: Unwinder, text: str) -> None:
        self._all = unwinder
        self.name = text
        self.value: int | None = None
        if can_evaluate(text):
            self.value = evaluate(unwinder.dump, text)
        elif is_hexadecimal(text):
            self.value = htol(text)
        self.found = False

    def check_frame(self, ip: int, name: str) -> None:
        if self.value is None:
            self.found |= name == self.name
        else:
            self.found |= ip == self.value

    def check_registers(self, values: tuple[int, ...]) -> None:
        site = self._all.site(values[RIP])
        if self.value is not None:
            self.found |= self.value in values
            self.found |= site is not None and values[RIP] - site.offset == self.value
            return
        if site is not None:
            self.found |= site.name == self.name
        for value in values:
            at = self._all.site(value) if value >= 1 << 63 else None
            self.found |= at is not None and not at.offset and at.name == self.name
