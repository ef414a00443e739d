"""README tells the truth: its session, its scripts, its batch files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SESSION = re.search(r"## A session\n[^#]*?((?:^    [^\n]*\n)+)", README, re.MULTILINE)


def test_its_session_is_what_crashpy_prints(opened):
    assert SESSION
    shown = re.sub(r"^    ", "", SESSION[1], flags=re.MULTILINE)
    commands = re.split(r"^crash> ", shown, flags=re.MULTILINE)[1:]
    assert commands
    for entry in commands:
        line, _, printed = entry.partition("\n")
        command, _, filter_ = line.partition(" | ")
        lines = list(opened("vmcore-abba").run(command))
        if filter_:
            lines = [text for text in lines if filter_.removeprefix("grep ") in text]
        assert lines == printed.splitlines(), line


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_its_scripts_run(script, examples):
    done = subprocess.run(
        [sys.executable, script, examples / "vmcore-abba"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("batch", ["first-look", "blocked"])
def test_its_batch_files_run(batch, examples, tmp_path):
    crashpy = Path(sys.executable).with_name("crashpy")
    done = subprocess.run(
        [crashpy, "--strict", "-i", examples / batch, examples / "vmcore-abba"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=dict(os.environ, HOME=str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    lines = (examples / batch).read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or f"\ncrash> {line}\n" in done.stdout


def test_its_python_is_python(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    exec(compile(code[1], "README.md", "exec"), {})
    assert "workload" in capsys.readouterr().out
