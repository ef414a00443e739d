"""The variables of `set`, and the files that set them at the start."""

import pytest

from crashpy.command import CommandError
from crashpy.settings import Settings, apply_early, crashpager, number, read_startup_files


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [
        ("radix", "16", 16),
        ("radix", "hexadecimal", 16),
        ("radix", "ten", 10),
        ("print_max", "0x10", 16),
        ("print_max", "ff", 255),
        ("hash", "off", False),
        ("hash", "2", True),
        ("debug", "on", 1),
        ("debug", "7", 7),
        ("null-stop", "on", True),
        ("offline", "hide", "hide"),
        ("output", "json", "json"),
    ],
)
def test_a_value(name, word, value):
    settings = Settings()
    settings.assign(name, word)
    assert getattr(settings, name.replace("-", "_")) == value


@pytest.mark.parametrize(
    ("name", "word"), [("radix", "99"), ("hash", "maybe"), ("offline", "on"), ("print_max", "zz")]
)
def test_a_value_that_cannot_be(name, word):
    with pytest.raises(ValueError, match=word):
        Settings().assign(name, word)


def test_silence_is_without_pager():
    settings = Settings()
    settings.assign("silent", "on")
    assert settings.silent
    assert not settings.scroll


def test_where_there_is_no_pager_none_can_be_chosen():
    settings = Settings(pager="none")
    settings.assign("scroll", "more")
    assert settings.pager == "none"
    settings.pager = "less"
    settings.assign("scroll", "more")
    assert settings.pager == "more"


def test_crashpager(monkeypatch):
    monkeypatch.setenv("CRASHPAGER", "/bin/cat -v")
    assert crashpager() == ["/bin/cat", "-v"]
    monkeypatch.setenv("CRASHPAGER", "/bin/cat | less")
    assert crashpager() == []


def test_numbers_are_decimal_if_they_can_be():
    assert number("10") == 10
    assert number("0x10") == 16
    with pytest.raises(ValueError, match="0y"):
        number("0y")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home, here


def test_startup_files_home_first(folders):
    home, here = folders
    (home / ".crashrc").write_text("set radix 16\n")
    (here / ".crashrc").write_text("alias x ps\n")
    found, refused = read_startup_files()
    assert [lines for _, lines in found] == [["set radix 16\n"], ["alias x ps\n"]]
    assert refused == []


def test_a_file_that_everybody_can_write_is_not_run(folders):
    _, here = folders
    (here / ".crashrc").write_text("!touch harm\n")
    (here / ".crashrc").chmod(0o666)
    assert read_startup_files() == ([], ['not using untrusted file: ".crashrc"'])


def test_the_same_file_is_run_once(folders, monkeypatch):
    home, _ = folders
    (home / ".crashrc").write_text("set hex\n")
    monkeypatch.chdir(home)
    found, _ = read_startup_files()
    assert len(found) == 1


def test_what_matters_before_a_dump_is_open():
    settings = Settings(pager="less")
    lines = ["# set silent on", "set emacs", "set scroll off", "set namelist k", "set radix 16"]
    assert apply_early(settings, lines) == "k"
    assert (settings.edit, settings.scroll, settings.silent) == ("emacs", False, False)
    assert settings.radix == 10  # later, when its answer can be shown
    with pytest.raises(CommandError, match="startup file: set offline maybe"):
        apply_early(settings, ["set offline maybe\n"])
