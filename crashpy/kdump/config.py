"""What kdump shall do, in one set of words, and in the files of three distributions.

A key is neutral (`level`, `target`, `keep`) or a variable or directive of the file at
hand (`KDUMP_DUMPLEVEL`, `core_collector`). Values are checked before they are written;
what a distribution cannot express is refused with the name of one that can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from crashpy.command import CommandError
from crashpy.kdump.dialects import DIALECTS, OWN, Dialect, Unable, Value, recognise
from crashpy.kdump.documents import Document, ShellFile, document
from crashpy.kdump.keys import KEYS
from crashpy.kdump.plan import SECRET, Edit, hide
from crashpy.kdump.system import Refused, System
from crashpy.kdump.values import boolean


@dataclass
class Config:
    """The configuration of one system, read and perhaps changed, not yet written."""

    system: System
    dialect: Dialect
    documents: list[Document]
    old: list[str | None]

    @classmethod
    def read(cls, system: System) -> Config:
        dialect = recognise(system)
        old = [system.read(name) for name in dialect.files]
        rows = zip(dialect.files, old, strict=True)
        return cls(system, dialect, [document(name, text or "") for name, text in rows], old)

    # In the file's own words.

    def native(self, name: str) -> Value:
        variable = self.dialect.variables[name]
        document = self.documents[variable.file]
        entry = document.get(name)
        if entry is None or (entry.value == "" and isinstance(document, ShellFile)):
            return Value(variable.default, "default")
        return Value(entry.value, f"{document.name}:{entry.line}")

    def own(self, name: str) -> str:
        """A value that is there; computed ones are refused."""
        value = self.native(name)
        if value.value is None:
            raise Refused(
                f"{value.origin}: {name} is computed by the shell: change it there by hand"
            )
        return value.value

    def set_native(self, name: str, value: str) -> None:
        variable = self.dialect.variables[name]
        document = self.documents[variable.file]
        if value == "" and document.get(name) is None:
            return
        document.set(name, value)

    # In neutral words.

    def get(self, key: str) -> Value | None:
        """None: this distribution has no such setting."""
        return self.dialect.get(self, key)

    def yes(self, key: str) -> bool:
        value = self.get(key)
        return value is not None and value.value == "yes"

    def beyond(self, key: str) -> bool:
        """Whether our own file says it, as the distribution's cannot."""
        own = key in KEYS and key in self.dialect.variables
        return own and self.dialect.files != (OWN,)

    def assign(self, name: str, value: str) -> None:
        """Check a value and set it; "" is the distribution's own default."""
        try:
            if name in KEYS:
                self.dialect.set(self, name, KEYS[name].check(value) if value else "")
            elif name in self.dialect.variables:
                variable = self.dialect.variables[name]
                if variable.deprecated and value:
                    raise Refused(variable.deprecated)
                if value:
                    checked = variable.check(value)
                    value = self.like(name, checked) if variable.check is boolean else value
                self.set_native(name, value)
            else:
                raise Refused(self._unknown(name))
        except Unable as unable:
            raise Refused(self._unable(unable)) from None
        except CommandError as error:
            sentence = hide(str(error))
            raise Refused(
                sentence if sentence.startswith(name) else f"{name}: {sentence}"
            ) from None

    def like(self, name: str, answer: str) -> str:
        """yes or no, as the file spells it."""
        before = self.native(name).value or ""
        pairs = {"1": "1", "0": "1", "true": "t", "false": "t", "yes": "y", "no": "y"}
        spelling = {"1": ("1", "0"), "t": ("true", "false"), "y": ("yes", "no")}
        return spelling[pairs.get(before.lower(), "y")][answer != "yes"]

    def _unable(self, unable: Unable) -> str:
        """This distribution has no word for it; another may have."""
        key, value = unable.key, unable.value
        what = f"{key}={value}" if value else key
        able = [d.title for d in DIALECTS if d.can(key, value) and d is not self.dialect]
        whose = f", {' and '.join(able)} {'has' if len(able) == 1 else 'have'}" if able else ""
        return f"{what}: {self.dialect.title} has no such setting{whose}"

    def _unknown(self, name: str) -> str:
        if name == "crashkernel":
            return "it is the boot loader's: see `crashpy setup bootloader`"
        for other in DIALECTS:
            if name in other.variables:
                return (
                    f"{self.dialect.title} has no such setting, {other.title} has:"
                    " see `crashpy setup configure` for the words that all share"
                )
        return "no such setting: `crashpy setup configure` lists what there is"

    def edits(self) -> list[Edit]:
        rows = zip(self.documents, self.old, strict=True)
        return [Edit(d.name, old, d.text) for d, old in rows if d.text != (old or "")]


def settings(config: Config) -> Iterator[tuple[str, Value]]:
    """Every neutral key that this distribution has, with its value; passwords hidden."""
    for key in KEYS:
        try:
            value = config.get(key)
        except CommandError as error:
            yield key, Value(None, str(error))
            continue
        if value is None:
            continue
        secret = key == "smtp-password" and value.value
        yield key, Value("(hidden)" if secret else value.value and hide(value.value), value.origin)


def is_secret(name: str) -> bool:
    return name == "smtp-password" or re.fullmatch(SECRET, name) is not None
