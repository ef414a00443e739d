"""What holds of every command."""

import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest

from crashpy.command import Command

ROOT = Path(__file__).parent.parent


def every_command() -> dict[str, Command]:
    package = importlib.import_module("crashpy.commands")
    return {
        value.name: value
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        for value in vars(importlib.import_module(found.name)).values()
        if isinstance(value, Command) and " " not in value.name
    }


each = pytest.mark.parametrize("command", every_command().values(), ids=lambda c: c.name)


@each
def test_its_options_are_all_read(command):
    assert not command.unread()


@each
def test_it_says_what_it_does(command):
    assert command.summary


@each
def test_its_help_has_examples(command):
    assert "EXAMPLE" in command.description


@each
def test_the_readme_names_it(command):
    assert f"`{command.name}`" in (ROOT / "README.md").read_text()


def test_every_folder_is_packaged():
    folders = {file.parent.relative_to(ROOT) for file in ROOT.glob("commands/**/*.py")}
    wanted = {".".join(("crashpy", *folder.parts)) for folder in folders}
    wanted |= {
        ".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob("crashpy/**/*.py")
    }
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert wanted == set(settings["packages"])


def test_no_command_stands_on_drgns_private_crash_mode():
    files = [*ROOT.glob("commands/**/*.py"), *ROOT.glob("crashpy/**/*.py")]
    assert files
    assert not [f for f in files if "drgn.commands._crash" in f.read_text()]
