"""All panels, ill-treated: many changes, closing and Ctrl-C amid work, many panels, one file."""

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import test_widgets_region as region
import test_widgets_soup as soup
import test_widgets_swa as swa
import test_widgets_zoo as zoo
import torch
from comm import get_comm_manager
from data_site import prepare
from ipywidgets import HTML
from ipywidgets.widgets.widget import _instances
from matplotlib.figure import Figure

from wskit import checkpoints, data
from wskit.errors import WskitError
from wskit.widgets import (
    CheckpointPicker,
    EsdExplorer,
    RegionExplorer,
    SoupKitchen,
    SwaExplorer,
    ZooExplorer,
    _esd,
)
from wskit.widgets._panel import Panel
from wskit.widgets._picture import Picture
from wskit.zoo import load_zoo, save_zoo

pytestmark = pytest.mark.usefixtures("no_figure_stays_open", "no_layout")

MANY_PANELS = pytest.mark.parametrize("n", [3, pytest.param(30, marks=pytest.mark.slow)])
SEED = torch.Generator().manual_seed(0)
NET = {
    "conv.weight": torch.randn(8, 6, 3, 3, generator=SEED),
    "fc.weight": torch.randn(30, 20, generator=SEED),
}
ZOO = zoo.make_zoo()


def catalogue() -> list[str]:
    entries = data.catalog()
    return list(entries["name"][entries["kind"] == "weights"])


@dataclass(frozen=True)
class Case:
    """How a panel is made of files in a folder, and what can be done to it."""

    make: Callable[[Path], Panel]
    change: Callable[[Panel, int], None]  # to the i-th of many values, all different in a row
    work: Callable[[Panel, Path], None]  # begins work in a thread


def opened(models: dict[str, Any], folder: Path) -> dict[str, Any]:
    for name, model in models.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            checkpoints.save_weights(model, path)
    return {name: checkpoints.open_checkpoint(folder / f"{name}.safetensors") for name in models}


def loaded_zoo(folder: Path) -> Any:
    path = folder / "zoo.safetensors"
    if not path.exists():
        save_zoo(ZOO, path)
    return load_zoo(path)


def load_path(panel: Any, folder: Path) -> None:
    opened({"net": NET}, folder)["net"].close()
    panel.origin, panel.path = "path", str(folder / "net.safetensors")
    panel.load()


