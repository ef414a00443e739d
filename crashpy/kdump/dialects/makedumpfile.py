"""makedumpfile's options, where Debian and Red Hat keep level and format."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from crashpy.kdump.dialects.base import Dialect, Unable, Value
from crashpy.kdump.system import Refused

if TYPE_CHECKING:
    from crashpy.kdump.config import Config


class Collector:
    """makedumpfile's options, wherever a distribution keeps them."""

    FLAGS = {"zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z", "elf": "-E", "plain": ""}  # noqa: RUF012

    @staticmethod
    def level(words: list[str]) -> str:
        """0 when no -d is given."""
        for at, word in enumerate(words):
            if word == "-d":
                return words[at + 1] if at + 1 < len(words) else "0"
            if re.fullmatch(r"-d[\d,]+", word):
                return word[2:]
        return "0"

    @staticmethod
    def with_level(words: list[str], level: str) -> list[str]:
        for at, word in enumerate(words):
            if word == "-d":
                return [*words[: at + 1], level, *words[at + 2 :]]
            if re.fullmatch(r"-d[\d,]+", word):
                return [*words[:at], f"-d{level}", *words[at + 1 :]]
        return [*words, "-d", level]

    @classmethod
    def format(cls, words: list[str]) -> str:
        for name, letter in cls.FLAGS.items():
            if letter and letter in words:
                return name
        return "plain"

    @classmethod
    def with_format(cls, words: list[str], name: str) -> list[str]:
        letters = [letter for letter in cls.FLAGS.values() if letter]
        at = next((at for at, word in enumerate(words) if word in letters), None)
        others = [word for word in words if word not in letters]
        if not cls.FLAGS[name]:
            return others
        if at is None:  # behind the program's name, when that comes first
            at = 1 if words and not words[0].startswith("-") else 0
        return [*others[:at], cls.FLAGS[name], *others[at:]]

    @classmethod
    def others(cls, words: list[str]) -> tuple[str, ...]:
        """The options that are neither level nor format, nor -F, which the writer decides."""
        rest = [
            word
            for word in words[words[:1] == ["makedumpfile"] :]
            if word not in ("-F", *cls.FLAGS.values())
        ]
        return tuple(
            word
            for at, word in enumerate(rest)
            if not re.fullmatch("-d[0-9,]*", word) and rest[at - 1 : at] != ["-d"]
        )


class Makedumpfile(Dialect):
    """What Debian's and Red Hat's dialects have in common: level and format are options."""

    collector: str  # the variable that holds them
    append: str  # the one that holds the capture kernel's options

    def words(self, config: Config) -> list[str]:
        return config.own(self.collector).split()

    def get_level(self, config: Config) -> Value:
        return self._of(config, Collector.level)

    def get_format(self, config: Config) -> Value:
        return self._of(config, Collector.format)

    def _of(self, config: Config, part: Callable[[list[str]], str]) -> Value:
        value = config.native(self.collector)
        if value.value is None:
            return value
        words = value.value.split()
        if words and not words[0].startswith("-") and words[0] != "makedumpfile":
            return Value("raw" if part == Collector.format else "0", value.origin)
        return Value(part(words), value.origin)

    def set_level(self, config: Config, value: str) -> None:
        default = Collector.level(self.variables[self.collector].default.split())
        self._set(config, Collector.with_level(self.words(config), value or default))

    def set_format(self, config: Config, value: str) -> None:
        default = Collector.format(self.variables[self.collector].default.split())
        if value and value not in Collector.FLAGS:
            raise Unable("format", value)
        self._set(config, Collector.with_format(self.words(config), value or default))

    def get_makedumpfile(self, config: Config) -> Value:
        value = self._of(config, lambda words: " ".join(Collector.others(words)))
        return Value("", value.origin) if self.get_format(config).value == "raw" else value

    def set_makedumpfile(self, config: Config, value: str) -> None:
        words = self.words(config)
        more = value.split() or Collector.others(self.variables[self.collector].default.split())
        head = [w for w in words if w in ("makedumpfile", "-F", *Collector.FLAGS.values())]
        level = [w for at, w in enumerate(words) if w.startswith("-d") or words[at - 1] == "-d"]
        self._set(config, [*head, *more, *level])

    def _set(self, config: Config, words: list[str]) -> None:
        if words and not words[0].startswith("-") and words[0] != "makedumpfile":
            raise Refused(f"{self.collector} runs {words[0]}, not makedumpfile: change that first")
        new = " ".join(words)
        if new != config.own(self.collector):
            config.set_native(self.collector, new)

    def get_cpus(self, config: Config) -> Value:
        value = config.native(self.append)
        if value.value is None:
            return value
        found = re.search(r"(?:^|\s)nr_cpus=(\d+)", value.value)
        return Value(found[1] if found else "0", value.origin)

    def set_cpus(self, config: Config, value: str) -> None:
        old = config.own(self.append)
        words = [word for word in old.split() if not re.match(r"(nr_cpus|maxcpus)=", word)]
        if value != "0":
            words.append(f"nr_cpus={value or '1'}")
        if sorted(words) != sorted(old.split()):
            config.set_native(self.append, " ".join(words))
