"""Names of Rust functions as the source has them: the v0 mangling and the one before it.

v0 is Rust's RFC 2603. As everywhere in crash, crates and constants come without
their hashes and types.
"""

from __future__ import annotations

import re

DEPTH = 200  # of paths in paths: damaged names must end, too
LENGTH = 1 << 16

BASIC_TYPES = {
    **{"a": "i8", "s": "i16", "l": "i32", "x": "i64", "n": "i128", "i": "isize"},
    **{"h": "u8", "t": "u16", "m": "u32", "y": "u64", "o": "u128", "j": "usize"},
    **{"b": "bool", "c": "char", "e": "str", "f": "f32", "d": "f64"},
    **{"p": "_", "u": "()", "v": "...", "z": "!"},
}
ESCAPES = dict(SP="@", BP="*", RF="&", LT="<", GT=">", LP="(", RP=")", C=",")
HASH = re.compile(r"h[0-9a-f]{16}")
BASE_62 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def demangled_text(text: str) -> str:
    """A line of a call trace with the Rust name in it readable (log -R).

    As crash: from the first `_R`, else `_ZN`, to the last `+` of the line.
    """
    start = text.find("_R")
    if start < 0:
        start = text.find("_ZN")
    end = text.rfind("+")
    if start < 0 or end < start:
        return text
    name = demangle(text[start:end])
    return text if name is None else text[:start] + name + text[end:]


def demangle(symbol: str) -> str | None:
    """The readable name; None of what is no mangled Rust name."""
    try:
        if symbol.startswith("_R"):
            return _V0(symbol[2:]).demangled()
        if symbol.startswith("_ZN"):
            return _legacy(symbol[3:])
    except (ValueError, IndexError, RecursionError):
        pass
    return None


def _legacy(text: str) -> str | None:
    parts = []
    while not text.startswith("E"):
        digits = re.match(r"[0-9]+", text)
        if digits is None:
            return None
        length, text = int(digits[0]), text[digits.end() :]
        if length > len(text):
            return None
        parts.append(text[:length])
        text = text[length:]
    if len(parts) < 2 or not HASH.fullmatch(parts[-1]):
        return None
    return "::".join(map(_unescaped, parts[:-1]))


def _unescaped(part: str) -> str:
    if part.startswith("_$"):
        part = part[1:]

    def character(found: re.Match[str]) -> str:
        name = found[1]
        if name[0] == "u":
            return chr(int(name[1:], 16))
        return ESCAPES[name]

    part = re.sub(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{2,6})\$", character, part)
    return part.replace("..", "::")


