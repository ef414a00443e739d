"""What crash leaves to the gdb inside it: how types and values look, and C expressions.

``types`` lays out declarations (gdb's ptype), ``values`` contents (gdb's print),
``expressions`` evaluates; ``target`` is what all three know of one dump: its symbols,
its types, the history of values. ``Dump.gdb`` is its target.
"""
