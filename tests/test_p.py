"""p: expressions at the prompt."""

import json
import re

import pytest


def shown(session, line):
    """What a line prints, the number in the history left out."""
    return [re.sub(r"\$\d+ = ", "$ = ", text) for text in session.run(line)]


@pytest.fixture(scope="module")
def session(opened):
    return opened("vmcore-null")


def test_variables_have_their_name_in_front(session):
    assert shown(session, "p nr_cpu_ids") == ["nr_cpu_ids = $ = 4"]
    [text] = shown(session, "p -x nr_cpu_ids")
    assert text == "nr_cpu_ids = $ = 0x4"


def test_expressions_do_not(session):
    assert shown(session, "p init_task.pid") == ["$ = 0"]
    [text] = shown(session, "p &init_task.pid")
    assert re.fullmatch(r"\$ = \(pid_t \*\) 0x[0-9a-f]+ <init_task\+\d+>", text)


def test_arrays_and_functions_begin_a_line(session):
    first, second = shown(session, "p schedule")
    assert first == "schedule = $ = "
    assert re.fullmatch(r" \{void \(void\)\} 0x[0-9a-f]+ <schedule>", second)


def test_the_history(session):
    list(session.run("p 5"))
    assert shown(session, "p $ + 1") == ["$ = 6"]


def test_per_cpu_variables(session):
    lines = shown(session, "p runqueues")
    assert lines[:3] == ["PER-CPU DATA TYPE:", "  struct rq runqueues;", "PER-CPU ADDRESSES:"]
    assert len(lines) == 7
    first, second = (line for line in shown(session, "p kstat:0,2") if line.startswith("per_cpu"))
    assert first == "per_cpu(kstat, 0) = $ = {"
    assert second == "per_cpu(kstat, 2) = $ = {"


def test_a_cpuspec_on_another_variable(session):
    first, second = shown(session, "p nr_cpu_ids:a")
    assert first == "WARNING: nr_cpu_ids is not percpu; cpuspec ignored."
    assert second == "nr_cpu_ids = $ = 4"


@pytest.mark.parametrize(
    "expression", ["nosuchsymbol", "init_task.nosuch", "1 +", "*(struct task_struct *)0", "int"]
)
def test_errors(session, expression):
    assert shown(session, f"p {expression}") == [f"p: gdb request failed: p {expression}"]


def test_both_radixes(session):
    assert shown(session, "p -x -d 1") == ["p: -d and -x are mutually exclusive"]


def test_json(session):
    [line] = session.run("p --json init_task.tasks")
    found = json.loads(line)
    assert found["type"] == "struct list_head"
    assert found["address"].startswith("0xffffffff")
    assert set(found["value"]) == {"next", "prev"}


def test_from_python(session):
    from importlib import import_module

    p = import_module("crashpy.commands.p").p
    [result] = p(session.dump, words=["init_task.comm"])
    assert result.value.string_() == b"swapper/0"
    assert result.type == "char [16]"
