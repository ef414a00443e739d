"""p: the values of expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drgn import Object

from crashpy.command import Address, CommandError, Option, UsageError, command, flag, getopt
from crashpy.gdb.expressions import Bare, GdbError, Value, evaluate, lookup
from crashpy.gdb.memory import KERNEL, USER, Memory, UnreadableError
from crashpy.gdb.percpu import chosen_cpus, is_per_cpu
from crashpy.gdb.target import Target
from crashpy.gdb.types import declaration, name_of
from crashpy.gdb.values import Style, object_bytes, plain_value, show_object
from crashpy.kernel.percpu import per_cpu_offsets

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings
    from crashpy.symbols import Symbol

LETTERS = {
    o.name: o
    for o in (
        flag("-x", "radix", "", value=16),
        flag("-h", "radix", "", value=16),
        flag("-d", "radix", "", value=10),
        flag("-u", "user", ""),
    )
}
FORMATS = "xdutozcafs"


@dataclass(frozen=True)
class Result:
    """One value, with its place in the history."""

    leader: str | None  # what it is the value of; None of an expression
    number: int  # $number
    type: str
    address: Address | None  # where it lies in memory
    value: Value = field(repr=False)
    target: Target = field(repr=False)
    memory: Memory = field(repr=False)
    warnings: tuple[str, ...] = ()
    format: str = ""  # the letter of p/x

    def __json__(self) -> dict[str, Any]:
        value: Any = None
        if isinstance(self.value, Object):
            data = object_bytes(self.target, self.value, self.memory)
            if self.value.bit_field_size_ is not None:
                value = self.value.value_()
            else:
                base = self.value.address_ or 0
                value = plain_value(self.target, self.value.type_, data, 0, base)
        return {
            "expression": self.leader,
            "number": self.number,
            "type": self.type,
            "address": self.address,
            "value": value,
        }


@dataclass(frozen=True)
class PerCpu:
    """A per-CPU variable: its type, and where each CPU has it."""

    declaration: str
    addresses: tuple[Address, ...]


@command(usage="[-x|-d][-u] [expression | symbol[:cpuspec]]", words=True)
def p(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Result | PerCpu]:
    """the value of a C expression

    Names are those of variables, functions and enumerators; all of C's operators but
    assignments count, and gdb's: N@COUNT for an array that begins with N, 'FILE.C'::NAME
    for the variable of one source file, $1 for an earlier value. Casts name any type.

    A per-CPU variable alone shows its address on each CPU; with :CPUSPEC its values:
    `:` on the context's CPU, `:a` on all, `:0,2-3` on these.

    -x, -d  in hexadecimal, in decimal; p/x, p/o, p/t, p/c... as gdb has them
    -u      addresses are of the context's user memory

    EXAMPLES
      crash> p jiffies
      jiffies = $1 = 4294896107
      crash> p &init_task.tasks
      $2 = (struct list_head *) 0xffffffffa640a150 <init_task+1104>
      crash> p runqueues:a
      crash> p -x init_task.flags
      crash> p ((struct task_struct *)0xffffffffa6409d00)->comm
      crash> p sizeof(struct page)
    """
    found, rest = _options(words)
    radixes = {o.const for o, _ in found if o.dest == "radix"}
    if len(radixes) > 1:
        raise CommandError("-d and -x are mutually exclusive")
    if not rest:
        raise UsageError
    kind = USER if any(o.dest == "user" for o, _ in found) else KERNEL
    name, colon, spec = rest[0].rpartition(":")
    cpuspec = spec if colon else None
    name = name if colon else rest[0]
    symbol = dump.symbols.named(name)
    per_cpu = symbol
    if symbol is None or not (symbol.kind == "V" or is_per_cpu(dump, symbol)):
        per_cpu = dump.symbols.named(f"per_cpu__{name}")
    if per_cpu is not None and per_cpu.kind in "dDV" and is_per_cpu(dump, per_cpu):
        yield from _per_cpu(dump, per_cpu, cpuspec, kind)
        return
    text = " ".join(rest)
    if colon and symbol is not None:
        dump.report(f"WARNING: {symbol.name} is not percpu; cpuspec ignored.")
        text = " ".join([name, *rest[1:]])
    leader = symbol.name if symbol is not None else None
    shown = f"p{text}" if text.startswith("/") else f"p {text}"
    yield _result(dump, text, leader, kind, shown)


def _options(words: Sequence[str]) -> tuple[list[tuple[Option, str | None]], list[str]]:
    """crash's own options; of `p/x`, which goes to gdb as it stands, none."""
    if words[:1] and words[0].startswith("/"):
        return [], list(words)
    return getopt(words, LETTERS)


