"""BTF, the type information that a kernel carries in its own memory, as drgn types.

The format is the kernel's Documentation/bpf/btf.rst. A blob is scanned once (0.05 s for
100 000 types); types are built when they are first asked for, members when first looked
at. drgn's own Module.load_btf() can take the place of this module and of finder.py once it
is released, behind bare.give_types().
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from math import prod

from drgn import (
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeMember,
    TypeParameter,
)

from crashpy.command import CommandError

MAGIC = 0xEB9F


class Kind(IntEnum):
    """BTF_KIND_* of include/uapi/linux/btf.h."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Words of a record: struct btf_type is three; then what each kind adds, and what each
# of its vlen items takes.
_WORDS = array("B", [3] * 32)
for _kind in (Kind.INT, Kind.VAR, Kind.DECL_TAG):
    _WORDS[_kind] = 4
_WORDS[Kind.ARRAY] = 6
_ITEM_WORDS = array("B", [0] * 32)
for _kind in (Kind.STRUCT, Kind.UNION, Kind.DATASEC, Kind.ENUM64):
    _ITEM_WORDS[_kind] = 3
for _kind in (Kind.ENUM, Kind.FUNC_PROTO):
    _ITEM_WORDS[_kind] = 2

_NAMED = frozenset(
    (
        Kind.INT,
        Kind.STRUCT,
        Kind.UNION,
        Kind.ENUM,
        Kind.ENUM64,
        Kind.TYPEDEF,
        Kind.FLOAT,
        Kind.FUNC,
        Kind.VAR,
    )
)
_IS_NAMED = [kind in _NAMED for kind in range(32)]
_QUALIFIERS = {
    Kind.CONST: Qualifiers.CONST,
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.RESTRICT: Qualifiers.RESTRICT,
    Kind.TYPE_TAG: Qualifiers(0),
}
KINDS_OF = {
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
    TypeKind.STRUCT: (Kind.STRUCT,),
    TypeKind.UNION: (Kind.UNION,),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
}
_STATIC = 0  # BTF_VAR_STATIC
_ENCODING_SIGNED, _ENCODING_BOOL = 1, 4
_ENUM_BASES = {
    (1, False): "unsigned char",
    (2, False): "unsigned short",
    (4, False): "unsigned int",
    (4, True): "int",
    (8, False): "unsigned long",
    (8, True): "long",
}


_SIZES = (1, 2, 4, 8, 16)  # bytes of an integer
LONGEST_NAME = 2048  # bytes; the kernel's own limit is 512
_CONTROL = bytes((*range(1, 32), 127))


class BtfError(CommandError, ValueError):
    """These bytes are no BTF, or damaged BTF."""


