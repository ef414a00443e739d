"""`crashpy setup tui`: the pages of YaST's kdump module, in a terminal.

Fields go in as strings and sets, and come out as the settings that `configure` takes;
the screen between knows nothing of files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from prompt_toolkit.application import Application, get_app
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import (
    DynamicContainer,
    HSplit,
    Layout,
    ScrollablePane,
    VSplit,
    Window,
)
from prompt_toolkit.layout.containers import AnyContainer
from prompt_toolkit.layout.dimension import D
from prompt_toolkit.output import Output
from prompt_toolkit.widgets import Button, CheckboxList, Frame, Label, RadioList, TextArea

from crashpy.command import CommandError
from crashpy.kdump.config import Config
from crashpy.kdump.urls import PROTOCOLS, Url, parse
from crashpy.kdump.values import FORMATS, LEVEL_BITS, spelled

Fields = dict[str, Any]  # by name: a string, or, for `include`, the bits that are kept

PAGES = (
    "Start-Up",
    "Dump Filtering",
    "Dump Target",
    "Email Notification",
    "Expert Settings",
)
MAIL = ("smtp-server", "smtp-user", "smtp-password", "mail-to", "mail-cc")
EXPERT = ("kernel", "cmdline", "append", "keep")
RADIOS = ("format", "finally", "failure", "fadump")
PLACE = ("protocol", "server", "port", "user", "password", "folder")


def fields(config: Config, *, on: bool | None, crashkernel: Sequence[str]) -> Fields:
    """What the pages show first."""
    found: Fields = {
        "on": {True: "yes", False: "no", None: ""}[on],
        "crashkernel": " ".join(crashkernel),
    }
    for key in (*RADIOS, *MAIL, *EXPERT):
        value = config.get(key)
        if value is not None and value.value is not None:
            found[key] = value.value
    level = config.get("level")
    if level is not None and level.value is not None and level.value.isdecimal():
        found["include"] = {bit for bit in LEVEL_BITS if not int(level.value) & bit}
    try:
        target = config.get("target")
        if target is not None and target.value:
            url = parse(target.value)
            folder = f"/{url.share}{url.path}" if url.share else url.path
            port = str(url.port or "")
            password = url.password or ""
            row = (url.protocol, url.host, port, url.user, password, folder)
            found.update(zip(PLACE, row, strict=True))
    except CommandError:
        pass  # a target that is no URL, such as a partition: it is left as it is
    return found


def settings(before: Fields, after: Fields) -> list[tuple[str, str]]:
    """What changed, as `configure` takes it."""
    found: list[tuple[str, str]] = []
    if after.get("include") != before.get("include"):
        level = sum(bit for bit in LEVEL_BITS if bit not in after["include"])
        found.append(("level", str(level | 2 if level & 4 else level)))  # 4 leaves out both
    if any(after.get(name) != before.get(name) for name in PLACE):
        found.append(("target", _target(after)))
    found += [
        (key, after[key]) for key in (*RADIOS, *MAIL, *EXPERT) if after.get(key) != before.get(key)
    ]
    return found


def _target(after: Fields) -> str:
    if after["protocol"] == "file":
        return str(after["folder"])
    host = after["server"]
    host = f"[{host}]" if ":" in host else host
    place = f"{host}:{after['port']}" if after["port"] else host
    logs_in = after["protocol"] != "nfs"
    login = f"{after['user']}@" if after["user"] and logs_in else ""
    folder = "/" + after["folder"].lstrip("/")
    url = parse(f"{after['protocol']}://{login}{place}{folder}")
    if not (after["password"] and logs_in):
        return str(url)
    return spelled(
        Url(url.protocol, url.path, url.host, url.port, url.user, after["password"], url.share)
    )


class Screen:
    """The pages, and the widgets on them."""

    def __init__(self, config: Config, before: Fields) -> None:
        self.config = config
        self.before = before
        self.page = 0
        self.widgets: dict[str, TextArea | RadioList[str] | CheckboxList[int]] = {}
        self.pages = [
            self._start(),
            self._filtering(),
            self._target(),
            self._mail(),
            self._expert(),
        ]
        buttons = [Button(f"{n} {name}", self._shows(n - 1), 24) for n, name in enumerate(PAGES, 1)]
        save = Button("Save", lambda: get_app().exit(result=True), 12)
        leave = Button("Cancel", lambda: get_app().exit(result=False), 12)
        menu = HSplit([*buttons, Window(height=D(min=0)), save, leave], width=26)
        # In a small terminal a page scrolls to the field that has the focus.
        shown = [ScrollablePane(HSplit([page]), show_scrollbar=False) for page in self.pages]
        page = DynamicContainer(lambda: Frame(shown[self.page], lambda: PAGES[self.page]))
        title = config.dialect.title
        keys = "Tab, arrows: move  Enter: choose  Alt-1 to Alt-5: pages  F10: save  F9: leave"
        self.layout = Layout(
            HSplit(
                [
                    Label(f"crashpy setup: kdump of {title}", style="reverse", wrap_lines=False),
                    VSplit([menu, page]),
                    Label(keys, style="reverse", wrap_lines=False),
                ]
            ),
            focused_element=buttons[0],
        )

    def fields(self) -> Fields:
        """What the widgets say now."""
        after = dict(self.before)
        for name, widget in self.widgets.items():
            if isinstance(widget, TextArea):
                after[name] = widget.text.strip()
            elif isinstance(widget, CheckboxList):
                after[name] = set(widget.current_values)
            else:
                after[name] = widget.current_value
        return after

    def _shows(self, page: int) -> Any:
        def show() -> None:
            self.page = page
            with contextlib.suppress(ValueError):  # a page without fields
                self.layout.focus(self.pages[page])

        return show

    def _step(self, by: int) -> None:
        """To the next field of what is chosen, drawn or not yet: keys may come in a heap."""
        self.layout.update_parents_relations()
        windows = [*self.layout.get_focusable_windows()]
        at = windows.index(self.layout.current_window)
        self.layout.focus(windows[(at + by) % len(windows)])

    def keys(self) -> KeyBindings:
        bound = KeyBindings()
        bound.add("tab")(lambda _: self._step(1))
        bound.add("s-tab")(lambda _: self._step(-1))
        for number in range(len(PAGES)):
            bound.add("escape", str(number + 1))(lambda _, n=number: self._shows(n)())
        bound.add("f10")(lambda event: event.app.exit(result=True))
        bound.add("f9")(lambda event: event.app.exit(result=False))
        bound.add("c-c")(lambda event: event.app.exit(result=False))
        return bound

    # Widgets.

    def _text(self, name: str, label: str, *, secret: bool = False) -> AnyContainer:
        if name not in self.before:
            return Label(f"{label}: {self.config.dialect.title} has no such setting")
        widget = TextArea(
            str(self.before[name]),
            multiline=False,
            password=secret,
            height=1,
            wrap_lines=False,  # a long one scrolls
            width=D(min=6),
            focus_on_click=True,
        )
        self.widgets[name] = widget
        width = D(min=4, preferred=24, max=24)
        return VSplit([Label(label, width=width, wrap_lines=False), widget])

    def _radio(
        self, name: str, label: str, values: Sequence[tuple[str, AnyFormattedText]]
    ) -> AnyContainer:
        known = [value for value, _ in values]
        if self.before.get(name) not in known:
            text = self.before.get(name)
            return Label(f"{label}: {text}" if text else f"{label}: cannot be told")
        widget = RadioList(values, default=self.before[name])
        self.widgets[name] = widget
        return HSplit([Label(f"{label}:"), widget, Label("")])

    def _start(self) -> AnyContainer:
        choices = [("yes", "Enable kdump at boot"), ("no", "Disable kdump at boot")]
        return HSplit(
            [
                self._radio("on", "Start-up", choices),
                self._text("crashkernel", "crashkernel="),
                Label("`crashpy setup size` says how much; it takes effect at the next boot"),
                Label(""),
                *self._fadump(),
                Window(),
            ]
        )

    def _fadump(self) -> Iterator[AnyContainer]:
        if "fadump" in self.before:
            choices = [("no", "no"), ("yes", "yes, on POWER alone")]
            yield self._radio("fadump", "Dumps assisted by the firmware", choices)

    def _filtering(self) -> AnyContainer:
        rows: list[AnyContainer] = [Label("Pages that go into a dump beside the kernel's:")]
        if "include" in self.before:
            names = {1: "zero", 2: "cache", 4: "cache, private", 8: "user data", 16: "free"}
            boxes = CheckboxList([(bit, f"{names[bit]} pages") for bit in LEVEL_BITS])
            boxes.current_values = sorted(self.before["include"])
            self.widgets["include"] = boxes
            rows += [boxes, Label("")]
        able = self.config.dialect.limited.get("format", FORMATS)
        choices = [(name, f"{name}: {FORMATS[name]}") for name in able]
        return HSplit([*rows, self._radio("format", "Format", choices), Window()])

    def _target(self) -> AnyContainer:
        able = [name for name in PROTOCOLS if self._takes(name)]
        return HSplit(
            [
                self._radio("protocol", "Dumps go to", [(name, PLACES[name]) for name in able]),
                self._text("server", "Server"),
                self._text("port", "Port"),
                self._text("user", "User"),
                self._text("password", "Password", secret=True),
                self._text("folder", "Folder (/share/dir)"),
                Window(),
            ]
        )

    def _takes(self, protocol: str) -> bool:
        """Whether the distribution can save there: tried on a copy of its configuration."""
        place = {"file": "/x", "nfs": "host/x"}.get(protocol, "user@host/x")
        try:
            Config.read(self.config.system).assign(
                "target", f"{protocol}://{place}".replace("file://", "")
            )
        except CommandError:
            return False
        return True

    def _mail(self) -> AnyContainer:
        names = ("SMTP server", "User name", "Password", "Notification to", "Notification CC")
        rows = [
            self._text(key, name, secret=key == "smtp-password")
            for key, name in zip(MAIL, names, strict=True)
        ]
        return HSplit([*rows, Window()])

    def _expert(self) -> AnyContainer:
        names = ("Custom kdump kernel", "Command line", "Command line append", "Dumps kept")
        rows = [self._text(key, name) for key, name in zip(EXPERT, names, strict=True)]
        limited = self.config.dialect.limited
        for key, name in (("finally", "After the dump"), ("failure", "When saving fails")):
            values = limited.get(key, ("reboot", "halt", "poweroff", "shell", "dump_to_rootfs"))
            rows += [self._radio(key, name, [(value, value) for value in values])]
        return HSplit([*rows, Window(height=D(weight=1))])


PLACES = {
    "file": "a folder of this machine",
    "ftp": "FTP",
    "sftp": "SFTP",
    "ssh": "SSH",
    "nfs": "NFS",
    "cifs": "CIFS (SMB)",
}


def run(
    config: Config,
    before: Fields,
    shown: Fields | None = None,
    *,
    input: Input | None = None,
    output: Output | None = None,
) -> Fields | None:
    """The fields as they were left; None when nothing shall be saved."""
    screen = Screen(config, shown or before)
    application: Application[bool] = Application(
        layout=screen.layout,
        key_bindings=screen.keys(),
        full_screen=True,
        mouse_support=True,
        input=input,
        output=output,
    )
    return screen.fields() if application.run() else None