CASES = {
    "picker": Case(
        lambda folder: CheckpointPicker(modules={}),
        lambda panel, i: panel.set_trait("entry", catalogue()[i % len(catalogue())]),
        load_path,
    ),
    "esd": Case(
        lambda folder: EsdExplorer(opened({"net": NET}, folder)["net"], layer="fc.weight"),
        lambda panel, i: setattr(panel._slider, "value", i % 13 + 1),
        lambda panel, folder: panel.compute_table(),
    ),
    "zoo": Case(
        lambda folder: ZooExplorer(loaded_zoo(folder), estimator=zoo.LINEAR),
        lambda panel, i: panel.set_trait("x_range", (-5 - i % 10, 5)),
        lambda panel, folder: panel.retrain(),
    ),
    "region": Case(
        lambda folder: RegionExplorer(
            opened(region.MODELS, folder), region.EVALUATE, map=region.MAP, resolution=5
        ),
        lambda panel, i: panel.set_trait("c1", (i % 40) / 50),
        lambda panel, folder: panel.set_trait("first", "d" if panel.first != "d" else "a_0"),
    ),
    "swa": Case(
        lambda folder: SwaExplorer(swa.RUNS, swa.EVALUATE, train=swa.train, resolution=5),
        lambda panel, i: panel.set_trait("start", i % 9 + 1),
        lambda panel, folder: panel.set_trait("every", 3 - panel.every),
    ),
    "soup": Case(
        lambda folder: SoupKitchen(opened(soup.INGREDIENTS, folder), soup.EVALUATE),
        lambda panel, i: panel.set_trait("shares", {"b": 1 + (i % 10) / 10}),
        lambda panel, folder: panel.greedy(),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """The pictures that are computed from now on, in their order."""
    shown: list[Picture] = []
    original = Picture.show

    def show(self: Picture, png: bytes) -> None:
        shown.append(self)
        original(self, png)

    monkeypatch.setattr(Picture, "show", show)
    return shown


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Work in a thread begins when it is let go."""
    gate, original = threading.Event(), Panel._run

    def held(self: Panel, work: Any, show: Any, *, thread: str = "") -> None:
        def waiting(task: Any) -> Any:
            assert gate.wait(60)
            return work(task)

        original(self, waiting if thread else work, show, thread=thread)

    monkeypatch.setattr(Panel, "_run", held)
    yield gate
    gate.set()
    no_threads_are_left()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "wskit-panel"]


def no_threads_are_left() -> None:
    for each in threads():
        each.join(60)
    assert threads() == []


def screen(panel: Any) -> tuple[Any, ...]:
    """All that is seen of a panel, but for its table of files."""
    views = [getattr(panel, name, None) for name in ("_about", "_numbers", "_numbers_view")]
    texts = [view.value for view in views if isinstance(view, HTML)]
    return panel.describe(), panel.static_image(), panel.status, panel.message, *texts


def made(case: Case, folder: Path) -> Panel:
    panel = case.make(folder)
    panel.wait()
    return panel


# -- many changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_many_changes_end_where_one_does_beside_another_panel(
    case: Case, n: int, tmp_path: Path
) -> None:
    panel, other = made(case, tmp_path), made(case, tmp_path)
    before = screen(panel)
    for i in range(n):
        case.change(panel, i)
    case.work(other, tmp_path)
    panel.wait()
    assert screen(panel) != before
    case.change(other, n - 1)
    other.close()
    fresh = made(case, tmp_path)
    case.change(fresh, n - 1)
    fresh.wait()
    assert screen(panel) == screen(fresh)
    assert panel.status in ("done", "idle")
    no_threads_are_left()
    panel.close()
    fresh.close()


def test_many_changes_of_slow_work_are_one_picture(
    tmp_path: Path, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_esd, "_INLINE_OPERATIONS", 0)
    panel = EsdExplorer(NET)
    panel.wait()
    del pictures[:]
    for i in range(201):
        panel.layer = list(NET)[i % 2]
    panel.layer = "fc.weight"
    panel.wait()
    assert len(pictures) == 1
    no_threads_are_left()
    fresh = EsdExplorer(NET, layer="fc.weight")
    fresh.wait()
    assert screen(panel) == screen(fresh)
    panel.close()
    fresh.close()


# -- closing and Ctrl-C -----------------------------------------------------------------------


def test_closing_amid_work(
    case: Case, tmp_path: Path, gate: threading.Event, pictures: list[Picture]
) -> None:
    before = set(_instances)
    panel = case.make(tmp_path)
    gate.set()
    panel.wait()
    gate.clear()
    case.work(panel, tmp_path)
    assert (panel.status, len(threads())) == ("running", 1)
    panel.close()
    del pictures[:]
    gate.set()
    no_threads_are_left()
    panel.wait()
    assert panel.status == "cancelled"
    assert pictures == []
    panel.close()  # twice is as good
    assert set(_instances) == before


@pytest.fixture
def _ctrl_c_raises() -> Iterator[None]:
    """Ctrl-C raises, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_raises")
@pytest.mark.skipif(os.name != "posix", reason="signals are sent to a thread")
def test_ctrl_c_while_a_thread_works(case: Case, tmp_path: Path, gate: threading.Event) -> None:
    panel = case.make(tmp_path)
    gate.set()
    panel.wait()
    gate.clear()
    case.work(panel, tmp_path)

    def press() -> None:
        time.sleep(0.2)  # until it is waited for
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        threading.Thread(target=press).start()
        panel.wait()
    assert panel.status == "running"  # the work goes on; Cancel would end it
    gate.set()
    panel.wait()
    assert panel.status == "done"
    if not isinstance(panel, CheckpointPicker | SoupKitchen):
        case.work(panel, tmp_path)
        panel.wait()
        assert panel.status == "done"
    panel.cancel()
    panel.close()


def test_ctrl_c_while_work_is_shown(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel: Any = made(case, tmp_path)
    case.work(panel, tmp_path)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Picture, "show", interrupted)
        patch.setattr(CheckpointPicker, "_show_entry", interrupted)
        with pytest.raises(KeyboardInterrupt):
            panel.wait()
    assert (panel.status, panel.message) == ("cancelled", "Cancelled.")
    case.work(panel, tmp_path)
    panel.wait()
    assert panel.status == "done"
    panel.close()


def test_ctrl_c_in_work_that_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = EsdExplorer(NET)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_esd, "spectra", interrupted)
        with pytest.raises(KeyboardInterrupt):
            panel.layer = "fc.weight"
    assert (panel.status, panel.static_image()) == ("cancelled", b"")
    panel.wait()  # nothing runs
    panel.layer = "conv.weight"
    assert panel.status == "done"
    panel.close()


# -- many panels ------------------------------------------------------------------------------


def figures() -> int:
    gc.collect()
    return sum(type(each) is Figure for each in gc.get_objects())


def files() -> set[str]:
    """What the process has open, but for the listing itself."""
    folder, found = Path("/proc/self/fd"), set()
    for each in folder.iterdir():
        if each.exists():
            found.add(f"{each.name} {each.resolve()}")
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed in /proc")
@MANY_PANELS
def test_nothing_is_left_of_many_panels(case: Case, n: int, tmp_path: Path) -> None:
    def one() -> "weakref.ref[Panel]":
        panel = made(case, tmp_path)
        case.work(panel, tmp_path)
        panel.wait()
        assert panel.status == "done"
        panel.close()
        return weakref.ref(panel)

    one()  # what is made once in a process
    gc.collect()
    comms = get_comm_manager().comms
    before = figures(), set(_instances), set(comms), set(threading.enumerate()), files()
    gone = [one() for _ in range(n)]
    gc.collect()
    assert [each() for each in gone] == [None] * n
    assert plt.get_fignums() == []
    after = figures(), set(_instances), set(comms), set(threading.enumerate()), files()
    assert after == before


REFUSED: dict[str, Callable[[], Panel]] = {
    "no catalogue": lambda: CheckpointPicker(modules={}),
    "layer": lambda: EsdExplorer(NET, layer="fc"),
    "two models": lambda: RegionExplorer([NET, NET], region.EVALUATE),
    "score": lambda: SoupKitchen(soup.INGREDIENTS, soup.EVALUATE, score="loss"),
    "no run": lambda: SwaExplorer({}, swa.EVALUATE),
    "colour": lambda: ZooExplorer(ZOO, colour="nothing"),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_nothing_is_left_of_a_panel_that_is_refused(
    make: Callable[[], Panel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, monkeypatch)  # a catalogue without entries
    gc.collect()
    before = set(_instances), set(get_comm_manager().comms)
    with pytest.raises((WskitError, IndexError)):
        make()
    gc.collect()
    assert (set(_instances), set(get_comm_manager().comms)) == before


def test_an_upload_goes_with_its_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    opened({"net": NET}, tmp_path)["net"].close()
    panel = CheckpointPicker(modules={})
    for _ in range(2):
        panel.upload("net.safetensors", (tmp_path / "net.safetensors").read_bytes())
        assert panel.status == "done"
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    panel.close()
    assert list((tmp_path / "tmp").iterdir()) == []


# -- names from files -------------------------------------------------------------------------

HOSTILE = (
    "<img src=x onerror=alert(1)>\"); touched.append(1); (\"'); touched.append(1); ('\n$x^{$ \\"
)


def hostile_esd(folder: Path) -> tuple[Panel, dict[str, Any]]:
    weights = {HOSTILE: torch.eye(6) + 1, "b": torch.eye(4) + 1}
    panel = EsdExplorer({HOSTILE: weights, HOSTILE + "2": weights})
    panel.compare = HOSTILE + "2"
    panel.compute_table()
    return panel, {"weights": {HOSTILE: weights, HOSTILE + "2": weights}}


def hostile_zoo(folder: Path) -> tuple[Panel, dict[str, Any]]:
    records = ZOO.records.assign(**{HOSTILE: 1.0 * ZOO.records.index, "seed": HOSTILE})
    models = type(ZOO)({HOSTILE: ZOO.weights["fc1.weight"]}, records)
    panel = ZooExplorer(models, estimator=zoo.LINEAR, x=HOSTILE, colour=HOSTILE)
    return panel, {"models": models, "estimator": zoo.LINEAR}


def hostile_region(folder: Path) -> tuple[Panel, dict[str, Any]]:
    models = {f"{i}{HOSTILE}": model for i, model in enumerate(region.MODELS.values())}
    panel = RegionExplorer(models, region.EVALUATE, map=region.MAP, resolution=3)
    return panel, {"models": models, "evaluate": region.EVALUATE, "map": region.MAP}


def hostile_swa(folder: Path) -> tuple[Panel, dict[str, Any]]:
    runs = {HOSTILE: swa.RUNS["short"], "b": swa.RUNS["first_0"]}
    return SwaExplorer(runs, swa.EVALUATE, resolution=3), {"runs": runs, "evaluate": swa.EVALUATE}


def hostile_soup(folder: Path) -> tuple[Panel, dict[str, Any]]:
    models = {f"{i}{HOSTILE}": model for i, model in enumerate(soup.INGREDIENTS.values())}
    panel = SoupKitchen(models, soup.EVALUATE)
    panel.greedy()
    return panel, {"ingredients": models, "evaluate": soup.EVALUATE}


@pytest.mark.parametrize(
    "build",
    [hostile_esd, hostile_zoo, hostile_region, hostile_swa, hostile_soup],
)
def test_names_in_files_are_neither_page_nor_code(
    build: Callable[[Path], tuple[Panel, dict[str, Any]]], tmp_path: Path
) -> None:
    panel, names = build(tmp_path)
    panel.wait()
    assert panel.status == "done", panel.message
    views, todo = [], [panel]
    while todo:
        widget = todo.pop()
        todo += getattr(widget, "children", ())
        views += [widget.value] if isinstance(widget, HTML) else []
    texts = [*views, *(str(line) for line in panel.code().splitlines())]
    assert any("onerror=alert" in text for text in texts), "the name is there"
    assert not any("<img src=x" in view for view in views)
    scope = names | {"touched": []}
    exec(panel.code(), scope)
    assert scope["touched"] == []
    plt.close("all")
    panel.close()
