"""The prompt: what Tab offers, what keys do, what reaches the screen."""

import stat
import subprocess
import sys

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from crashpy.repl.completion import CommandCompleter
from crashpy.repl.highlight import colourer
from crashpy.repl.pager import Screen, pager
from crashpy.repl.prompt import Prompt, history
from crashpy.settings import Settings


@pytest.fixture
def offered(opened):
    completer = CommandCompleter(opened("vmcore-null"))

    def texts(line):
        word = line.rpartition(" ")[2]
        return [text for text, _ in completer.candidates(line, word)]

    return texts


def test_commands_and_aliases_complete(offered):
    assert "files" in offered("fi")
    assert "dmesg" in offered("dm")


def test_options_complete_with_what_the_command_declares(offered):
    assert {"-d", "-c", "--json"} <= set(offered("files -"))


def test_symbols_complete(offered):
    assert "jiffies_64" in offered("p jiffies_")
    assert "&init_task" in offered("p &init_tas")


def test_types_and_their_members_complete(offered):
    assert "task_struct" in offered("struct task_st")
    assert "task_struct.pid" in offered("struct task_struct.pi")
    assert "task_struct.pid,comm" in offered("struct task_struct.pid,com")
    assert "task_struct.mm.pgd" in offered("struct task_struct.mm.pg")
    assert "*task_struct" in offered("*task_st")


def test_pids_and_command_names_complete(offered):
    assert "156" in offered("set 15")
    assert "kthreadd" in offered("ps kthr")
    assert {"bt", "UN"} <= set(offered("foreach "))


def test_files_complete_behind_a_redirection(offered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stacks.txt").touch()
    assert offered("bt > st") == ["stacks.txt"]
    assert offered("< st") == ["stacks.txt"]


def test_nonsense_completes_to_nothing(offered):
    assert offered("struct nosuch.") == []
    assert offered("nosuchcommand -") == ["--json"] or offered("nosuchcommand -") == []


@pytest.fixture
def typed(opened):
    session = opened("vmcore-null")

    def reads(keys, edit="emacs"):
        before, session.settings.edit = session.settings.edit, edit
        try:
            with create_pipe_input() as pipe:
                pipe.send_text(keys)
                past = InMemoryHistory(["log -t", "ps -u"])
                return Prompt(session, input=pipe, output=DummyOutput(), past=past).read()
        finally:
            session.settings.edit = before

    return reads


def test_a_line_is_read(typed):
    assert typed("bt -a\n") == "bt -a"


def test_the_history_is_at_hand(typed):
    assert typed("\x1b[A\x1b[A\n") == "log -t"  # up, up


def test_vi_keys(typed):
    assert typed("bt -x\x1b0dwips \n", edit="vi") == "ps -x"


def test_ctrl_c_gives_up_the_line(typed):
    with pytest.raises(KeyboardInterrupt):
        typed("bt\x03")


def test_ctrl_d_leaves(typed):
    with pytest.raises(EOFError):
        typed("\x04")


def test_the_history_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "state" / "history"
    history(path).append_string("set 1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "set 1" in path.read_text()


def test_a_history_that_cannot_be_written_stays_in_memory(tmp_path):
    (tmp_path / "file").touch()
    assert isinstance(history(tmp_path / "file" / "history"), InMemoryHistory)


def test_colours_change_nothing_but_colour():
    import re

    line = 'PID: 156      TASK: ffffa0bb81145000  CPU: 2    COMMAND: "sh"'
    shown = colourer()(line)
    assert shown != line
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == line


def test_a_screenful_starts_no_pager(capsys, monkeypatch):
    monkeypatch.setenv("LINES", "24")
    screen = Screen(["false"])
    for number in range(5):
        screen.write(f"{number}\n")
    screen.close()
    assert capsys.readouterr().out == "0\n1\n2\n3\n4\n"


def test_more_than_a_screenful_goes_through_the_pager_from_its_first_line():
    script = (
        "from crashpy.repl.pager import Screen\n"
        "s = Screen(['sed', 's/^/paged /'])\n"
        "for n in range(100): s.write(f'{n}\\n')\n"
        "s.close()\n"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines() == [f"paged {n}" for n in range(100)]


def test_leaving_the_pager_ends_the_output():
    screen = Screen(["head", "-n", "1"])
    with pytest.raises(BrokenPipeError):  # noqa: PT012
        for number in range(10**6):
            screen.write(f"{number}\n")
    with pytest.raises(BrokenPipeError):
        screen._out.flush()
    screen.close()


def test_scroll_off_means_no_pager():
    assert pager(Settings(scroll=False, pager="less")) is None
