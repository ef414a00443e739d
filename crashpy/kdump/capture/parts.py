"""What a capture environment is made of: programs with their libraries, kernel modules,
and a Python that holds no more than it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crashpy.kdump.capture.cpio import Archive
from crashpy.kdump.system import Refused, System
from crashpy.vmcore.files import PackingError, packed_with

# Programs.


def add_program(archive: Archive, name: str, source: str) -> None:
    """A program, and the libraries that it is linked with, under their own names."""
    archive.copy(name, Path(source), 0o755)
    for library in libraries(source):
        archive.copy(library, Path(library), 0o755)


def libraries(path: str) -> list[str]:
    """The shared libraries that a program or library needs, the dynamic loader too."""
    try:
        done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Refused("ldd: there is no such program: install libc-bin") from None
    if missing := re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE):
        raise Refused(f"{path} needs {', '.join(missing)}, which is not installed")
    found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)
    return [os.path.normpath(library) for library in found]


# Kernel modules.


@dataclass
class Modules:
    """The modules of one kernel release, as depmod(8) has listed them."""

    folder: Path  # /lib/modules/RELEASE
    dependencies: dict[str, list[str]] = field(default_factory=dict)  # by path in the folder
    by_name: dict[str, str] = field(default_factory=dict)
    builtin: set[str] = field(default_factory=set)
    before: dict[str, list[str]] = field(default_factory=dict)  # softdep lines
    aliases: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, system: System, release: str) -> Modules:
        for place in (f"/lib/modules/{release}", f"/usr/lib/modules/{release}"):
            folder = system.path(place)
            if (folder / "modules.dep").is_file():
                break
        else:
            where = system.shown(f"/lib/modules/{release}")
            there = system.path(f"/lib/modules/{release}").is_dir()
            why = f"run `depmod {release}`" if there else f"kernel {release} is not installed"
            raise Refused(f"{where}/modules.dep: there is no such file: {why}")
        found = cls(folder)
        for line in (folder / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            found.dependencies[path] = needs.split()
            found.by_name[module_name(path)] = path
        if (builtin := folder / "modules.builtin").is_file():
            found.builtin = {module_name(line) for line in builtin.read_text().split()}
        if (soft := folder / "modules.softdep").is_file():
            for line in soft.read_text().splitlines():
                words = line.split()
                if words[:1] == ["softdep"]:
                    names = [word for word in words[2:] if not word.endswith(":")]
                    found.before.setdefault(words[1].replace("-", "_"), []).extend(names)
        for line in (folder / "modules.alias").read_text().splitlines():
            words = line.split()
            if len(words) == 3 and "*" not in words[1]:
                found.aliases.setdefault(words[1].replace("-", "_"), []).append(words[2])
        return found

    def closure(self, names: Iterable[str]) -> list[str]:
        """Paths of the modules and of all that they need; what there is not is left out."""
        chosen: list[str] = []
        pending = [name.replace("-", "_") for name in names]
        while pending:
            name = pending.pop(0)
            path = self.by_name.get(name)
            if path is None:
                pending += [n for n in self.aliases.get(name, ()) if n in self.by_name]
            elif path not in chosen:
                chosen.append(path)
                pending += [module_name(need) for need in self.dependencies[path]]
                pending += [n.replace("-", "_") for n in self.before.get(module_name(path), ())]
        return chosen

    def has(self, name: str) -> bool:
        return name.replace("-", "_") in self.by_name or name.replace("-", "_") in self.builtin

    def knows(self, name: str) -> bool:
        return self.has(name) or name.replace("-", "_") in self.aliases

    def add(self, archive: Archive, release: str, names: Iterable[str]) -> list[str]:
        """Put modules into an archive, unpacked, with the lists that modprobe reads."""
        chosen = self.closure(names)
        target = f"/lib/modules/{release}"
        for path in chosen:
            archive.file(f"{target}/{plain(path)}", unpacked(self.folder / path))
        lines = (
            f"{plain(path)}: {' '.join(plain(need) for need in self.dependencies[path])}".rstrip()
            for path in chosen
        )
        archive.file(f"{target}/modules.dep", "".join(f"{line}\n" for line in lines))
        kept = {module_name(path) for path in chosen}
        aliases = (self.folder / "modules.alias").read_text().splitlines()
        archive.file(
            f"{target}/modules.alias",
            "".join(f"{line}\n" for line in aliases if line.rpartition(" ")[2] in kept),
        )
        return chosen

    def copy(self, archive: Archive, release: str, names: Iterable[str]) -> None:
        """Put modules into an archive as they are."""
        for path in self.closure(names):
            archive.copy(f"/lib/modules/{release}/{path}", self.folder / path)


def module_name(path: str) -> str:
    """kernel/fs/ext4/crc32c-x.ko.xz is crc32c_x."""
    return Path(path).name.split(".")[0].replace("-", "_")


def plain(path: str) -> str:
    """A module's path without its packing."""
    return re.sub(r"\.ko\.\w+$", ".ko", path)


def unpacked(path: Path) -> bytes:
    """A module's bytes: busybox's modprobe is not asked to unpack in a small machine."""
    data = path.read_bytes()
    packing = packed_with(data)
    if packing is None:
        return data
    try:
        with path.open("rb") as raw:
            return b"".join(packing.unpack(raw))
    except PackingError as error:
        raise Refused(f"{path}: {error}") from None


# Python.

HOME = "/usr/lib"  # PYTHONHOME is /usr