class _V0:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lifetimes = 0  # bound so far
        self.depth = 0

    def demangled(self) -> str:
        # Rust appends what the linker wants to know behind a dot.
        self.text, dot, suffix = self.text.partition(".")
        if not self.text or not (self.text[0].isupper()):
            raise ValueError("no path")
        name = self.path(value=True)
        if self.at < len(self.text):
            self.path(value=False)  # the crate that instantiated it
        if self.at < len(self.text):
            raise ValueError("more than a name")
        kept = dot + suffix if dot and not suffix.startswith("llvm.") else ""
        return name + kept

    def next(self) -> str:
        character = self.text[self.at]
        self.at += 1
        return character

    def eat(self, character: str) -> bool:
        found = self.text.startswith(character, self.at)
        self.at += found
        return found

    def base_62(self) -> int:
        if self.eat("_"):
            return 0
        value = 0
        while not self.eat("_"):
            value = value * 62 + BASE_62.index(self.next())
        return value + 1

    def optional_62(self, tag: str) -> int:
        return self.base_62() + 1 if self.eat(tag) else 0

    def identifier(self) -> tuple[str, int]:
        """A name and what tells it from others of that name."""
        number = self.optional_62("s")
        punycode = self.eat("u")
        digits = re.compile(r"0|[1-9][0-9]*").match(self.text, self.at)
        if digits is None:
            raise ValueError("no length")
        self.at = digits.end()
        self.eat("_")
        length = int(digits[0])
        name = self.text[self.at : self.at + length]
        if len(name) < length:
            raise ValueError("a name beyond the end")
        self.at += length
        if punycode:
            ascii_part, _, rest = name.rpartition("_")
            joined = f"{ascii_part}-{rest}" if ascii_part else rest
            name = joined.encode("ascii").decode("punycode")
        return name, number

    def back(self, parse: str, **options: bool) -> str:
        """What a back reference stands for."""
        start = self.at - 1
        target = self.base_62()
        if target >= start:
            raise ValueError("a reference ahead")
        here, self.at = self.at, target
        text: str = getattr(self, parse)(**options)
        self.at = here
        return text

    def path(self, *, value: bool) -> str:
        self.depth += 1
        if self.depth > DEPTH:
            raise ValueError("too deep")
        text = self._path(value)
        self.depth -= 1
        if len(text) > LENGTH:
            raise ValueError("too long")
        return text

    def _path(self, value: bool) -> str:
        tag = self.next()
        if tag == "C":
            return self.identifier()[0]
        if tag == "N":
            space = self.next()
            outer = self.path(value=value)
            name, number = self.identifier()
            if space.isupper():
                kind = {"C": "closure", "S": "shim"}.get(space, space)
                return f"{outer}::{{{kind}{':' + name if name else ''}#{number}}}"
            return f"{outer}::{name}" if name else outer
        if tag in "MX":
            self.optional_62("s")
            self.path(value=False)  # where the impl stands
        if tag in "MXY":
            text = self.type()
            if tag != "M":
                text += f" as {self.path(value=False)}"
            return f"<{text}>"
        if tag == "I":
            outer = self.path(value=value)
            arguments = []
            while not self.eat("E"):
                arguments.append(self.generic_argument())
            return f"{outer}{'::' if value else ''}<{', '.join(arguments)}>"
        if tag == "B":
            return self.back("path", value=value)
        raise ValueError(tag)

    def generic_argument(self) -> str:
        if self.eat("L"):
            return self.lifetime(self.base_62())
        if self.eat("K"):
            return self.constant()
        return self.type()

    def lifetime(self, index: int) -> str:
        if not index:
            return "'_"
        number = self.lifetimes - index
        if number < 0:
            raise ValueError("an unbound lifetime")
        return f"'{chr(ord('a') + number)}" if number < 26 else f"'_{number}"

    def binder(self) -> str:
        """``for<'a, 'b> ``; its lifetimes stay bound until the caller resets them."""
        bound = self.optional_62("G")
        if bound > 64:
            raise ValueError("too many lifetimes")
        names = []
        for _ in range(bound):
            self.lifetimes += 1
            names.append(self.lifetime(1))
        return f"for<{', '.join(names)}> " if names else ""

    def type(self) -> str:
        self.depth += 1
        if self.depth > DEPTH:
            raise ValueError("too deep")
        text = self._type()
        self.depth -= 1
        if len(text) > LENGTH:
            raise ValueError("too long")
        return text

    def _type(self) -> str:
        tag = self.next()
        if tag in BASIC_TYPES:
            return BASIC_TYPES[tag]
        if tag in "RQ":
            lifetime = ""
            if self.eat("L") and (index := self.base_62()):
                lifetime = self.lifetime(index) + " "
            return f"&{lifetime}{'mut ' if tag == 'Q' else ''}{self.type()}"
        if tag in "PO":
            return f"*{'const' if tag == 'P' else 'mut'} {self.type()}"
        if tag == "A":
            element = self.type()
            return f"[{element}; {self.constant()}]"
        if tag == "S":
            return f"[{self.type()}]"
        if tag == "T":
            members = []
            while not self.eat("E"):
                members.append(self.type())
            return f"({', '.join(members)}{',' if len(members) == 1 else ''})"
        if tag == "F":
            return self.function()
        if tag == "D":
            return self.trait_object()
        if tag == "B":
            return self.back("type")
        self.at -= 1
        return self.path(value=False)

    def function(self) -> str:
        outer = self.lifetimes
        text = self.binder()
        text += "unsafe " if self.eat("U") else ""
        if self.eat("K"):
            abi = "C" if self.eat("C") else self.identifier()[0].replace("_", "-")
            text += f'extern "{abi}" '
        arguments = []
        while not self.eat("E"):
            arguments.append(self.type())
        text += f"fn({', '.join(arguments)})"
        if not self.eat("u"):
            text += f" -> {self.type()}"
        self.lifetimes = outer
        return text

    def trait_object(self) -> str:
        outer = self.lifetimes
        text = "dyn " + self.binder()
        traits = []
        while not self.eat("E"):
            traits.append(self.trait())
        text += " + ".join(traits)
        self.lifetimes = outer
        if not self.eat("L"):
            raise ValueError("no lifetime")
        if index := self.base_62():
            text += f" + {self.lifetime(index)}"
        return text

    def trait(self) -> str:
        text = self.path(value=False)
        bindings = []
        while self.eat("p"):
            name = self.identifier()[0]
            bindings.append(f"{name} = {self.type()}")
        if not bindings:
            return text
        joined = ", ".join(bindings)
        return f"{text[:-1]}, {joined}>" if text.endswith(">") else f"{text}<{joined}>"

    def constant(self) -> str:
        if self.eat("B"):
            return self.back("constant")
        tag = self.next()
        if tag == "p":
            return "_"
        if tag not in "aslxnihtmyojbc":
            raise ValueError(tag)
        negative = tag in "aslxni" and self.eat("n")
        end = self.text.index("_", self.at)
        digits, self.at = self.text[self.at : end], end + 1
        number = int(digits or "0", 16)
        if tag == "b":
            return ("false", "true")[number]
        if tag == "c":
            return f"'{chr(number)}'"
        return f"-{number}" if negative else str(number)
