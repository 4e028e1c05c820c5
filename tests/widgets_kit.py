"""What the tests of the panels share: controls found by label, tables read, cells run."""

import contextlib
import html
import re
import time

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from wskit import plots

HOSTILE = "<img src=x onerror=alert(1)>"
PNG = b"\x89PNG\r\n\x1a\n"


def parts(widget):
    """All widgets that one is made of."""
    for child in getattr(widget, "children", ()):
        yield child
        yield from parts(child)


def control(panel, description):
    """The control that has this label."""
    (only,) = (w for w in parts(panel) if getattr(w, "description", None) == description)
    return only


def labels(panel):
    return {getattr(widget, "description", "") for widget in parts(panel)}


def text(view):
    """What an HTML view says, without its tags."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", view.value)).split())


def cells(view, row):
    """The cells of a row in the table of an HTML view."""
    found = re.search(rf"<th>{re.escape(row)}</th>(.*?)</tr>", view.value, re.DOTALL)
    return [html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", found[1])]


@contextlib.contextmanager
def sent(widget):
    """The messages to the page about a control's state."""
    messages, send = [], widget.comm.send

    def note(data=None, **options):
        messages.append(data)
        send(data, **options)

    widget.comm.send = note
    try:
        yield messages
    finally:
        del widget.comm.send


def run_code(panel, **names):
    """Run the panel's cell, compare its pictures and numbers with it, and return what it made."""
    before, scope = set(plt.get_fignums()), dict(names)
    exec(panel.code(), scope)
    made = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    try:
        words = [plots.describe(figure) for figure in made]
        words += [] if panel.numbers is None else [scope["numbers"].to_string()]
        assert "\n".join(words) == panel.describe()
    finally:
        for figure in made:
            assert isinstance(figure, Figure)
            plt.close(figure)
    assert max(map(len, panel.code().splitlines())) <= 160
    return scope


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
