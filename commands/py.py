"""py, drgn: Python on the open dump."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from crashpy.command import CommandError, command

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session


@command(usage="[CODE]", words=True)
def py(dump: Dump, *, session: Session, words: Sequence[str] = ()) -> Iterator[str]:
    """run Python on the open dump

    CODE is one line of Python; the value of an expression is shown. Without
    CODE it opens drgn's own prompt; Ctrl-D returns from there. At hand are
    `dump` (crashpy.Dump), `prog` (drgn.Program), `session`, and what drgn's
    prompt offers: Object, cast, container_of, the helpers for Linux, and so on.
    Names that CODE binds are still there in the next line. Code that `|` or
    `>` occurs in goes between parentheses.

    EXAMPLES
        crash> py prog["init_task"].comm
        (char [16])"swapper/0"
        crash> py len(dump.tasks)
        112
    """
    names = _names(dump, session)
    if words:
        # As typed: splitting into words has taken quotes away.
        yield from _printed(session.typed.strip().partition(" ")[2].strip(), names)
    else:
        session.console.flush()
        _interact(dump, names)


@command(name="drgn", usage="[CODE]", words=True)
def drgn(dump: Dump, *, session: Session, words: Sequence[str] = ()) -> Iterator[str]:
    """run Python on the open dump

    The same as `py`.

    EXAMPLES
        crash> drgn prog["init_task"].comm
        (char [16])"swapper/0"
    """
    return py(dump, session=session, words=words)


def _names(dump: Dump, session: Session) -> dict[str, Any]:
    """The global names, made when they are first needed, and kept with the session."""
    if not session.python_names:
        from drgn.cli import default_globals

        session.python_names.update(default_globals(dump.prog))
        session.python_names.update(dump=dump, session=session)
    return session.python_names


def _printed(code: str, names: dict[str, Any]) -> Iterator[str]:
    """Run code; what it prints, and the value of an expression, are lines."""
    try:
        tree = ast.parse(code, "<py>")
    except SyntaxError as error:
        raise CommandError(f"{error.msg}: {code}") from None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for statement in tree.body:
            if isinstance(statement, ast.Expr):
                value = eval(compile(ast.Expression(statement.value), "<py>", "eval"), names)
                if value is not None:
                    names["_"] = value
                    printed.write(f"{_shown(value)}\n")
            else:
                exec(compile(ast.Module([statement], []), "<py>", "exec"), names)
    yield from printed.getvalue().splitlines()


def _shown(value: object) -> str:
    """As drgn's prompt shows it: objects and types as C, the rest as Python."""
    from drgn import Object, StackFrame, StackTrace, Type

    return str(value) if isinstance(value, Object | StackFrame | StackTrace | Type) else repr(value)


def _interact(dump: Dump, names: dict[str, Any]) -> None:
    from drgn.cli import run_interactive

    def globals_of(_: dict[str, Any]) -> dict[str, Any]:
        return names

    run_interactive(
        dump.prog,
        banner_func=lambda _: "dump, prog and drgn's names are at hand; Ctrl-D returns.",
        globals_func=globals_of,
        quiet=True,
    )
