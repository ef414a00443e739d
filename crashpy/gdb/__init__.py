"""What crash leaves to the gdb inside it: how types and values look, and C expressions.

``Dump.gdb`` is the target: what gdb knows of one dump, its symbols, its types by name, the
values of earlier expressions. On it stand

types        declarations: ``ptype``, ``declaration``, ``name_of``; ``members`` by name,
             ``with_offsets`` for crash's ``[offset]`` in front of each
values       contents: ``show`` for the bytes of a type, ``show_object`` for a drgn object,
             ``plain_value`` for JSON. Layouts are compiled once for each type and Style
expressions  ``evaluate`` for C, ``lookup`` for a name
memory       ``Memory.read``: the bytes, or UnreadableError with what crash says about it
extract      one member out of a structure's text, laid out as crash does
pointers     what `struct -p` shows of a pointer
percpu       ``:cpuspec``

A list of structures (`list -s`, `tree -s`, `task -R`) is a Compound and its Contents, both
in commands/struct.py: ``compound(dump.gdb, name)`` once, then for each address
``contents(dump, of, address, paths)`` and ``contents_lines(...)``.
"""
