"""What all panels share: status, work in a thread with progress and cancel."""

import asyncio
import base64
import contextlib
import functools
import html
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import ipywidgets as widgets
import traitlets

from wskit.errors import WskitError
from wskit.widgets._access import Access

_log = logging.getLogger("wskit")

P = ParamSpec("P")
R = TypeVar("R")

_REPORT_EVERY = 0.1  # seconds between two progress messages to the browser
# JupyterLab has what comes while the kernel is busy handled in a second thread (a subshell),
# and pictures share matplotlib's settings: what shows something is done by one thread at a time.
_ALONE = threading.RLock()
ROW = {"flex_flow": "row wrap", "align_items": "center"}


def alone(method: Callable[P, R]) -> Callable[P, R]:
    """Have a method wait while another thread is in one of these, of any panel.

    For what is called by controls and traits. Not for what a panel does when it is forgotten:
    that may happen in any thread.
    """

    @functools.wraps(method)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ALONE:
            return method(*args, **kwargs)

    return waiting


class Task:
    """One piece of work: what it can ask and tell while it runs, and how it ended."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.cancelled = threading.Event()
        self.ended = threading.Event()  # to wait for: Ctrl-C can spoil the joining of a thread
        self.finish: Callable[[], None] | None = None  # set once the work is done
        self._report = report
        self._last = 0.0

    def report(self, done: int, total: int | None) -> None:
        """Tell how far the work has come; raise if it was cancelled."""
        if self.cancelled.is_set():
            raise WskitError("cancelled")
        now = time.monotonic()
        if total and now - self._last > _REPORT_EVERY:
            self._last = now
            self._report(min(done / total, 1.0))


class Panel(widgets.VBox):
    """A box of controls with a status, and long work in a thread that can be cancelled.

    What a thread computes is shown by the thread that began the work: by the kernel's event loop
    where there is one, else when `wait` is called. Nothing is drawn in two threads at once.

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

    _task: Task | None = None
    _thread: threading.Thread | None = None
    _moving = False  # the panel itself moves controls

    def __init__(self) -> None:
        """Make what all panels have; call it when nothing can be raised any more.

        Else what was made is never closed.
        """
        super().__init__()
        self._message_view = widgets.HTML()
        bar = widgets.FloatProgress(max=1.0, layout={"width": "10em"})
        cancel = button("Cancel", "times", self.cancel)
        # Hidden, it keeps its place: nothing below jumps when work begins.
        self._busy_view = widgets.HBox(
            [bar, cancel], layout={"visibility": "hidden", "flex": "none"}
        )
        self._message_view.layout.flex = "0 1 auto"
        self._message_view.add_class("wskit-message")
        access = Access(title=type(self).__name__)
        access.on_msg(lambda _, pressed, buffers: self._enter_and_click(**pressed))
        state = [self._message_view, self._busy_view, access]
        room = {"align_items": "center", "flex": "1 1 20em", "flex_flow": "row wrap"}
        self._state_view = widgets.HBox(state, layout=room)
        traitlets.dlink((self, "progress"), (bar, "value"))
        self.observe(self._show_state, ["status", "message"])
        self.add_class("wskit-panel")

    def cancel(self) -> None:
        """Stop the running work; what it has computed so far is dropped."""
        if self._task is not None:
            self._task.cancelled.set()
            self._task = None
            self.message, self.status = "Cancelled.", "cancelled"

    def wait(self, timeout: float = 60.0) -> None:
        """Return when the running work is done and shown.

        Parameters
        ----------
        timeout : float, default 60.0
            Seconds; after that a `TimeoutError` is raised, and the work goes on.
        """
        task = self._task
        if task is None:
            return
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
        """Say in words what the panel shows."""
        return self.message

    def static_image(self) -> bytes:
        """Return the picture for a page without a kernel, as PNG; empty if there is none."""
        return b""

    def _run(
        self, work: Callable[[Task], Any], show: Callable[[Any], None], *, thread: str = ""
    ) -> None:
        """Do `work`, then `show` what it returned; newer work replaces what still runs.

        A message in `thread` has the work done in one, and is shown meanwhile.
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

        def report(fraction: float) -> None:
            post(self._show_progress, task, fraction)

        def body() -> None:
            try:
                result = work(task)
            except Exception as error:
                failure = error  # `error` is gone when the lambda runs
                task.finish = lambda: self._fail(failure)
            except BaseException as error:
                if not thread:  # Ctrl-C: it is for who called
                    self.cancel()
                    raise
                failure = WskitError(f"The work was ended by {error!r}.")
                task.finish = lambda: self._fail(failure)
            else:
                task.finish = lambda: show(result)
            task.ended.set()
            if loop is not None or not thread:
                post(self._settle, task)

        self._task = task = Task(report)
        if thread:
            self.progress, self.message, self.status = 0.0, thread, "running"
            self._thread = threading.Thread(target=body, name="wskit-panel", daemon=True)
            self._thread.start()
        else:
            body()

    def _say(self) -> None:
        """Say what is shown, once nothing runs."""

    def _try(self, action: Callable[[], None]) -> None:
        """Do it here and now; an error is shown in the panel, and ends nothing that runs."""
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
        except BaseException:  # Ctrl-C: what is shown is half of it
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

    @contextlib.contextmanager
    def _moved_by_panel(self) -> Iterator[None]:
        """Have no control that moves meanwhile change what is shown."""
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
            with contextlib.suppress(ValueError):  # of what is no number the field shows nothing
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


def button(description: str, icon: str, action: Callable[[], None]) -> widgets.Button:
    """Return a button that calls `action`."""
    made = widgets.Button(description=description, icon=icon)
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
