"""crashpy's own arguments, and commands from files and pipes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crashpy import cli
from crashpy.cli import OptionError, parse

EXAMPLES = Path(__file__).parent.parent / "examples"
DUMP = ["--no_crashrc", str(EXAMPLES / "vmlinux.zst"), str(EXAMPLES / "vmcore-null")]


def crashpy(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", "-m", "crashpy", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
    )


def test_options_and_files_in_any_order():
    found = parse(["-s", "vmlinux", "-i", "list", "-c", "ps 1", "vmcore", "--command=sys", "-ix"])
    assert found.files == ["vmlinux", "vmcore"]
    assert found.given == {"-s": [""], "-i": ["list", "x"], "-c": ["ps 1", "sys"]}
    assert parse(["--", "-s"]).files == ["-s"]
    assert "-s" not in parse(["--", "-s"])


def test_letters_together_and_words_cut_short():
    assert parse(["-sx"]).given == {"-s": [""], "-x": [""]}
    assert parse(["--zero"]).given == {"--zero_excluded": [""]}
    assert parse(["--help", "bt"]).last("-h") == "bt"
    assert parse(["-h", "-s"]).last("-h") == ""
    assert parse(["-hbt"]).last("-h") == "bt"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-z"], "invalid option: -z"),
        (["--no_such"], "invalid option: --no_such"),
        (["-i"], "-i needs an argument"),
        (["--offline", "maybe"], "not one of show, hide"),
        (["--strict=1"], "--strict takes no argument"),
        (["--cpus", "4"], "--cpus: the number of CPUs is read from the dump"),
        (["-f"], "-f: a compressed kernel is recognised"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(OptionError, match=message):
        parse(words)


def test_every_option_of_crash_is_known():
    options = """-h --help -s -i -d -S -e -f -k -g -t -L -c -p -o -m --machdep -x --active
        --buildinfo --memory_module --memory_device --log --no_kallsyms --no_modules
        --no_ikconfig --no_data_debug --no_kmem_cache --no_elf_notes --kmem_cache_delay --readnow
        --smp -v --version --cpus --osrelease --build-id --hyper --p2m_mfn --xen_phys_start
        --zero_excluded --no_panic --more --less --CRASHPAGER --no_scroll --no_strip --no_crashrc
        --mod --src --reloc --kaslr --minimal --kvmhost --kvmio --hash --offline --hex --dec
        --max-malloc-bufs"""
    known = {name for names, *_ in cli.OPTIONS for name in names.split()} | set(cli.REFUSED)
    assert not set(options.split()) - known


def test_what_needs_no_dump(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("crashpy ")
    assert cli.main(["--help"]) == 0
    assert "--zero_excluded" in capsys.readouterr().out
    assert cli.main(["-h", "exit"]) == 0
    assert "exit - leave crashpy" in capsys.readouterr().out
    assert cli.main(["--osrelease", str(EXAMPLES / "vmcore-null")]) == 0
    assert capsys.readouterr().out == "6.12.117-sample\n"
    assert cli.main(["--build-id", str(EXAMPLES / "vmcore-null")]) == 0
    assert len(capsys.readouterr().out) == 41


def test_an_error_is_one_sentence(capsys):
    assert cli.main(["/nosuch"]) == 1
    assert capsys.readouterr().err == "crashpy: /nosuch: No such file or directory\n"
    assert cli.main(["-z"]) == 2


def test_commands_from_a_pipe():
    result = crashpy("-s", *DUMP, stdin="set radix 16\nnosuch\n!echo hi\nexit\nset radix\n")
    assert result.stdout == "output radix: 16 (hex)\ncrash: command not found: nosuch\nhi\n"
    assert result.returncode == 0


def test_the_banner_the_prompt_and_the_echo():
    result = crashpy(*DUMP, stdin="set radix\n")
    banner, _, rest = result.stdout.partition("\n\ncrash> ")
    assert banner.startswith("\ncrashpy ")
    assert "NOTE: stdin: not a tty" in banner
    assert banner.endswith("       STATE: TASK_RUNNING (PANIC)")
    assert rest == "set radix\noutput radix: 10 (decimal)\ncrash> "


def test_commands_from_arguments_and_files(tmp_path):
    (tmp_path / "list").write_text("set hash\n")
    result = crashpy("-i", str(tmp_path / "list"), "-c", "set hex", "-c", "set radix", *DUMP)
    assert result.stdout == "hash: on\noutput radix: 16 (hex)\noutput radix: 16 (hex)\n"


def test_the_status_says_whether_a_command_failed():
    assert crashpy("--strict", "-c", "nosuch", *DUMP).returncode == 1
    assert crashpy("--strict", "-c", "set", *DUMP).returncode == 0
    assert crashpy("-c", "nosuch", *DUMP).returncode == 0


def test_each_line_is_answered_before_the_next_is_written():
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "crashpy", "-s", *DUMP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line, answer in (("set radix", "output radix: 10 (decimal)"), ("!echo x", "x")):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == answer + "\n"
        process.stdin.close()
        assert process.stdout.read() == ""


def test_ctrl_c_ends_a_script():
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "crashpy", "-c", "repeat -1 set hash", "-c", "set", *DUMP],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "hash: on\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert set(rest.splitlines()) <= {"hash: on"}
        assert process.returncode == 130


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -P -m crashpy -c 'repeat set hash' {' '.join(DUMP)} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == "hash: on\n"
    assert result.stderr == ""


def test_startup_files(tmp_path):
    (tmp_path / ".crashrc").write_text("set vi\nalias h16 set hex\nset offline hide\n")
    result = subprocess.run(
        [sys.executable, "-P", "-m", "crashpy", *DUMP[1:]],
        input="h16\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ, HOME=str(tmp_path / "none")),
    )
    assert result.stdout.partition("(PANIC)\n\n")[2] == (
        "crash> set vi\nedit: vi\n"
        "crash> alias h16 set hex\nORIGIN   ALIAS    COMMAND\nruntime  h16      set hex \n"
        "crash> set offline hide\n      offline: hide\n"
        "crash> h16\noutput radix: 16 (hex)\ncrash> "
    )