# Imports what it is told to, and what functions of our own modules import late; then says what
# was imported, and puts all of it, compiled and without docstrings, into a folder: the
# interpreter that compiles is the one that will run.
_COLLECTOR = """
import ast, importlib.metadata, importlib.util, json, os, pathlib, py_compile, sys
told = json.loads(sys.stdin.read())
target, pending, without = pathlib.Path(sys.argv[1]), [*told["modules"]], told["without"]
sys.path[:] = told["path"]

def late(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
        yield from late(child)

def unwanted(name):
    return any(name == word or name.startswith(word + ".") for word in without)

found, seen = {}, set()
while pending:
    name = pending.pop()
    if name.endswith(".__main__"):  # it would run
        spec = importlib.util.find_spec(name)
        found[name] = importlib.util.module_from_spec(spec)
    else:
        importlib.import_module(name)
    for name in [n for n in sys.modules if n.startswith("crashpy.") and n not in seen]:
        seen.add(name)
        source = getattr(sys.modules[name], "__file__", None) or ""
        if source.endswith(".py") and (name in told["modules"] or not unwanted(name)):
            tree = ast.parse(pathlib.Path(source).read_bytes())
            pending += [n for n in late(tree) if n.startswith("crashpy.") and not unwanted(n)]
found |= sys.modules
extensions = []
for name, module in sorted(found.items()):
    file = getattr(module, "__file__", None)
    if name == "__main__" or not file or not os.path.exists(file):
        continue
    if name != getattr(getattr(module, "__spec__", None), "name", name):
        continue
    place = target.joinpath(*name.split("."))
    if file.endswith((".py", ".pyc")):
        if hasattr(module, "__path__"):
            place = place / "__init__"
        place.parent.mkdir(parents=True, exist_ok=True)
        cfile = place.with_name(place.name + ".pyc")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        if file.endswith(".pyc"):
            cfile.write_bytes(pathlib.Path(file).read_bytes())
        else:
            py_compile.compile(file, str(cfile), name, doraise=True, optimize=OPTIMIZE,
                               invalidation_mode=mode)
    else:
        extensions.append([str(place.parent.relative_to(target) / os.path.basename(file)), file])
owners = importlib.metadata.packages_distributions()
for package in {name.partition(".")[0] for name in found}:  # some ask for their own version
    for name in owners.get(package, ()):
        version = importlib.metadata.version(name)
        place = target / f"{name.replace('-', '_')}-{version}.dist-info"
        place.mkdir(exist_ok=True)
        place.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
print(json.dumps({
    "program": os.path.realpath(sys.executable),
    "folders": sys.path,
    "extensions": extensions,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """What the collector said."""

    program: str
    folders: list[str]
    extensions: list[tuple[str, str]]


def home() -> str:
    """Where this interpreter's modules are in what it was added to."""
    return f"{HOME}/python{sys.version_info[0]}.{sys.version_info[1]}"


def add_python(
    archive: Archive,
    modules: Sequence[str],
    *,
    without: Sequence[str] = (),
    docstrings: bool = False,
) -> None:
    """This interpreter as /usr/bin/python3, with what the modules import and nothing else.

    What our own import late comes, too, but for the packages and modules in `without`.
    """
    with tempfile.TemporaryDirectory(prefix="crashpy-capture-") as folder:
        found = _collect(Path(folder), modules, without, docstrings)
        place = home()
        for path in Path(folder).rglob("*"):
            if path.is_file():
                archive.file(f"{place}/{path.relative_to(folder)}", path.read_bytes())
        archive.folder(f"{place}/lib-dynload")  # by this folder it is known as a library
        archive.file("/usr/bin/python3", stripped(found.program), 0o755)
        for library in libraries(found.program):
            archive.file(library, stripped(library), 0o755)
        for name, file in found.extensions:
            needed = {lib: _relocated(lib, found.folders, place) for lib in libraries(file)}
            # strip(1) damages what was patched to find the libraries of its own package
            patched = any(library != moved for library, moved in needed.items())
            archive.file(
                f"{place}/{name}", Path(file).read_bytes() if patched else stripped(file), 0o755
            )
            for library, moved in needed.items():
                if moved not in archive.entries:
                    archive.copy(moved, Path(library), 0o755)


def _collect(
    folder: Path, modules: Sequence[str], without: Sequence[str], docstrings: bool
) -> Interpreter:
    script = _COLLECTOR.replace("OPTIMIZE", "1" if docstrings else "2")
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        input=json.dumps({"path": sys.path, "modules": modules, "without": without}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise Refused(f"Python cannot be collected: {words[-1] if words else 'it said nothing'}")
    said = json.loads(done.stdout.splitlines()[-1])
    said["extensions"] = [(place, file) for place, file in said["extensions"]]
    return Interpreter(**said)


def _relocated(library: str, folders: Iterable[str], home: str) -> str:
    """Libraries that a package brings along move with it: they are found relative to it."""
    for folder in folders:
        if folder and Path(library).is_relative_to(folder):
            return f"{home}/{Path(library).relative_to(folder)}"
    return library


def stripped(path: str) -> bytes:
    """A program or library without symbols for debuggers, where strip(1) is installed."""
    try:
        with tempfile.NamedTemporaryFile(prefix="crashpy-strip-") as out:
            done = subprocess.run(
                ["strip", "--strip-unneeded", "-o", out.name, path],
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return Path(out.name).read_bytes()
    except FileNotFoundError:
        pass
    return Path(path).read_bytes()


def present(modules: Iterable[str]) -> Iterator[str]:
    """Those Python packages that are installed."""
    from importlib.util import find_spec

    for name in modules:
        if find_spec(name.partition(".")[0]) is not None:
            yield name
