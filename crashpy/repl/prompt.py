"""The line editor: history, completion, highlighting, the toolbar, vi and emacs keys."""

from __future__ import annotations

import os
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import completion_is_selected
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.output import Output
from prompt_toolkit.styles import style_from_pygments_cls

from crashpy.repl.completion import CommandCompleter
from crashpy.repl.highlight import Colours, InputLexer
from crashpy.session import Session

HISTORY_LINES = 10_000


def history_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "crashpy" / "history"


def history(path: Path) -> History:
    """The command lines of earlier sessions, readable by their owner alone.

    In memory only where the file cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class Prompt:
    """Reads one command line after the other.

    read() returns the line; it raises EOFError on Ctrl-D and KeyboardInterrupt on Ctrl-C.
    """

    def __init__(
        self,
        session: Session,
        *,
        input: Input | None = None,
        output: Output | None = None,
        past: History | None = None,
    ) -> None:
        self._session = session
        self._lines: PromptSession[str] = PromptSession(
            history=past if past is not None else history(history_path()),
            completer=CommandCompleter(session),
            complete_in_thread=True,
            complete_while_typing=False,
            auto_suggest=AutoSuggestFromHistory(),
            lexer=PygmentsLexer(InputLexer),
            style=style_from_pygments_cls(Colours),
            include_default_pygments_style=False,
            bottom_toolbar=self._toolbar,
            key_bindings=_keys(),
            enable_open_in_editor=True,
            reserve_space_for_menu=6,
            input=input,
            output=output,
        )

    def read(self) -> str:
        vi = self._session.settings.edit == "vi"
        self._lines.editing_mode = EditingMode.VI if vi else EditingMode.EMACS
        return self._lines.prompt(self._session.prompt)

    def _toolbar(self) -> AnyFormattedText:
        session = self._session
        task = session.dump.context
        where = f"PID {task.pid} {task.comm} CPU {task.cpu}"
        parts = [Path(session.dump.vmcore).name, where, f"radix {session.settings.radix}"]
        if session.settings.edit == "vi":
            mode = self._lines.app.vi_state.input_mode.value
            parts.append(mode.removeprefix("vi-"))
        return " " + "  |  ".join(parts)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=completion_is_selected)
    def _(event: KeyPressEvent) -> None:
        """Enter takes the completion that is selected; it does not run the line yet."""
        event.current_buffer.complete_state = None

    return keys
