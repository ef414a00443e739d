"""Answers to drgn's questions for types and objects, from BTF and declarations.json.

BTF has types, functions, enumerators and per-CPU variables. The types of other variables
are those that several kernels' DWARF says they have had (declare.py).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import resources
from typing import Any

import drgn
from drgn import FindObjectFlags, Object, Program, Qualifiers, Type, TypeKind

from crashpy.opening.btf import KINDS_OF, Btf, BtfError, Kind
from crashpy.opening.symtab import SymbolFinder

log = logging.getLogger("crashpy")

ALIGNMENT = 8  # bytes
ROOM = "room"  # for the length of an array: as many as the symbol has room for
RODATA = ("__start_rodata", "__end_rodata", "__start_ro_after_init", "__end_ro_after_init")


def declarations() -> dict[str, list[str]]:
    """Variable -> the C types it has had, newest kernel's first."""
    found: dict[str, list[str]] = _data("declarations.json")
    return found


def shapes() -> dict[str, list[list[int]]]:
    """What BTF does not tell of arrays.

    ``structure.member`` or per-CPU variable -> the lengths an array of arrays has had, or
    [0] for a structure's last member that is not [].
    """
    found: dict[str, list[list[int]]] = _data("shapes.json")
    return found


def _data(name: str) -> Any:
    return json.loads(resources.files("crashpy.opening").joinpath(name).read_text())


