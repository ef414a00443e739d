"""What VMCOREINFO alone says of a kernel's types: enough to read its log.

The note lists sizes and offsets of the few structures that makedumpfile needs; those
of the printk ring buffer (Linux 5.10) are all among them, and of the record buffer
before it. Without vmlinux and without BTF the `log` command works on these.
"""

from __future__ import annotations

from collections.abc import Mapping

from drgn import FindObjectFlags, Object, Program, Type, TypeKind, TypeMember

from crashpy.opening.errors import OpeningError

# Structure -> its members and their C types; offsets and sizes come from the note.
STRUCTURES = {
    "printk_ringbuffer": {
        "desc_ring": "struct prb_desc_ring",
        "text_data_ring": "struct prb_data_ring",
    },
    "prb_desc_ring": {
        "count_bits": "unsigned int",
        "descs": "struct prb_desc *",
        "infos": "struct printk_info *",
        "head_id": "atomic_long_t",
        "tail_id": "atomic_long_t",
    },
    "prb_data_ring": {"size_bits": "unsigned int", "data": "char *"},
    "prb_desc": {"state_var": "atomic_long_t", "text_blk_lpos": "struct prb_data_blk_lpos"},
    "prb_data_blk_lpos": {"begin": "unsigned long", "next": "unsigned long"},
    "printk_info": {
        "seq": "unsigned long long",
        "ts_nsec": "unsigned long long",
        "text_len": "unsigned short",
        "caller_id": "unsigned int",
    },
    "printk_log": {
        "ts_nsec": "unsigned long long",
        "len": "unsigned short",
        "text_len": "unsigned short",
        "dict_len": "unsigned short",
    },
}
OBJECTS = {
    "prb": "struct printk_ringbuffer *",
    "log_buf": "char *",
    "log_buf_len": "unsigned int",
    "log_first_idx": "unsigned int",
    "log_next_idx": "unsigned int",
    "clear_idx": "unsigned int",
}


def describe_log(prog: Program, vmcoreinfo: Mapping[str, str]) -> None:
    """Give a program without any type the types of the kernel's log.

    Raises OpeningError where VMCOREINFO does not tell where the log is.
    """
    if not ({"SYMBOL(prb)", "SYMBOL(log_buf)"} & vmcoreinfo.keys()):
        raise OpeningError(
            "the dump's VMCOREINFO does not say where the kernel keeps its log:"
            " its vmlinux with debug information is needed"
        )
    types: dict[str, Type | None] = {}

    def find_type(
        prog: Program,
        kinds: frozenset[TypeKind],
        name: str,
        filename: str | None,  # noqa: ARG001  drgn's signature
    ) -> Type | None:
        if name == "atomic_long_t" and TypeKind.TYPEDEF in kinds:
            counter = TypeMember(prog.type("long"), "counter", 0)
            return prog.typedef_type(name, prog.struct_type(None, 8, [counter]))
        if TypeKind.STRUCT not in kinds or name not in STRUCTURES:
            return None
        if name not in types:
            types[name] = _structure(prog, name, vmcoreinfo)
        return types[name]

    def find_object(
        prog: Program,
        name: str,
        flags: FindObjectFlags,
        filename: str | None,  # noqa: ARG001
    ) -> Object | None:
        address = vmcoreinfo.get(f"SYMBOL({name})")
        if name not in OBJECTS or address is None or not flags & FindObjectFlags.VARIABLE:
            return None
        return Object(prog, OBJECTS[name], address=int(address, 16))

    prog.register_type_finder("vmcoreinfo", find_type, enable_index=0)
    prog.register_object_finder("vmcoreinfo", find_object, enable_index=1)


def _structure(prog: Program, name: str, vmcoreinfo: Mapping[str, str]) -> Type | None:
    size = vmcoreinfo.get(f"SIZE({name})")
    members = []
    end = 0
    for member, declaration in STRUCTURES[name].items():
        offset = vmcoreinfo.get(f"OFFSET({name}.{member})")
        if offset is None:
            continue
        type_ = prog.type(declaration)
        members.append(TypeMember(type_, member, 8 * int(offset)))
        end = max(end, int(offset) + 8)
    if not members:
        return None
    return prog.struct_type(name, int(size) if size else end, members)
