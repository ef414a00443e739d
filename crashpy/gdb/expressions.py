"""C expressions as gdb evaluates them for crash's `p`.

A recursive descent over gdb's C grammar (c-exp.y): what it computes with are drgn
objects, so types promote and integers wrap as in C. Nothing is ever written: an
assignment is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from drgn import FaultError, Object, Qualifiers, Type, TypeKind, cast, sizeof

from crashpy.gdb.memory import KERNEL, Memory, UnreadableError
from crashpy.gdb.target import Target, resolved
from crashpy.gdb.types import COMPOUND, members


class GdbError(Exception):
    """What gdb says is wrong with an expression; crash shows `gdb request failed` instead."""


@dataclass(frozen=True)
class Bare:
    """A symbol without debug information: it has an address, and no type."""

    name: str
    address: int
    is_text: bool
    is_pointer: bool = False  # what & makes of it

    def __str__(self) -> str:
        return f"<{'text' if self.is_text else 'data'} variable, no debug info>"


Value: TypeAlias = Object | Bare | None  # None is void

TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?[fFlL]?|\d+[uUlL]*)
    | (?P<name>[A-Za-z_][A-Za-z_0-9.]*(?<=[.](?:isra|part|cold))[.0-9]*|[A-Za-z_][A-Za-z_0-9]*)
    | (?P<history>\$\$?[A-Za-z_0-9]*)
    | (?P<char>'(?:\\[0-7]{1,3}|\\x[0-9a-fA-F]+|\\.|[^'\\])')
    | (?P<quoted>'[^']+')
    | (?P<string>"(?:\\.|[^"\\])*")
    | (?P<operator>->|<<=?|>>=?|<=|>=|==|!=|&&|\|\||::|[-+*/%&|^]=|[-+*/%&|^~!<>=?:,.()\[\]{}@])
    )""",
    re.VERBOSE,
)
ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "e": 27}
WORDS = frozenset(
    "void char short int long float double signed unsigned _Bool bool __int128".split()  # noqa: SIM905
)
QUALIFIERS = {
    "const": Qualifiers.CONST,
    "volatile": Qualifiers.VOLATILE,
    "restrict": Qualifiers.RESTRICT,
}
# From loose to tight; `@` (so many of) stands between shifts and sums.
BINARY = (
    ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="),
    ("<<", ">>"), ("@",), ("+", "-"), ("*", "/", "%"),
)  # fmt: skip
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


# Defined without a length in one file, and weakly with one in another: gdb takes the first
# file's, drgn either.
DEFINED_TWICE = {"linux_banner": "init/version.c"}


# Defined by the linker or in assembly, so debug information only declares them; drgn does
# not look at declarations (asm-generic/sections.h, arch/x86/kernel/head_64.S).
DECLARED = {
    **dict.fromkeys(
        (
            *("_text", "_stext", "_etext", "_data", "_sdata", "_edata", "_end"),
            *("__bss_start", "__bss_stop", "__init_begin", "__init_end"),
            *("_sinittext", "_einittext", "__start_rodata", "__end_rodata"),
            *("__start_ro_after_init", "__end_ro_after_init"),
            *("__per_cpu_load", "__per_cpu_start", "__per_cpu_end"),
            *("__entry_text_start", "__entry_text_end"),
            *("__irqentry_text_start", "__irqentry_text_end"),
            *("__softirqentry_text_start", "__softirqentry_text_end"),
            *("__noinstr_text_start", "__noinstr_text_end"),
            *("__kprobes_text_start", "__kprobes_text_end"),
        ),
        "char []",
    ),
    **dict.fromkeys(("phys_base", "initial_code", "initial_gs", "initial_stack"), "unsigned long"),
    "early_top_pgt": "pgd_t [512]",
    "init_top_pgt": "pgd_t []",
    "level4_kernel_pgt": "p4d_t [512]",
    "level3_kernel_pgt": "pud_t [512]",
    "level2_kernel_pgt": "pmd_t [512]",
    "level2_fixmap_pgt": "pmd_t [512]",
}


