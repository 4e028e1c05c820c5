"""What all panels share: status, work in a thread, controls and tables, the text of a cell."""

import asyncio
import atexit
import base64
import contextlib
import functools
import html
import logging
import re
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import ipywidgets as widgets
import pandas as pd
import traitlets
from torch import Tensor

from wskit._sources import open_source
from wskit._texts import cell_text
from wskit.errors import WskitError
from wskit.widgets._access import Access
from wskit.widgets._picture import Picture

_log = logging.getLogger("wskit")

P = ParamSpec("P")
R = TypeVar("R")

_REPORT_EVERY = 0.1  # seconds between two progress messages to the browser
_LINE = 100  # letters of a line of code
# JupyterLab has what comes while the kernel is busy handled in a second thread (a subshell),
# and pictures share matplotlib's settings: only one thread at a time shows something.
_ALONE = threading.RLock()
ROW = {"flex_flow": "row wrap", "align_items": "center"}
_STYLE = """<style>
.wskit-table { overflow-x: auto; margin-left: 1em; line-height: 1.5; }
.wskit-table caption { text-align: left; overflow-wrap: anywhere; font-weight: bold; }
.wskit-table th, .wskit-table td {
  text-align: left; font-weight: normal; padding-right: 1.2em; white-space: nowrap; }
</style>"""


