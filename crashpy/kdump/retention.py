"""Which dumps are too many, and `crashpy save prune`, which deletes them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from crashpy.command import CommandError
from crashpy.kdump.inventory import SavedDump, dumps_below, table
from crashpy.kdump.targets import Target
from crashpy.kdump.verbs import complain, megabytes, open_place, own_plan, place_parser, say
from crashpy.save import told

SETTLED_SECONDS = 3600  # what was not touched for so long is not being written any more
UNSURE_SECONDS = 48 * 3600  # likewise, where only a folder's name tells, in an unknown zone


def too_many(
    dumps: Iterable[SavedDump],
    keep: int,
    *,
    spare: Collection[str] = (),
    now_s: float | None = None,
) -> list[SavedDump]:
    """What is to go, the oldest first, when so many dumps of each machine stay.

    A complete dump goes when `keep` newer complete ones are there, so a failed saving
    never costs one; what is not complete goes when `keep` newer dumps of any kind are
    there. `spare` are folders that stay whatever their names tell, as the one just saved.
    """
    if keep < 1:
        raise ValueError("at least one dump stays")
    gone = []
    for group in _groups(dumps):
        complete = 0
        for newer, dump in enumerate(reversed(group)):
            whole = dump.state == "complete"
            surplus = (complete if whole else newer) >= keep
            complete += whole
            if surplus and dump.folder not in spare and _may_go(dump, now_s):
                gone.append(dump)
    return sorted(gone, key=lambda dump: dump.order)


def to_free(
    dumps: Iterable[SavedDump], *, spare: Collection[str] = (), now_s: float | None = None
) -> list[SavedDump]:
    """What may go for want of space, in this order: what is not complete, then the oldest.

    The newest complete dump of each machine stays.
    """
    may: list[SavedDump] = []
    for group in _groups(dumps):
        newest = next((d for d in reversed(group) if d.state == "complete"), None)
        may += [
            dump
            for dump in group
            if dump is not newest and dump.folder not in spare and _may_go(dump, now_s)
        ]
    return sorted(may, key=lambda dump: (dump.state == "complete", dump.order))


def _groups(dumps: Iterable[SavedDump]) -> Iterator[list[SavedDump]]:
    """Dumps of one machine in one folder, the oldest first.

    A folder that no kdump script has named is somebody's own: it neither goes nor counts.
    """
    groups: dict[tuple[str, str], list[SavedDump]] = {}
    for dump in sorted(dumps, key=lambda dump: dump.order):
        if dump.layout and dump.folder:
            groups.setdefault(dump.group, []).append(dump)
    yield from groups.values()


def _may_go(dump: SavedDump, now_s: float | None) -> bool:
    """Not what cannot be seen, nor what is being written."""
    if dump.state == "unreadable":
        return False
    if dump.state == "complete":
        return True
    now_s = now_s or time.time()
    if dump.changed_s is not None:
        return now_s - dump.changed_s > SETTLED_SECONDS
    return dump.saved is not None and now_s - dump.saved.timestamp() > UNSURE_SECONDS


# The verb


def prune_main(words: Sequence[str]) -> int:
    """`crashpy save prune`: deletes what is too many, and asks before it does."""
    parser = place_parser("prune", "delete the oldest dumps of each machine")
    add = parser.add_argument
    add("--keep", type=_at_least_one, metavar="N", help="so many complete dumps stay")
    add("--free", type=_at_least_one, metavar="MIB", help="delete until so much is free")
    add("--dry-run", action="store_true", help="show what would be deleted")
    add("--yes", action="store_true", help="do not ask")
    asked = parser.parse_args(words)
    failed = 0
    with told("save prune") as complaints:
        failed = _prune(asked)
    return 1 if complaints or failed else 0


def _prune(asked: argparse.Namespace) -> int:
    keep, free = asked.keep, asked.free and asked.free << 20
    if not (keep or free) and not asked.place:
        plan = own_plan()
        keep, free = plan.keep, plan.free_bytes
    if not (keep or free):
        raise CommandError("say how many stay, --keep N, or how much shall be free, --free MIB")
    with open_place(asked) as place:
        dumps = dumps_below(place, warn=lambda sentence: complain("prune", sentence))
        going = too_many(dumps, keep) if keep else []
        if free:
            going += _for_space(place, dumps, going, free)
        if not going:
            say([f"{place.url}: {len(dumps)} dumps, none of them too many"])
            return 0
        total = megabytes(sum(dump.size_bytes for dump in going))
        say([*table(going, before="delete "), f"{len(going)} of {len(dumps)} dumps, {total}"])
        if asked.dry_run:
            return 0
        if not asked.yes and not _agreed("Delete them?"):
            raise CommandError("nothing was deleted")
        return delete(place, going, lambda sentence: complain("prune", sentence))


def _for_space(
    place: Target, dumps: Sequence[SavedDump], going: Sequence[SavedDump], wanted: int
) -> list[SavedDump]:
    """What else must go until so many bytes are free."""
    free = place.free()
    if free is None:
        raise CommandError(f"{place.url}: the place does not tell how much is free: use --keep")
    free += sum(dump.size_bytes for dump in going)
    more = []
    for dump in to_free(dumps):
        if free < wanted and dump not in going:
            more.append(dump)
            free += dump.size_bytes
    if free < wanted:
        missing = megabytes(wanted - free)
        raise CommandError(
            f"{place.url}: {missing} are missing even without all dumps that may be deleted:"
            " nothing was deleted"
        )
    return more


def delete(place: Target, dumps: Iterable[SavedDump], complain: Callable[[str], None]) -> int:
    """Delete folders; 1 when one of them could not be, after the others."""
    failed = 0
    for dump in dumps:
        try:
            _refuse_mounts(place, dump.folder)
            place.remove_folder(dump.folder)
        except CommandError as error:
            complain(str(error))
            failed = 1
    return failed


def _refuse_mounts(place: Target, folder: str) -> None:
    """Another file system that is mounted inside is none of our business."""
    for entry in place.entries(folder):
        path = f"{folder}/{entry.name}"
        if entry.kind == "mount":
            raise CommandError(f"{place.url}: {path}: another disk is mounted there: not deleted")
        if entry.folder:
            _refuse_mounts(place, path)


def _at_least_one(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f'"{word}" is no number from 1 on')
    return int(word)


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("there is nobody to ask: give --yes, or --dry-run")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