@dataclass(frozen=True)
class Token:
    kind: str
    text: str


def tokens(text: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise GdbError(f"Invalid character '{text[at]}' in expression.")
        kind = match.lastgroup or ""
        found.append(Token(kind, match[kind]))
        at = match.end()
    return found


END = Token("end", "")


class Parser:
    """Evaluates one expression while it reads it."""

    def __init__(self, target: Target, text: str, kind: str = KERNEL) -> None:
        self.target = target
        self.prog = target.prog
        self.text = text
        self.tokens = tokens(text)
        self.at = 0
        self.kind = kind
        self.warnings: list[str] = []
        self.skipping = 0  # inside an operand that && || ?: do not evaluate

    # Tokens

    @property
    def token(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def ahead(self, count: int = 1) -> Token:
        at = self.at + count
        return self.tokens[at] if at < len(self.tokens) else END

    def take(self, *operators: str) -> str | None:
        """Consume an operator if it is one of these."""
        token = self.token
        if token.kind == "operator" and token.text in operators:
            self.at += 1
            return token.text
        return None

    def expect(self, operator: str) -> None:
        if not self.take(operator):
            raise self.syntax_error()

    def syntax_error(self) -> GdbError:
        near = " ".join(t.text for t in self.tokens[self.at :])
        return GdbError(f"A syntax error in expression, near `{near}'.")

    # Expressions, from loose to tight

    def whole(self) -> Value:
        if not self.tokens:
            raise GdbError("The history is empty.")
        value = self.comma()
        if self.token is not END:
            raise self.syntax_error()
        return value

    def comma(self) -> Value:
        value = self.ternary()
        while self.take(","):
            value = self.ternary()
        return value

    def ternary(self) -> Value:
        value = self.either()
        if self.token.text in ("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="):
            raise GdbError("cannot write to a dump")
        if not self.take("?"):
            return value
        chosen = self.truth(value)
        first = self.unless(not chosen, self.comma)
        self.expect(":")
        second = self.unless(chosen, self.ternary)
        return first if chosen else second

    def unless(self, skip: bool, parse: Callable[[], Value]) -> Value:
        """Parse an operand; whatever goes wrong in one that is not asked for is no error."""
        if not skip:
            return parse()
        self.skipping += 1
        try:
            return parse()
        finally:
            self.skipping -= 1

    def either(self) -> Value:
        value = self.both()
        while self.take("||"):
            known = self.truth(value)
            right = self.unless(known, self.both)
            value = self.integer(int(known or self.truth(right)))
        return value

    def both(self) -> Value:
        value = self.binary(0)
        while self.take("&&"):
            known = self.truth(value)
            right = self.unless(not known, lambda: self.binary(0))
            value = self.integer(int(known and self.truth(right)))
        return value

    def binary(self, level: int) -> Value:
        if level == len(BINARY):
            return self.unary()
        value = self.binary(level + 1)
        while operator := self.take(*BINARY[level]):
            value = self.apply(operator, value, self.binary(level + 1))
        return value

    def unary(self) -> Value:
        if self.take("{"):  # {TYPE} ADDRESS: what lies there
            type_ = self.type_name()
            self.expect("}")
            return Object(self.prog, type_, address=self.number_of(self.unary()))
        operator = self.take("-", "+", "!", "~", "*", "&")
        if operator:
            return self.prefix(operator, self.unary())
        if self.token == Token("name", "sizeof"):
            return self.size_of()
        if self.token.text == "(" and self.starts_type(1):
            self.at += 1
            type_ = self.type_name()
            self.expect(")")
            return self.cast(type_, self.unary())
        return self.postfix()

    def size_of(self) -> Value:
        self.at += 1
        if self.token.text == "(" and self.starts_type(1):
            self.at += 1
            type_ = self.type_name()
            self.expect(")")
        elif self.starts_type(0):
            type_ = self.type_name()
        else:
            value = self.unary()
            if not isinstance(value, Object):
                raise GdbError("has unknown type; cast it to its declared type")
            type_ = value.type_
        try:
            size = sizeof(type_)
        except TypeError:
            size = 1  # of void and of functions, as gcc has it
        return Object(self.prog, "unsigned long", size)

    def postfix(self) -> Value:
        value = self.primary()
        while True:
            if self.take("["):
                index = self.comma()
                self.expect("]")
                value = self.element(value, index)
            elif self.take(".", "->"):
                if self.token.kind != "name":
                    raise self.syntax_error()
                value = self.member(value, self.token.text)
                self.at += 1
            else:
                return value

    def primary(self) -> Value:
        token = self.token
        if self.take("("):
            value = self.comma()
            self.expect(")")
            return value
        self.at += 1
        if token.kind == "number":
            return self.number(token.text)
        if token.kind == "char":
            return Object(self.prog, "signed char", _signed(_characters(token.text[1:-1])[0]))
        if token.kind == "string":
            return self.string(token)
        if token.kind == "history":
            return self.history(token.text)
        if token.kind == "quoted" or (token.kind == "name" and self.token.text == "::"):
            return self.scoped(token.text.strip("'"))
        if token.kind == "name":
            if self.at_type(token.text):
                raise GdbError("Attempt to use a type name as an expression")
            return self.lookup(token.text)
        self.at -= 1
        raise self.syntax_error()

    # Names

    def scoped(self, name: str) -> Value:
        """``'file.c'::variable``, ``function::variable``, or a quoted name."""
        if not self.take("::"):
            return self.lookup(name)
        inner = self.token.text
        self.at += 1
        try:
            return self.prog.object(inner, filename=name)
        except LookupError:
            raise GdbError(f'No symbol "{inner}" in specified context.') from None

    def lookup(self, name: str) -> Value:
        symbol = None
        try:
            if (file := DEFINED_TWICE.get(name)) is not None:
                found = self.prog.variable(name, file)
            else:
                found = self.prog[name]
        except (KeyError, LookupError):
            symbol = self.target.elf_symbol(name)
        else:
            # A function that was inlined somewhere may lack an address in debug information.
            if found.absent_ and (symbol := self.target.elf_symbol(name)) is not None:
                return Object(self.prog, found.type_, address=symbol[0])
            if found.absent_ and found.type_.kind == TypeKind.FUNCTION:  # inlined everywhere
                raise GdbError(f'No symbol "{name}" in current context.')
            return found
        if symbol is None:
            raise GdbError(f'No symbol "{name}" in current context.')
        declared = self.target.type(DECLARED[name]) if name in DECLARED else None
        if declared is not None:
            return Object(self.prog, declared, address=symbol[0])
        return Bare(name, symbol[0], symbol[1])

    def history(self, text: str) -> Value:
        values = self.target.history
        digits = text.lstrip("$")
        if digits and not digits.isdecimal():
            return None  # a convenience variable that nobody has set
        if text.startswith("$$"):
            at = len(values) - int(digits or 1)
        elif digits:
            at = int(digits)
        else:
            at = len(values)
        if not values or (at <= 0 and not digits):
            return None
        if not 0 < at <= len(values):
            raise GdbError(f"History has not yet reached ${at}.")
        return values[at - 1]

    # Literals

    def number(self, text: str) -> Value:
        lowered = text.lower()
        if not lowered.startswith("0x") and re.search(r"[.e]", lowered):
            if lowered.endswith("f"):
                return Object(self.prog, "float", float(lowered[:-1]))
            return Object(self.prog, "double", float(lowered.rstrip("l")))
        digits = lowered.rstrip("ul")
        suffix = lowered[len(digits) :]
        try:
            if digits.startswith("0x"):
                value, decimal = int(digits, 16), False
            elif len(digits) > 1 and digits.startswith("0"):
                value, decimal = int(digits, 8), False
            else:
                value, decimal = int(digits), True
        except ValueError:
            raise GdbError("Invalid number") from None
        if value >= 1 << 64:
            raise GdbError("Numeric constant too large.")
        unsigned = "u" in suffix
        for name, bits in (("int", 32), ("long", 64)):
            if name == "int" and "l" in suffix:
                continue
            if not unsigned and value < 1 << (bits - 1):
                return Object(self.prog, name, value)
            if (unsigned or not decimal or bits == 64) and value < 1 << bits:
                return Object(self.prog, f"unsigned {name}", value)
        raise GdbError("Numeric constant too large.")

    def string(self, token: Token) -> Object:
        data = bytes(_characters(token.text[1:-1]))
        while self.token.kind == "string":
            data += bytes(_characters(self.token.text[1:-1]))
            self.at += 1
        type_ = self.prog.array_type(self.prog.type("char"), len(data) + 1)
        return Object.from_bytes_(self.prog, type_, data + b"\0")

    def integer(self, value: int) -> Object:
        return Object(self.prog, "int", value)

    # Types

    def at_type(self, name: str) -> bool:
        if name in WORDS or name in QUALIFIERS or name in ("struct", "union", "enum"):
            return True
        if self.prog_has(name):
            return False
        type_ = self.target.type(name)
        return type_ is not None and type_.kind == TypeKind.TYPEDEF

    def prog_has(self, name: str) -> bool:
        try:
            self.prog[name]
        except (KeyError, LookupError):
            return False
        return True

    def starts_type(self, ahead: int) -> bool:
        token = self.ahead(ahead)
        return token.kind == "name" and token.text != "sizeof" and self.at_type(token.text)

    def type_name(self) -> Type:
        qualifiers = Qualifiers(0)
        base: Type | None = None
        words: list[str] = []
        while self.token.kind == "name":
            text = self.token.text
            if text in QUALIFIERS:
                qualifiers |= QUALIFIERS[text]
            elif text in ("struct", "union", "enum"):
                self.at += 1
                base = self.tagged(text, self.token.text)
            elif text in WORDS:
                words.append("_Bool" if text == "bool" else text)
            elif base is None and not words:
                base = self.target.type(text)
                if base is None:
                    raise GdbError(f'No symbol "{text}" in current context.')
            else:
                raise self.syntax_error()
            self.at += 1
        if words:
            base = self.target.type(" ".join(words))
        if base is None:
            raise self.syntax_error()
        if qualifiers:
            base = base.qualified(base.qualifiers | qualifiers)
        return self.declarator(base)

    def tagged(self, keyword: str, tag: str) -> Type:
        type_ = self.target.type(f"{keyword} {tag}")
        if type_ is None:
            words = {"struct": "struct", "union": "union", "enum": "enum"}
            raise GdbError(f"No {words[keyword]} type named {tag}.")
        return type_

    def declarator(self, base: Type) -> Type:
        """Stars, ``(*)(parameters)`` and brackets without a name."""
        while self.take("*"):
            base = self.prog.pointer_type(base)
            while self.token.text in QUALIFIERS:
                base = base.qualified(base.qualifiers | QUALIFIERS[self.token.text])
                self.at += 1
        if self.token.text == "(" and self.ahead().text == "*":
            self.at += 1
            stars = 0
            while self.take("*"):
                stars += 1
            inner: list[int | None] = []
            while self.take("["):
                inner.append(self.bound())
            self.expect(")")
            base = self.suffixes(base)
            for _ in range(stars):
                base = self.prog.pointer_type(base)
            for length in reversed(inner):
                base = self.prog.array_type(base, length)
            return base
        return self.suffixes(base)

    def suffixes(self, base: Type) -> Type:
        if self.take("("):
            parameters: list[Type] = []
            while not self.take(")"):
                parameters.append(self.type_name())
                self.take(",")
            from drgn import TypeParameter

            if len(parameters) == 1 and parameters[0].kind == TypeKind.VOID:
                parameters = []
            return self.prog.function_type(base, [TypeParameter(p) for p in parameters])
        lengths: list[int | None] = []
        while self.take("["):
            lengths.append(self.bound())
        for length in reversed(lengths):
            base = self.prog.array_type(base, length)
        return base

    def bound(self) -> int | None:
        if self.take("]"):
            return None
        length = self.comma()
        self.expect("]")
        return self.number_of(length)

    # Values

    def read(self, value: Object) -> Object:
        """The value itself where it was a reference into memory."""
        if value.address_ is None:
            return value
        if self.skipping:
            return value
        try:
            if self.kind != KERNEL:
                data = Memory(self.target.dump, self.kind).read(value.address_, sizeof(value.type_))
                return Object.from_bytes_(self.prog, value.type_, data)
            return value.read_()
        except FaultError:
            Memory(self.target.dump).read(value.address_, sizeof(value.type_))
            raise

    def scalar(self, value: Value) -> Object:
        """An operand: arrays and functions become pointers, references are read."""
        if isinstance(value, Bare):
            if value.is_text or value.is_pointer:
                return Object(self.prog, "unsigned long", value.address)
            raise GdbError(f"'{value.name}' has unknown type; cast it to its declared type")
        if value is None:
            raise GdbError("Attempt to take contents of a non-pointer value.")
        kind = resolved(value.type_).kind
        if kind == TypeKind.ARRAY:
            if value.address_ is None:
                raise GdbError("Attempt to take address of value not located in memory.")
            element = resolved(value.type_).type
            return Object(self.prog, self.prog.pointer_type(element), value.address_)
        if kind == TypeKind.FUNCTION:
            return value.address_of_()
        if kind in COMPOUND:
            raise GdbError("Argument to arithmetic operation not a number or boolean.")
        if self.skipping:
            return Object(self.prog, value.type_, 0)
        return self.read(value)

    def number_of(self, value: Value) -> int:
        found = self.scalar(value).value_()
        return int(found)

    def truth(self, value: Value) -> bool:
        return not self.skipping and bool(self.scalar(value).value_())

    def prefix(self, operator: str, value: Value) -> Value:
        if operator == "&":
            return self.address_of(value)
        if operator == "*":
            return self.target_of(value)
        if operator == "!":
            return self.integer(int(not self.truth(value)))
        operand = self.plain(self.scalar(value))
        if operator == "-":
            return -operand
        if operator == "~":
            return ~operand
        return +operand

    def plain(self, value: Object) -> Object:
        """Enumerators count as the integers they are."""
        type_ = resolved(value.type_)
        if type_.kind == TypeKind.ENUM and type_.type is not None:
            return cast(type_.type, value)
        return value

    def address_of(self, value: Value) -> Value:
        if isinstance(value, Bare):
            return replace(value, is_pointer=True)
        if value is None or value.address_ is None:
            raise GdbError("Attempt to take address of value not located in memory.")
        if value.bit_field_size_ is not None:
            raise GdbError("Attempt to take address of value not located in memory.")
        return value.address_of_()

    def target_of(self, value: Value) -> Value:
        if isinstance(value, Bare):
            if value.is_text or value.is_pointer:
                return replace(value, is_pointer=False)
            raise GdbError(f"'{value.name}' has unknown type; cast it to its declared type")
        if value is None:
            raise GdbError("Attempt to take contents of a non-pointer value.")
        type_ = resolved(value.type_)
        if type_.kind == TypeKind.FUNCTION:
            return value
        if type_.kind == TypeKind.INT:
            address = int(self.read(value).value_()) & 0xFFFFFFFFFFFFFFFF
            return Object(self.prog, "long", address=address)
        if type_.kind not in (TypeKind.POINTER, TypeKind.ARRAY):
            raise GdbError("Attempt to take contents of a non-pointer value.")
        pointer = self.scalar(value)
        pointed = resolved(pointer.type_).type
        if resolved(pointed).kind == TypeKind.VOID:
            raise GdbError("Attempt to take contents of a non-pointer value.")
        return Object(self.prog, pointed, address=pointer.value_())

    def element(self, value: Value, index: Value) -> Value:
        at = self.number_of(index)
        if not isinstance(value, Object):
            raise GdbError("cannot subscript something of type `void'")
        type_ = resolved(value.type_)
        if type_.kind == TypeKind.ARRAY and value.address_ is None:
            try:
                return value[at]
            except IndexError:
                raise GdbError(f"no such vector element (vector size {type_.length})") from None
        if type_.kind not in (TypeKind.POINTER, TypeKind.ARRAY):
            raise GdbError(f"cannot subscript something of type `{value.type_.type_name()}'")
        pointer = self.scalar(value)
        pointed = resolved(pointer.type_).type
        try:
            step = sizeof(pointed)
        except TypeError:
            step = 1
        address = (pointer.value_() + at * step) & 0xFFFFFFFFFFFFFFFF
        return Object(self.prog, pointed, address=address)

    def member(self, value: Value, name: str) -> Value:
        if not isinstance(value, Object):
            raise GdbError("Attempt to extract a component of a value that is not a structure.")
        type_ = resolved(value.type_)
        if type_.kind in (TypeKind.POINTER, TypeKind.ARRAY) or (
            type_.kind not in COMPOUND and self.skipping
        ):
            value = self.target_of(value)
            assert isinstance(value, Object)
            type_ = resolved(value.type_)
        if type_.kind not in COMPOUND:
            raise GdbError("Attempt to extract a component of a value that is not a structure.")
        if name not in members(type_):
            raise GdbError(f"There is no member named {name}.")
        return value.member_(name)

    def cast(self, type_: Type, value: Value) -> Value:
        plain = resolved(type_)
        if isinstance(value, Bare):
            if value.is_text or value.is_pointer:
                return self.converted(type_, Object(self.prog, "unsigned long", value.address))
            # gdb takes the word of whoever casts it: this is what the variable is.
            return Object(self.prog, type_, address=value.address)
        if plain.kind == TypeKind.VOID:
            return None
        if value is None:
            raise GdbError("Invalid cast.")
        source = resolved(value.type_)
        if plain.kind in COMPOUND or plain.kind == TypeKind.ARRAY:
            if value.address_ is not None and source.kind == plain.kind:
                return Object(self.prog, type_, address=value.address_)
            raise GdbError("Invalid cast.")
        return self.converted(type_, self.scalar(value))

    def converted(self, type_: Type, value: Object) -> Object:
        try:
            return cast(type_, value)
        except TypeError:
            return cast(type_, cast("unsigned long", value))

    def apply(self, operator: str, left: Value, right: Value) -> Value:
        if self.skipping:
            return self.integer(0)
        if operator == "@":
            return self.repeated(left, right)
        a, b = self.plain(self.scalar(left)), self.plain(self.scalar(right))
        pointers = [resolved(x.type_).kind == TypeKind.POINTER for x in (a, b)]
        if operator in COMPARISONS:
            return self.integer(int(COMPARISONS[operator](_python(a), _python(b))))
        if any(pointers):
            return self.pointer_arithmetic(operator, a, b, pointers)
        if operator in ("/", "%"):
            if not b.value_():
                kinds = {resolved(a.type_).kind, resolved(b.type_).kind}
                if TypeKind.FLOAT not in kinds or operator == "%":
                    raise GdbError("Division by zero")
                return Object(self.prog, "double", _infinite(float(a.value_())))
            return a / b if operator == "/" else a % b
        if operator in ("<<", ">>"):
            return self.shifted(operator, a, b)
        try:
            found: Object = ARITHMETIC[operator](a, b)
        except TypeError:
            raise GdbError("Argument to arithmetic operation not a number or boolean.") from None
        return found

    def shifted(self, operator: str, a: Object, b: Object) -> Object:
        width = 8 * sizeof((+a).type_)
        count = int(b.value_())
        side = "left" if operator == "<<" else "right"
        if count < 0:
            self.warnings.append(f"{side} shift count is negative")
            return +a * 0
        if count >= width:
            self.warnings.append(f"{side} shift count >= width of type")
            negative = operator == ">>" and a.value_() < 0
            return +a * 0 - int(negative)
        return a << count if operator == "<<" else a >> count

    def pointer_arithmetic(
        self, operator: str, a: Object, b: Object, pointers: list[bool]
    ) -> Object:
        if operator == "-" and all(pointers):
            size = self.step(a.type_)
            distance = (a.value_() - b.value_()) // size
            return Object(self.prog, "long", _signed(distance, 64))
        if operator in ("+", "-") and not all(pointers) and (pointers[0] or operator == "+"):
            pointer, other = (a, b) if pointers[0] else (b, a)
            count = int(other.value_()) * (-1 if operator == "-" else 1)
            address = pointer.value_() + count * self.step(pointer.type_)
            return Object(self.prog, pointer.type_, address & 0xFFFFFFFFFFFFFFFF)
        x, y = (cast("long", v) if p else v for v, p in zip((a, b), pointers, strict=True))
        found = self.apply(operator, x, y)
        assert isinstance(found, Object)
        return found

    def step(self, type_: Type) -> int:
        try:
            return sizeof(resolved(type_).type) or 1
        except TypeError:
            return 1

    def repeated(self, value: Value, count: Value) -> Value:
        length = self.number_of(count)
        if not isinstance(value, Object) or value.address_ is None:
            raise GdbError("Only values in memory can be extended with '@'.")
        if length <= 0:
            raise GdbError("Invalid number 0 of repetitions.")
        type_ = self.prog.array_type(value.type_, length)
        return Object(self.prog, type_, address=value.address_)


def _python(value: Object) -> Any:
    """A number to compare: pointers and unsigned words by their value."""
    return value.value_()


def _infinite(value: float) -> float:
    """What a number divided by 0.0 is."""
    return math.nan if not value else math.copysign(math.inf, value)


def _signed(value: int, bits: int = 8) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _characters(text: str) -> list[int]:
    """The bytes that the inside of a literal means."""
    found: list[int] = []
    pattern = r"\\([0-7]{1,3})|\\x([0-9a-fA-F]+)|\\(.)|([^\\])"
    for octal, hexadecimal, escape, plain in re.findall(pattern, text, re.DOTALL):
        if octal:
            found.append(int(octal, 8) & 255)
        elif hexadecimal:
            found.append(int(hexadecimal, 16) & 255)
        elif escape:
            found.append(ESCAPES.get(escape, ord(escape) & 255))
        else:
            found += plain.encode()
    return found


def evaluate(target: Target, text: str, kind: str = KERNEL) -> tuple[Value, list[str]]:
    """The value of an expression, and gdb's warnings on it.

    Raises GdbError for what gdb refuses, UnreadableError for memory the dump lacks.
    """
    parser = Parser(target, text, kind)
    try:
        value = parser.whole()
    except FaultError as fault:
        raise UnreadableError("") from fault
    except (LookupError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise GdbError(str(error)) from error
    except RecursionError:
        raise GdbError("expression too deep") from None
    return value, parser.warnings


def lookup(target: Target, name: str) -> Object | None:
    """A variable, function or enumerator with its type; None where there is none."""
    try:
        found = Parser(target, name).lookup(name)
    except GdbError:
        return None
    return found if isinstance(found, Object) else None