def alone(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method wait while another thread is in one of these, of any panel.

    For methods that controls and traits call. Not for what a panel does when it is garbage
    collected: that may happen in any thread.
    """

    @functools.wraps(method)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ALONE:
            return method(*args, **kwargs)

    return waiting


def open_weights(source: Any) -> Mapping[str, Tensor]:
    """Return a mapping itself, and open what else `open_source` takes."""
    return source if isinstance(source, Mapping) else open_source(source)


class Task:
    """One piece of work: what it asks and reports while it runs, and how it ended."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.cancelled = threading.Event()
        self.ended = threading.Event()  # to wait for: Ctrl-C can spoil the joining of a thread
        self.finish: Callable[[], None] | None = None  # set once the work is done
        self.thread: threading.Thread | None = None  # that works, and keeps the task while it does
        self._tell, self._last = tell, 0.0

    def report(self, done: int, total: int | None) -> None:
        """Report progress; raise if the task was cancelled."""
        if self.cancelled.is_set():
            raise WskitError("cancelled")
        now = time.monotonic()
        if total and now - self._last > _REPORT_EVERY:
            self._last = now
            self._tell(min(done / total, 1.0))


_tasks: "weakref.WeakSet[Task]" = weakref.WeakSet()


@atexit.register
def _end_work() -> None:
    """Cancel what still runs when a script ends: a thread inside torch would abort the process."""
    tasks = list(_tasks)
    for task in tasks:
        task.cancelled.set()
    for task in tasks:
        if task.thread is not None:
            task.thread.join(60)


class Panel(widgets.VBox):
    """A box of controls with a status, and long work in a thread that can be cancelled.

    The thread that began the work also shows its result: in the kernel's event loop where there
    is one, else when `wait` is called. No two threads draw at once.

    Attributes
    ----------
    status : {"idle", "running", "done", "cancelled", "failed"}
        Of the latest work.
    message : str
        One sentence for the reader: what is shown, or what went wrong and what to do.
    progress : float
        Of the running work, in [0, 1].
    """

    status = traitlets.Enum(["idle", "running", "done", "cancelled", "failed"], "idle")
    message = traitlets.Unicode()
    progress = traitlets.Float(0.0)

    numbers: pd.DataFrame | None = None  # the table that belongs to the pictures

    _task: Task | None = None
    _thread: threading.Thread | None = None
    _moving = False  # the panel itself moves controls

    def __init__(self) -> None:
        """Make what all panels have. Call it last: nothing closes a panel that was refused."""
        super().__init__()
        self._pictures: list[Picture] = []
        self._message_view = widgets.HTML(layout={"flex": "0 1 auto"})
        self._message_view.add_class("wskit-message")
        bar = widgets.FloatProgress(max=1.0, layout={"width": "10em"})
        cancel = button("Cancel", "times", self.cancel)
        # Hidden, it keeps its place: nothing below jumps when work begins.
        self._busy_view = widgets.HBox(
            [bar, cancel], layout={"visibility": "hidden", "flex": "none"}
        )
        access = Access(title=type(self).__name__)
        access.on_msg(lambda _, pressed, buffers: self._enter_and_click(**pressed))
        style = widgets.HTML(_STYLE, layout={"display": "none"})
        self._state_view = widgets.HBox(
            [self._message_view, self._busy_view, style, access],
            layout=ROW | {"flex": "none"},
        )
        traitlets.dlink((self, "progress"), (bar, "value"))
        self.observe(self._show_state, ["status", "message"])
        self.add_class("wskit-panel")

    def cancel(self) -> None:
        """Stop the running work and drop what it has computed so far."""
        if self._task is not None:
            self._task.cancelled.set()
            self._task = None
            self.message, self.status = "Cancelled.", "cancelled"

    def wait(self, timeout: float = 60.0) -> None:
        """Return when the running work is done and shown.

        Parameters
        ----------
        timeout : float, default 60.0
            Seconds for each piece of work; after that raise a `TimeoutError`, and go on working.
        """
        while (task := self._task) is not None:
            if not task.ended.wait(timeout):
                raise TimeoutError(f"still {self.status} after {timeout:g} s; wait on, or cancel()")
            self._settle(task)

    def close(self) -> None:
        """Cancel what runs, and remove the panel from the page."""
        self.cancel()
        if self.comm is None:  # it was closed, or never made
            return
        for part in _parts(self):  # ipywidgets would keep all that is in a box
            part.close()
        super().close()

    def describe(self) -> str:
        """Return what the panel shows in words."""
        words = [picture.words for picture in self._pictures if picture.png]
        words += [] if self.numbers is None else [self.numbers.to_string()]
        return "\n".join(words) or self.message

    def static_image(self) -> bytes:
        """Return the first picture, for a page without a kernel, as PNG; empty if there is none."""
        return self._pictures[0].png if self._pictures else b""

    def code(self) -> str:
        """Return a cell of plain calls that gives what the panel shows."""
        raise NotImplementedError

    def _run(
        self, work: Callable[[Task], Any], show: Callable[[Any], None], *, thread: str = ""
    ) -> None:
        """Do `work`, then `show` what it returned; newer work replaces what still runs.

        A message in `thread` is shown while a thread does the work.
        """
        if self._task is not None:
            self._task.cancelled.set()
        loop = _running_loop() if thread else None

        def post(function: Callable[..., None], *args: Any) -> None:
            if loop is None:
                function(*args)
            else:
                # A loop that has ended shows nothing any more; `wait` still does.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(function, *args)

        def tell(fraction: float) -> None:
            post(self._show_progress, task, fraction)

        def body() -> None:
            try:
                result = work(task)
            except Exception as error:
                failure = error  # `error` is gone when the lambda runs
                task.finish = lambda: self._fail(failure)
            except BaseException as error:
                if not thread:  # Ctrl-C: it is for the caller
                    self.cancel()
                    raise
                failure = WskitError(f"The work was ended by {error!r}.")
                task.finish = lambda: self._fail(failure)
            else:
                task.finish = lambda: show(result)
            task.ended.set()
            if loop is not None or not thread:
                post(self._settle, task)

        self._task = task = Task(tell)
        if thread:
            self.progress, self.message, self.status = 0.0, thread, "running"
            self._thread = threading.Thread(target=body, name="wskit-panel", daemon=True)
            task.thread = self._thread
            _tasks.add(task)
            self._thread.start()
        else:
            body()

    def _say(self) -> None:
        """Say what is shown, once nothing runs."""

    def _try(self, action: Callable[[], None]) -> None:
        """Do it here and now; show an error in the panel, and end nothing that runs."""
        try:
            action()
        except Exception as error:
            self._fail(error)
        else:
            if self._task is None:
                self._say()

    @alone
    def _settle(self, task: Task) -> None:
        """Show how a task ended, unless it was cancelled, replaced or shown before."""
        if task is not self._task or task.finish is None:
            return
        self._task, self.message, self.status = None, "", "done"
        try:
            task.finish()
        except Exception as error:
            self._fail(error)
        except BaseException:  # Ctrl-C: half of it is shown
            self.message, self.status = "Cancelled.", "cancelled"
            raise

    def _fail(self, error: Exception) -> None:
        """Show an expected error as its sentence, and a surprise as one too."""
        if isinstance(error, WskitError):
            self.message = str(error)
        else:
            _log.error("A panel's work failed.", exc_info=error)
            self.message = f"This should not have happened: {error!r}. Please report it."
        self.status = "failed"

    def _show_progress(self, task: Task, fraction: float) -> None:
        if self._task is task:
            self.progress = fraction

    def _control(
        self, trait: str, label: str, options: Any = None, *, width: str = "max-content"
    ) -> Any:
        """Return a labelled control that moves with a trait, of the kind that the trait has."""
        kind = self.traits()[trait]
        if options is not None:
            control = widgets.Dropdown(options=options)
        elif isinstance(kind, traitlets.Bool):
            control = widgets.Checkbox(indent=False)
        elif isinstance(kind, traitlets.Int):
            control = widgets.BoundedIntText(min=kind.min, max=kind.max)
        elif isinstance(kind, traitlets.Float):
            control = widgets.BoundedFloatText(min=kind.min, max=kind.max, step=0.01)
        else:  # not at each letter: the last ones would come after a click on a button
            control = widgets.Text(continuous_update=False)
        control.description = label
        return self._link(trait, labelled(control, width))

    def _link(self, trait: str, control: Any) -> Any:
        traitlets.link((self, trait), (control, "value"))
        return control

    def _heed(self, source: Any, names: str | list[str], action: Callable[[Any], object]) -> None:
        """Call `action` with a new value, unless the panel itself set it; see `alone`."""

        @alone
        def heeding(change: Any) -> None:
            if not self._moving:
                action(change["new"])

        source.observe(heeding, names)

    def _check_offered(self, proposal: Any, offered: Collection[Any], error: type[Any]) -> Any:
        """Return a trait's new value, which must be one of those offered."""
        if proposal.value not in offered:
            raise error(
                f"{proposal.trait.name} must be one of {list(offered)[:10]}, "
                f"got {proposal.value!r}."
            )
        return proposal.value

    @contextlib.contextmanager
    def _moved_by_panel(self) -> Iterator[None]:
        """Let no control that moves meanwhile change what is shown."""
        self._moving = True
        try:
            yield
        finally:
            self._moving = False

    @alone
    def _enter_and_click(self, texts: list[tuple[str, str]], button: str) -> None:
        """Put texts into the fields of these labels, then press a button: see `Access`."""
        parts = {getattr(part, "description", ""): part for part in _parts(self)}
        for name, text in texts:
            kind = type(parts[name].value)
            with contextlib.suppress(ValueError):  # where it is no number, the field shows nothing
                parts[name].value = text if kind is str else kind(float(text))
        parts[button].click()

    def _show_state(self, _: Any = None) -> None:
        running = self.status == "running"
        self._busy_view.layout.visibility = "visible" if running else "hidden"
        failed, mark = (" data-failed", "&#9888; ") if self.status == "failed" else ("", "")
        text = f"{mark}{html.escape(self.message)}"
        self._message_view.value = f'<div{failed} style="line-height:1.4">{text}</div>'

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Add what a page without a kernel can show: a picture and its description."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        bundle["text/plain"] = self.describe()
        if image := self.static_image():
            bundle["image/png"] = base64.b64encode(image).decode()
        return bundle


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Return widgets side by side, on several lines where the page is narrow."""
    return widgets.HBox(list(parts), layout=ROW)


def button(description: str, icon: str, action: Callable[[], Any]) -> widgets.Button:
    """Return a button that calls `action`."""
    made = widgets.Button(description=description, icon=icon, layout={"width": "max-content"})
    made.on_click(lambda _: alone(action)())
    return made


def labelled(control: widgets.Widget, width: str = "max-content") -> widgets.Widget:
    """Give a control's label the room that it needs, and the control no more than the page has."""
    control.style.description_width = "initial"
    control.layout.width, control.layout.max_width = width, "100%"
    control.layout.margin = "2px 1em 2px 2px"
    if isinstance(control, widgets.SelectionSlider | widgets.SelectionRangeSlider):
        control.add_class("wskit-choices")  # see `Access`
    return control


def spaced(name: Any) -> str:
    """Return the name of a measure or a column as a table shows it."""
    return str(name).replace("_", " ")


def html_table(table: pd.DataFrame, caption: str, *, header: bool = True) -> str:
    """Return a table with a caption as HTML: four digits, and a dash where there is no value."""
    shown = table.map(cell_text)
    with pd.option_context("display.max_colwidth", None):
        text = shown.to_html(border=0, header=header)
    start, _, rest = re.sub(r">\s+<", "><", text).partition(">")
    title = f"<caption>{html.escape(caption)}</caption>"
    return f'<div class="wskit-table">{start}>{title}{rest}</div>'


class Name(str):
    """The name of a variable among the arguments of `call`."""

    __slots__ = ()
    __repr__ = str.__str__


def call(function: str, *arguments: str, **options: Any) -> str:
    """Return a call as code, one argument per line where it is long."""
    every = [*arguments, *(f"{name}={value!r}" for name, value in options.items())]
    line = f"{function}({', '.join(every)})"
    if len(line) <= _LINE:
        return line
    return "\n".join([f"{function}(", *(f"    {each}," for each in every), ")"])


def _parts(widget: widgets.Widget) -> list[widgets.Widget]:
    """Return all widgets that one is made of."""
    own = [getattr(widget, name, None) for name in ("layout", "style")]
    children = getattr(widget, "children", ())
    below = [part for child in children for part in [child, *_parts(child)]]
    return [part for part in own if isinstance(part, widgets.Widget)] + below


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
