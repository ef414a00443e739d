"""Task states and scheduling, as crash names them."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Program

# include/linux/sched.h
PF_EXITING = 0x4
PF_KTHREAD = 0x200000

# include/uapi/linux/sched.h; crash knows no other (its sched_policy_info[])
POLICIES = {"NORMAL": 0, "FIFO": 1, "RR": 2, "BATCH": 3, "ISO": 4, "IDLE": 5, "DEADLINE": 6}


@dataclass(frozen=True)
class TaskStates:
    """The bits of task_struct.__state and exit_state; None where the kernel has none."""

    running: int
    interruptible: int
    uninterruptible: int
    stopped: int
    zombie: int
    tracing: int | None = None
    dead: int | None = None
    wakekill: int | None = None
    waking: int | None = None
    parked: int | None = None
    noload: int | None = None
    new: int | None = None
    swapping: int | None = None
    exclusive: int | None = None

    def short(self, state: int) -> str:
        """crash's two letters: RU, IN, UN, ID, ZO, ... (its task_state_string())."""
        exclusive = bool(self.exclusive and state & self.exclusive)
        state &= ~(self.exclusive or 0)
        name, sleeps = "??", False
        if state == self.running:
            name = "RU"
        if state & self.interruptible:
            name, sleeps = "IN", True
        if state & self.uninterruptible:
            name, sleeps = ("ID" if self.noload and state & self.noload else "UN"), True
        if state & self.zombie:
            name, sleeps = "ZO", True
        if state & self.stopped:
            name, sleeps = "ST", True
        if self.tracing and state & self.tracing:
            name, sleeps = "TR", True
        if state == self.swapping:
            name, sleeps = "SW", True
        if self.dead and state & self.dead and not sleeps:
            name = "DE"
        if state == self.parked:
            name = "PA"
        if state == self.waking:
            name = "WA"
        if state == self.new:
            name = "NE"
        return name + "EX" if exclusive and name != "??" else name

    def verbose(self, state: int) -> str:
        """``TASK_UNINTERRUPTIBLE|TASK_NOLOAD`` (its task_state_string_verbose())."""
        if state == self.running:
            return "TASK_RUNNING"
        if state == self.parked:
            return "TASK_PARKED"
        names = []
        for bits, name in (
            (self.interruptible, "TASK_INTERRUPTIBLE"),
            (self.uninterruptible, "TASK_UNINTERRUPTIBLE"),
            (self.stopped, "TASK_STOPPED"),
            (self.tracing, "TASK_TRACED"),
            (self.dead, "EXIT_DEAD"),
            (self.zombie, "EXIT_ZOMBIE"),
            (self.waking, "TASK_WAKING"),
            (self.wakekill, "TASK_WAKEKILL"),
            (self.noload, "TASK_NOLOAD"),
            (self.new, "TASK_NEW"),
        ):
            if bits and state & bits:
                both = name == "EXIT_DEAD" and (state & bits).bit_count() > 1
                names.append("EXIT_DEAD|TASK_DEAD" if both else name)
        return "|".join(names)

    def named(self, word: str) -> int | None:
        """The bits that `foreach RU|IN|...` asks for; None where the kernel has none."""
        if word == "ID":
            return None if self.noload is None else self.uninterruptible | self.noload
        return {
            "RU": self.running,
            "IN": self.interruptible,
            "UN": self.uninterruptible,
            "ST": self.stopped,
            "TR": self.tracing,
            "ZO": self.zombie,
            "DE": self.dead,
            "SW": self.swapping,
            "PA": self.parked,
            "WA": self.waking,
            "NE": self.new,
        }[word]


STATE_NAMES = ("RU", "IN", "UN", "ST", "TR", "ZO", "DE", "PA", "WA", "ID", "NE", "SW")

# Before task_state_array (2.4); what crash falls back on.
OLD_STATES = TaskStates(0, 1, 2, stopped=8, zombie=4, swapping=16, exclusive=32)


def task_states(prog: Program) -> TaskStates:
    """The states of this kernel, from its task_state_array[] (crash's initialize_task_state())."""
    try:
        if (known := _from_stat_nam(prog)) is not None:
            return known
        names = [entry.string_().decode(errors="replace") for entry in prog["task_state_array"]]
    except (LookupError, FaultError, TypeError):
        return OLD_STATES
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        bit = 1 << (index - 1) if index else 0
        for text, key in (
            ("(running)", "running"),
            ("(sleeping)", "interruptible"),
            ("(disk sleep)", "uninterruptible"),
            ("(stopped)", "stopped"),
            ("(zombie)", "zombie"),
            ("(dead)", "dead"),
            ("(tracing stop)", "tracing"),
            ("(wakekill)", "wakekill"),
            ("(waking)", "waking"),
            ("(parked)", "parked"),
        ):
            if text in name:
                found[key] = found.get(key, 0) | bit
    # States that the array does not name: since Linux 4.14 they follow TASK_PARKED.
    if parked := found.get("parked"):
        found["dead"] = found.get("dead", 0) | parked << 1
        found |= {"wakekill": parked << 2, "waking": parked << 3}
        found |= {"noload": parked << 4, "new": parked << 5}
    elif (dead := found.get("dead", 0)).bit_count() == 1:
        found |= {"dead": dead | dead << 1, "wakekill": dead << 2, "waking": dead << 3}
    try:
        return TaskStates(**found)
    except TypeError:
        return OLD_STATES


def _from_stat_nam(prog: Program) -> TaskStates | None:
    # Linux 2.6.33 to 4.13 has each state's letter in stat_nam[].
    try:
        letters = prog["stat_nam"].string_().decode(errors="replace")
    except LookupError:
        return None
    if len(letters) <= len("RSDTtZX"):
        return None
    keys = {
        "R": "running",
        "S": "interruptible",
        "D": "uninterruptible",
        "T": "stopped",
        "t": "tracing",
        "X": "dead",
        "x": "dead",
        "Z": "zombie",
        "K": "wakekill",
        "W": "waking",
        "P": "parked",
        "N": "noload",
        "n": "new",
    }
    found: dict[str, int] = {}
    for index, letter in enumerate(letters):
        if key := keys.get(letter):
            found[key] = found.get(key, 0) | (1 << (index - 1) if index else 0)
    try:
        return TaskStates(**found)
    except TypeError:
        return None