class Finder:
    """Answers drgn's questions for types and objects from BTF blobs.

    libdrgn asks again at every prog.type() and prog["x"], so hits and misses are kept.
    """

    def __init__(self, prog: Program, vmcoreinfo: Mapping[str, str], symbols: SymbolFinder) -> None:
        self._prog = prog
        self._symbols = symbols
        self._vmcoreinfo = vmcoreinfo
        self._blobs: list[Btf] = []
        # adds the modules' blobs; run when something is not found in the kernel's
        self.complete: Callable[[], None] | None = None
        self._types: dict[tuple[Any, ...], Type | None] = {}
        self._objects: dict[tuple[str, FindObjectFlags], Object | None] = {}

    def add(self, blob: Btf) -> None:
        self._blobs.append(blob)
        self._types.clear()
        self._objects.clear()

    @cached_property
    def _declared(self) -> dict[str, list[str]]:
        return declarations()

    def find_type(
        self,
        prog: Program,  # noqa: ARG002  drgn's signature
        kinds: frozenset[TypeKind],
        name: str,
        filename: str | None,  # noqa: ARG002
    ) -> Type | None:
        key = (name, *sorted(kind.value for kind in kinds))
        if key not in self._types:
            self._types[key] = self._find_type(kinds, name)
        return self._types[key]

    def find_object(
        self,
        prog: Program,  # noqa: ARG002
        name: str,
        flags: FindObjectFlags,
        filename: str | None,  # noqa: ARG002
    ) -> Object | None:
        key = name, flags
        if key not in self._objects:
            self._objects[key] = self._find_object(name, flags)
        return self._objects[key]

    def _all_blobs(self) -> Iterator[Btf]:
        yield from self._blobs
        if complete := self.complete:
            self.complete = None
            known = len(self._blobs)
            complete()
            yield from self._blobs[known:]

    def _find_type(self, kinds: frozenset[TypeKind], name: str) -> Type | None:
        wanted = tuple(kind for each in kinds for kind in KINDS_OF.get(each, ()))
        for blob in self._all_blobs():
            for number in blob.ids(name, wanted):
                try:
                    found = blob.type(number)
                except (BtfError, LookupError, OverflowError, RecursionError) as error:
                    log.warning("%s: BTF is damaged (%s)", name, error)
                    continue
                if found.kind in kinds:
                    return found
        return None

    def _find_object(self, name: str, flags: FindObjectFlags) -> Object | None:
        kernels = self._blobs[:1]
        if (found := self._described(kernels, name, flags)) is not None:
            return found
        # A symbol of the kernel's own is none that a module's types could tell more of.
        if self._symbols.named(name):
            return self._declared_object(name, flags)
        found = self._described(self._all_blobs(), name, flags)
        return self._declared_object(name, flags) if found is None else found

    def _described(self, blobs: Iterable[Btf], name: str, flags: FindObjectFlags) -> Object | None:
        """The constant, function or per-CPU variable of that name."""
        kinds = [
            kind
            for flag, kind in (
                (FindObjectFlags.FUNCTION, Kind.FUNC),
                (FindObjectFlags.VARIABLE, Kind.VAR),
            )
            if flags & flag
        ]
        for blob in blobs:
            constant = blob.enumerator(name) if flags & FindObjectFlags.CONSTANT else None
            if constant is not None:
                return constant
            for number in blob.ids(name, kinds):
                if (address := self._address(name)) is not None:
                    return Object(self._prog, blob.type_of(number), address=address)
        return None

    def _declared_object(self, name: str, flags: FindObjectFlags) -> Object | None:
        if not flags & FindObjectFlags.VARIABLE or self._symbols.is_ambiguous(name):
            return None
        if name not in self._declared or (address := self._address(name)) is None:
            return None
        type_ = self._declared_type(name, address)
        return None if type_ is None else Object(self._prog, type_, address=address)

    def _declared_type(self, name: str, address: int) -> Type | None:
        """Of the types a variable has had, the one of this kernel.

        Where several would do, that is one that its symbol has room for, and no more of
        that than a linker leaves between two: kallsyms knows no sizes.
        """
        room = self._room(address)
        texts = self._declared.get(name, ())
        for exact in (True, False):
            found = [self._written(text, room, exact=exact) for text in texts]
            types = [type_ for type_ in found if type_ is not None]
            if types:
                break
        if len(types) < 2:
            return types[0] if types else None
        if all(map(_is_number, types)):
            # More than it has would be its neighbour's: of two numbers the smaller one.
            close = [size for size in map(_size, types) if room - size < ALIGNMENT]
            types = [type_ for type_ in types if _size(type_) == min(close, default=_size(type_))]
        const = self._is_constant(address)
        return max(types, key=lambda type_: (_size(type_), _is_const(type_) == const))

    def _is_constant(self, address: int) -> bool:
        bounds = [self._address(name) or 0 for name in RODATA]
        return bounds[0] <= address < bounds[1] and not bounds[2] <= address < bounds[3]

    def _room(self, address: int) -> int:
        return max((s.size for s in self._symbols(self._prog, None, address, False)), default=0)

    def _address(self, name: str) -> int | None:
        try:
            return self._prog.symbol(name).address
        except LookupError:
            return None

    def _written(self, declaration: str, room: int, *, exact: bool) -> Type | None:
        """The type a declaration names, None where this kernel has no such type.

        ``{a,b}`` or ``const {a,b}`` is the unnamed structure with these members; ``T [X]``
        an array whose length is a number, an enumerator, a LENGTH() of VMCOREINFO, or,
        where X is none of these, or too much and not to be `exact`, what the symbol's
        room holds.
        """
        written = re.fullmatch(r"(.*?[^\s\]])((?: \[\w*\])*)", declaration)
        assert written
        name, lengths = written[1], re.findall(r"\w+|(?<=\[)(?=\])", written[2])
        try:
            if name.endswith("}"):
                const, members = name.startswith("const "), name[name.index("{") + 1 : -1]
                type_ = self._structure_of(members.split(","), const=const)
            else:
                type_ = self._prog.type(name)
            for word in lengths[:0:-1]:
                type_ = self._prog.array_type(type_, self._length(word))
            if not lengths:
                return type_ if not room or _size(type_) <= room else None
            length, size = self._length(lengths[0]), drgn.sizeof(type_)
        except (LookupError, SyntaxError, TypeError):
            return None
        if not lengths[0]:
            return self._prog.array_type(type_)
        if exact and length is not None and 0 < room < length * size:
            return None
        if length is None or (room and length * size > room):
            length = room // size or None if size else None
        return self._prog.array_type(type_, length)

    def _structure_of(self, members: Sequence[str], *, const: bool) -> Type:
        for blob in self._blobs:
            if (type_ := blob.structure_of(members)) is not None:
                return type_.qualified(Qualifiers.CONST) if const else type_
        raise LookupError("no such structure")

    def _length(self, word: str) -> int | None:
        if word.isdecimal():
            return int(word)
        if word and (length := self._vmcoreinfo.get(f"LENGTH({word})")):
            return int(length)
        if word:
            for blob in self._blobs:
                if (constant := blob.enumerator(word)) is not None:
                    number: int = constant.value_()
                    return number
        return None


def _is_number(type_: Type) -> bool:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_.kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM)


def _is_const(type_: Type) -> bool:
    while type_.kind == TypeKind.ARRAY:
        type_ = type_.type
    return bool(type_.qualifiers & Qualifiers.CONST)


def _size(type_: Type) -> int:
    try:
        return drgn.sizeof(type_)
    except TypeError:  # a flexible array
        return 0