class Btf:
    """One blob: vmlinux's, or with a `base` a module's, whose ids continue the base's."""

    def __init__(
        self,
        prog: Program,
        blob: bytes,
        base: Btf | None = None,
        shapes: Mapping[str, Sequence[Sequence[int]]] | None = None,
    ) -> None:
        """Raises BtfError where the header or a record makes no sense.

        `shapes` tells, by ``structure.member`` or the variable, which arrays are arrays of
        arrays, of which what writes BTF (pahole) makes [16] of [4][2][2], and which are [0].
        """
        if len(blob) < 24:
            raise BtfError("no BTF: too short")
        magic, _, _, header, type_at, type_size, string_at, string_size = struct.unpack_from(
            "<HBBIIIII", blob
        )
        if magic != MAGIC:
            raise BtfError("no BTF: its magic number is missing")
        if max(type_at + type_size, string_at + string_size) > len(blob) - header or type_size % 4:
            raise BtfError("BTF is cut short")
        overlap = type_at < string_at + string_size and string_at < type_at + type_size
        if header < 24 or overlap:
            raise BtfError("BTF is damaged: its header makes no sense")
        self._prog = prog
        self._base = base
        self._shapes = shapes or {}
        self._strings = blob[header + string_at : header + string_at + string_size]
        self._first_string: int = base._first_string + len(base._strings) if base else 0
        self._words = array("I", blob[header + type_at : header + type_at + type_size])
        self._first_id: int = base._first_id + len(base._at) if base else 0
        self._at: array[int] = (
            array("I") if base else array("I", [0])
        )  # id -> index into _words; 0 is void
        self._by_name: dict[int, list[int]] = {}  # string offset -> ids
        self._integers: list[int] = []
        self._enums: list[int] = []
        self._variables: list[int] = []
        self._sections: list[int] = []
        self._scan()
        self._check()
        self._types: dict[int, Type] = {}
        self._offsets: dict[str, tuple[int, ...]] = {}
        self._enumerators: dict[int, int] | None = None

    def _scan(self) -> None:
        words, at, names = self._words, self._at, self._by_name
        # Plain lists and numbers are fast.
        fixed, each, named, last = _WORDS.tolist(), _ITEM_WORDS.tolist(), _IS_NAMED, Kind.ENUM64 + 0
        listed = {
            Kind.INT + 0: self._integers,
            Kind.ENUM + 0: self._enums,
            Kind.ENUM64 + 0: self._enums,
            Kind.VAR + 0: self._variables,
            Kind.DATASEC + 0: self._sections,
        }
        index, end, number = 0, len(words), self._first_id + len(self._at)
        while index + 3 <= end:
            name, info = words[index], words[index + 1]
            kind = info >> 24 & 31
            if not 0 < kind <= last:
                raise BtfError(
                    f"BTF is damaged, or of a newer kernel than crashpy knows: type {number} is"
                    f" of the unknown kind {kind}"
                )
            at.append(index)
            if name and named[kind]:
                known = names.get(name)
                if known is None:
                    names[name] = [number]
                else:
                    known.append(number)
            if kind in listed:
                listed[kind].append(number)
            number += 1
            index += fixed[kind] + each[kind] * (info & 0xFFFF)
        if index != end:
            raise BtfError("BTF is damaged: its last type is cut short")

    def _check(self) -> None:
        """What a page that was left out or overwritten shows itself by, where nothing else does.

        The empty string is there once, as the first of all; and the variables that a section
        says it has come last, so that an id lost or added anywhere moves them.
        """
        strings = self._strings
        if strings and not (strings.endswith(b"\0") and (self._base or strings[0] == 0)):
            raise BtfError("BTF is damaged: its names do not end")
        half = LONGEST_NAME // 2  # no name is as long, so one ends in each of these pieces
        pieces = range(0, len(strings) - half, half)
        if (
            b"\0\0" in strings
            or len(strings.translate(None, _CONTROL)) < len(strings)
            or any(strings.find(0, at, at + half) < 0 for at in pieces)
        ):
            raise BtfError("BTF is damaged: some of its names are none")
        words = self._words
        for number in self._integers:
            if words[self._record(number)[0] + 2] not in _SIZES:
                raise BtfError(f"BTF is damaged: type {number} is an integer of an unlikely size")
        variables = set(self._variables)
        for number in self._sections:
            index, _, items, _ = self._record(number)
            if not variables.issuperset(words[index + 3 : index + 3 + 3 * items : 3]):
                raise BtfError("BTF is damaged: its types are not where others look for them")

    def __len__(self) -> int:
        return len(self._at)

    def ids(self, name: str, kinds: Sequence[Kind]) -> Iterator[int]:
        """Ids of the types of these kinds that have that name, this blob's own ones only."""
        for offset in self._string_offsets(name):
            for number in self._by_name.get(offset, ()):
                if self._record(number)[1] in kinds:
                    yield number

    def type(self, number: int) -> Type:
        """The drgn type with this id; ids below a module's own are its base's."""
        if self._base is not None and number < self._first_id:
            return self._base.type(number)
        found = self._types.get(number)
        if found is None:
            found = self._types[number] = self._make(number)
        return found

    def type_of(self, number: int) -> Type:
        """The type of the function or variable with this id."""
        name = self._string(self._words[self._record(number)[0]])
        shapes = self._shapes.get(name)
        return self._shaped(number, shapes) if shapes else self.type(number)

    def enumerator(self, name: str) -> Object | None:
        """The enumerator of that name as a constant."""
        if self._enumerators is None:
            self._enumerators = {}
            for number in self._enums:
                index, kind, items, _ = self._record(number)
                step = 2 if kind == Kind.ENUM else 3
                for offset in self._words[index + 3 : index + 3 + items * step : step]:
                    self._enumerators.setdefault(offset, number)
        for offset in self._string_offsets(name):
            if (number := self._enumerators.get(offset, -1)) >= 0:
                type_ = self.type(number)
                for item in type_.enumerators or ():
                    if item.name == name:
                        return Object(self._prog, type_, item.value)
        return None

    def structure_of(self, members: Sequence[str]) -> Type | None:
        """The unnamed structure with exactly these members, such as tk_core's."""
        wanted = [next(iter(self._string_offsets(member)), 0) for member in members]
        info = Kind.STRUCT << 24 | len(members)
        for position, index in enumerate(self._at):
            words = self._words
            if words[index] or words[index + 1] & 0x1F00FFFF != info:
                continue
            if list(words[index + 3 : index + 3 + 3 * len(members) : 3]) == wanted:
                return self.type(self._first_id + position)
        return None

    def static_variables(self) -> Iterator[str]:
        """Names of the variables that only one file of the source may use."""
        for number in self._variables:
            index = self._record(number)[0]
            if self._words[index + 3] == _STATIC:
                yield self._string(self._words[index])

    def named(self, kinds: Sequence[Kind]) -> Iterator[tuple[str, int]]:
        """Name and id of every named type of these kinds."""
        for offset, numbers in self._by_name.items():
            for number in numbers:
                if self._record(number)[1] in kinds:
                    yield self._string(offset), number

    def type_names(self) -> set[str]:
        """Names of all structures, unions and typedefs."""
        return {name for name, _ in self.named((Kind.STRUCT, Kind.UNION, Kind.TYPEDEF))}

    def _record(self, number: int) -> tuple[int, int, int, bool]:
        """Index into the words, kind, number of items, kind_flag."""
        index = self._at[number - self._first_id]
        info = self._words[index + 1]
        return index, info >> 24 & 31, info & 0xFFFF, bool(info >> 31)

    def _string(self, offset: int) -> str:
        if offset < self._first_string:
            assert self._base is not None
            return self._base._string(offset)
        offset -= self._first_string
        end = self._strings.find(b"\0", offset)
        return self._strings[offset:end].decode(errors="replace")

    def _string_offsets(self, name: str) -> tuple[int, ...]:
        """Where a name stands in the string tables that this blob can use."""
        # pahole and libbpf keep a string once, so the first hit is the only one. A miss
        # scans megabytes: it is worth remembering.
        if (found := self._offsets.get(name)) is not None:
            return found
        needle = b"\0" + name.encode() + b"\0"
        place = self._strings.find(needle)
        own: tuple[int, ...] = (self._first_string + place + 1,) if place >= 0 else ()
        if self._strings.startswith(needle[1:]):
            own += (self._first_string,)
        found = own + (self._base._string_offsets(name) if self._base else ())
        self._offsets[name] = found
        return found

    def _make(self, number: int) -> Type:
        if not number:
            return self._prog.void_type()
        if not 0 <= number - self._first_id < len(self._at):
            raise BtfError(f"BTF is damaged: there is no type {number}")
        prog, words = self._prog, self._words
        index, kind, items, kind_flag = self._record(number)
        name = self._string(words[index]) if words[index] else None
        refers = words[index + 2]  # a type's id, or its size in bytes
        if kind == Kind.PTR:
            return prog.pointer_type(self._never_flexible(refers))
        if (qualifier := _QUALIFIERS.get(Kind(kind))) is not None:
            type_ = self.type(refers)
            return type_.qualified(type_.qualifiers | qualifier)
        if kind == Kind.INT:
            encoding = words[index + 3] >> 24
            if encoding & _ENCODING_BOOL:
                return prog.bool_type(name or "_Bool", refers)
            return prog.int_type(name or "int", refers, bool(encoding & _ENCODING_SIGNED))
        if kind == Kind.FLOAT:
            return prog.float_type(name or "float", refers)
        if kind == Kind.TYPEDEF:
            return prog.typedef_type(name or "", self.type(refers))
        if kind == Kind.ARRAY:
            return prog.array_type(self.type(words[index + 3]), words[index + 5] or None)
        if kind == Kind.FWD:
            return self._forward(name, kind_flag)
        if kind in (Kind.STRUCT, Kind.UNION):
            members = list(self._members(index, items, kind_flag, kind == Kind.UNION))
            make = prog.struct_type if kind == Kind.STRUCT else prog.union_type
            return make(name, refers, members)
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self._enum(name, index, kind, items, refers, kind_flag)
        if kind == Kind.FUNC_PROTO:
            return self._prototype(index, items, refers)
        if kind in (Kind.FUNC, Kind.VAR):
            return self.type(refers)
        raise BtfError(f"BTF is damaged: type {number} cannot be a type (kind {kind})")

    def _forward(self, name: str | None, is_union: bool) -> Type:
        kinds = (Kind.UNION,) if is_union else (Kind.STRUCT,)
        blob: Btf | None = self
        while blob is not None and name:
            for number in blob.ids(name, kinds):
                return blob.type(number)
            blob = blob._base
        return (self._prog.union_type if is_union else self._prog.struct_type)(name)

    def _members(
        self, index: int, items: int, kind_flag: bool, is_union: bool
    ) -> Iterator[TypeMember]:
        words, shapes = self._words, self._shapes
        tag = self._string(words[index]) if words[index] else ""
        last = index + 3 * items
        for at in range(index + 3, index + 3 + 3 * items, 3):
            offset, bits = words[at + 2], 0
            if kind_flag:
                offset, bits = offset & 0xFFFFFF, offset >> 24
            name = self._string(words[at]) if words[at] else None
            flexible = at == last and items > 1 and not is_union
            shape = shapes.get(f"{tag}.{name}", ())
            yield TypeMember(self._member(words[at + 1], bits, flexible, shape), name, offset)

    # Types are callables, so that those that contain pointers to themselves come out.
    def _member(  # type: ignore[no-untyped-def]
        self,
        number: int,
        bits: int = 0,
        flexible: bool = True,
        shapes: Sequence[Sequence[int]] = (),
    ):
        if bits:
            return lambda: Object(self._prog, self.type(number), bit_field_size=bits)
        if shapes:
            return lambda: self._shaped(number, shapes)
        if flexible:
            return lambda: self.type(number)
        return lambda: self._never_flexible(number)

    def _shaped(self, number: int, shapes: Sequence[Sequence[int]]) -> Type:
        """An array of as many elements as one of the shapes has, in that shape."""
        type_ = self.type(number)
        of_named = type_.kind == TypeKind.ARRAY and type_.type.kind == TypeKind.TYPEDEF
        if of_named and type_.type.name == "cpumask_var_t":
            return type_  # a pointer: what is [1] in other kernels has lost that name
        for shape in shapes:
            if type_.kind == TypeKind.ARRAY and (type_.length or 0) == prod(shape):
                type_ = type_.type
                for length in reversed(shape):
                    type_ = self._prog.array_type(type_, length)
                break
        return type_

    def _never_flexible(self, number: int) -> Type:
        """[0] and a flexible [], which only the last of several members can be, look alike.

        What a kfifo points to is [0] too.
        """
        type_ = self.type(number)
        if type_.kind == TypeKind.ARRAY and type_.length is None:
            return self._prog.array_type(type_.type, 0)
        return type_

    def _enum(
        self, name: str | None, index: int, kind: int, items: int, size: int, signed: bool
    ) -> Type:
        prog, words = self._prog, self._words
        if not items:
            return prog.enum_type(name)
        step = 2 if kind == Kind.ENUM else 3
        enumerators = []
        for at in range(index + 3, index + 3 + step * items, step):
            value = words[at + 1] | (words[at + 2] << 32 if step == 3 else 0)
            if signed and value >> (32 * (step - 1) - 1):
                value -= 1 << 32 * (step - 1)
            enumerators.append(TypeEnumerator(self._string(words[at]), value))
        base = prog.int_type(_ENUM_BASES.get((size, signed), "unsigned int"), size, signed)
        return prog.enum_type(name, base, enumerators)

    def _prototype(self, index: int, items: int, returns: int) -> Type:
        words, parameters, variadic = self._words, [], False
        for at in range(index + 3, index + 3 + 2 * items, 2):
            if words[at + 1]:
                name = self._string(words[at]) if words[at] else None
                parameters.append(TypeParameter(self._member(words[at + 1]), name))
            else:
                variadic = True
        return self._prog.function_type(self.type(returns), parameters, variadic)