def _result(
    dump: Dump, text: str, leader: str | None, kind: str, shown: str, target: Value = None
) -> Result:
    format, expression = _format(text)
    gdb = dump.gdb
    memory = Memory(dump, kind)
    warnings: list[str] = []
    try:
        if target is None and format and not expression:
            value = gdb.history[-1] if gdb.history else None  # the last value
        elif target is None:
            value, warnings = evaluate(gdb, expression, kind)
        else:
            value = target
        if isinstance(value, Object):
            value = _fetched(gdb, value, memory)
        show_object(gdb, value, Style(format=format, kind=kind), memory)
    except UnreadableError as error:
        # crash keeps what gdb printed for a variable back, its complaints included.
        if (leader is None or kind == USER) and str(error):
            dump.report(str(error))
        elif leader and isinstance(value, Bare) and dump.symtab is not None:
            dump.report(f"'{leader}' has unknown type; cast it to its declared type")
        raise CommandError(f"gdb request failed: {shown}") from error
    except GdbError as error:
        if "has unknown type" in str(error) and dump.symtab is not None:
            dump.report(str(error))
        raise CommandError(f"gdb request failed: {shown}") from error
    gdb.history.append(value)
    return Result(
        leader,
        len(gdb.history),
        name_of(value.type_) if isinstance(value, Object) else "void",
        Address(value.address_) if isinstance(value, Object) and value.address_ else None,
        value,
        gdb,
        memory,
        tuple(warnings),
        format,
    )


def _fetched(gdb: Target, value: Object, memory: Memory) -> Object:
    """A value that can be shown later; what cannot be read shows now."""
    object_bytes(gdb, value, memory) if value.bit_field_size_ is None else value.value_()
    return value


def _format(text: str) -> tuple[str, str]:
    """The letter of ``/x EXPRESSION``, and the expression."""
    found = re.match(r"/(\w*)\s*", text)
    if not found:
        return "", text
    if found[1] and (len(found[1]) > 1 or found[1] not in FORMATS):
        raise CommandError(f"gdb request failed: p {text}")
    return found[1], text[found.end() :]


def _per_cpu(
    dump: Dump, symbol: Symbol, cpuspec: str | None, kind: str
) -> Iterator[Result | PerCpu]:
    cpus = None if cpuspec is None else chosen_cpus(dump, cpuspec)
    variable = lookup(dump.gdb, symbol.name)
    places = [Address((symbol.address + o) & (1 << 64) - 1) for o in per_cpu_offsets(dump.prog)]
    if cpus is None:
        text = f"[undetermined type] {symbol.name}"
        if variable is not None:
            text = declaration(variable.type_, symbol.name)
        yield PerCpu(text, tuple(places))
        return
    for cpu, place in enumerate(places):
        if cpu not in cpus:
            continue
        if variable is not None:
            value: Value = Object(dump.prog, variable.type_, address=place)
            leader = f"per_cpu({symbol.name}, {cpu})"
            shown = f"p *({name_of(variable.type_)}*) {place}"
        else:
            value = Object(dump.prog, "void *", place)
            leader = f"&per_cpu({symbol.name}, {cpu})"
            shown = f"p (void*) {place}"
        yield _result(dump, "", leader, kind, shown, value)


@p.text
def lines(
    results: Iterable[Result | PerCpu], *, settings: Settings, words: Sequence[str] = ()
) -> Iterator[str]:
    """gdb's text, behind the variable's name where the expression is one."""
    radix = next((o.const for o, _ in _options(words)[0] if o.dest == "radix"), None)
    for result in results:
        if isinstance(result, PerCpu):
            yield "PER-CPU DATA TYPE:"
            yield f"  {result.declaration};"
            yield "PER-CPU ADDRESSES:"
            for cpu, address in enumerate(result.addresses):
                yield f"  [{cpu}]: {address:x}"
            continue
        yield from (f"warning: {warning}" for warning in result.warnings)
        style = Style.of(settings, radix, result.format, result.memory.kind)
        text = show_object(result.target, result.value, style, result.memory)
        first, *rest = f"${result.number} = {text}".split("\n")
        if result.leader is not None:
            before, brace, after = first.partition("{")
            if brace and after:
                first, rest = before, [f" {{{after}", *rest]
            first = f"{result.leader} = {first}"
        yield first
        yield from rest
