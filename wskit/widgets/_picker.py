"""A panel to open a checkpoint from the catalogue, a path, the session or an upload."""

import html
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import traitlets
from torch import nn

from wskit import data
from wskit.checkpoints import Checkpoint, open_checkpoint
from wskit.errors import CheckpointError, DataError, WskitError
from wskit.widgets._panel import Panel, Task, button, row

_ORIGINS = ["catalogue", "path", "session", "upload"]
# JupyterLab loses messages of over 10 MiB unless the server's limit is raised.
_UPLOAD_LIMIT = 8 * 2**20
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".th", ".npz")


class CheckpointPicker(Panel):
    """Choose weights and open them; `checkpoint` then holds them.

    Parameters
    ----------
    modules : mapping of str to nn.Module, optional
        What "session" offers. None offers the modules among the notebook's variables.

    Attributes
    ----------
    checkpoint : Checkpoint or None
        What was opened last; None before that and after a failure.
    origin : {"catalogue", "path", "session", "upload"}
        Where the weights come from.
    entry, path, variable
        What is chosen of each: a name of `wskit.data.catalog`, a path, a variable's name.
    """

    checkpoint = traitlets.Instance(Checkpoint, allow_none=True)
    origin = traitlets.Enum(_ORIGINS, "catalogue")
    entry = traitlets.Unicode()
    path = traitlets.Unicode()
    variable = traitlets.Unicode(None, allow_none=True)

    def __init__(self, *, modules: Mapping[str, nn.Module] | None = None) -> None:
        self._modules = modules
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._uploaded: Path | None = None
        catalog = data.catalog()
        self._entries = catalog["name"][catalog["kind"] == "weights"].tolist()
        self.entry = self._entries[0]
        super().__init__()
        self._build()
        self.message = "Nothing is open yet."

    @traitlets.validate("entry")
    def _known(self, proposal: Any) -> Any:
        return self._check_offered(proposal, self._entries, DataError)

    # -- what it does ------------------------------------------------------------------------

    def load(self) -> None:
        """Open what is chosen; download it first if it is in the catalogue and not cached."""
        self.checkpoint = None
        origin, entry = self.origin, self.entry
        named = {"catalogue": entry, "path": self.path, "session": str(self.variable)}
        name = named.get(origin, "the upload")
        source: Any = None
        try:
            source = self._source()
        except WskitError as error:
            self._refuse(error)
            return

        def work(task: Task) -> Checkpoint:
            if origin == "catalogue":
                return open_checkpoint(
                    data.fetch(entry, progress=task.report, cancel=task.cancelled)
                )
            return open_checkpoint(source)

        def show(checkpoint: Checkpoint) -> None:
            self.checkpoint = checkpoint
            self._show_entry()  # it may be in the cache now
            count, size = len(checkpoint), checkpoint.nbytes / 1e6
            self.message = f"{name} is open: {count} tensors, {size:.2f} MB."

        slow = origin in ("catalogue", "path")
        self._run(work, show, thread=f"Opening {name}." if slow else "")

    def upload(self, name: str, content: bytes | memoryview) -> None:
        """Take a small file that came through the browser, and open it.

        Only the suffix of its name is used; the content goes to a temporary folder.
        """
        self.origin, self._uploaded, self.checkpoint = "upload", None, None
        suffix, size = Path(name).suffix.lower(), len(content)
        if suffix not in _SUFFIXES:
            expected = ", ".join(_SUFFIXES)
            self._refuse(CheckpointError(f"{name}: expected one of {expected}."))
            return
        if size > _UPLOAD_LIMIT:
            self._refuse(
                CheckpointError(
                    f"{name} has {size / 2**20:.1f} MiB, and an upload may have "
                    f"{_UPLOAD_LIMIT >> 20}; put it beside the notebook and give its path."
                )
            )
            return
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="wskit-upload-")
        # A file of its own for each: an earlier one may be open, and mapped.
        folder = tempfile.mkdtemp(dir=self._folder.name)
        self._uploaded = Path(folder) / f"upload{suffix}"
        self._uploaded.write_bytes(content)
        self.load()

    def code(self) -> str:
        """Return a cell of plain calls that opens what is chosen, as ``weights``."""
        lines = ["from wskit import checkpoints, data", ""]
        if self.origin == "catalogue":
            source = f"data.fetch({self.entry!r})"
        elif self.origin == "path":
            source = repr(self.path)
        elif self.origin == "session":
            source = self.variable or "model"
        else:
            lines.append("# The upload lies in a temporary folder: keep a copy of your file.")
            source = repr(str(self._uploaded)) if self._uploaded else '"your-file.safetensors"'
        return "\n".join([*lines, f"weights = checkpoints.open_checkpoint({source})"])

    def close(self) -> None:
        """Cancel what runs, drop the upload, and remove the panel from the page."""
        if self.comm is not None:
            self._chooser.children = list(self._choosers.values())  # all of them are closed
        super().close()
        if self._folder is not None:
            self._folder.cleanup()

    def modules(self) -> dict[str, nn.Module]:
        """Return what "session" offers: names and modules."""
        if self._modules is not None:
            return dict(self._modules)
        from IPython import get_ipython

        variables = getattr(get_ipython(), "user_ns", {})
        return {
            name: value
            for name, value in variables.items()
            if isinstance(value, nn.Module) and not name.startswith("_")
        }

    def _source(self) -> Any:
        """Return what to open, but for the catalogue, or say what is missing."""
        if self.origin == "path" and not self.path.strip():
            raise CheckpointError("Give the path of a file or a folder of weights.")
        if self.origin == "session":
            modules = self.modules()
            if not modules:
                raise CheckpointError(
                    "No torch module is among the notebook's variables; make one, then Refresh."
                )
            if self.variable not in modules:
                raise CheckpointError(
                    f"{self.variable!r} is no module here; choose one of {sorted(modules)}."
                )
            return modules[self.variable]
        if self.origin == "upload" and self._uploaded is None:
            raise CheckpointError("Choose a file to upload first.")
        return self._uploaded if self.origin == "upload" else self.path.strip()

    def _refuse(self, error: WskitError) -> None:
        self.cancel()
        self._fail(error)

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        origin = widgets.ToggleButtons(
            options=_ORIGINS,
            description="From",
            style={"description_width": "initial", "button_width": "7em"},
        )
        entry = self._control("entry", "Entry", self._entries)
        path = self._control("path", "Path", width="40em")
        path.placeholder = "file or folder of weights, or hf://org/name@revision"
        self._variable = self._control("variable", "Module", [])
        upload = widgets.FileUpload(
            accept=",".join(_SUFFIXES), description=f"Upload (at most {_UPLOAD_LIMIT >> 20} MiB)"
        )
        upload.layout.width = "max-content"
        upload.observe(self._on_upload, "value")
        self._about, self._table = widgets.HTML(), widgets.HTML()
        self._open_button = button("Open", "folder-open", self.load)
        self._choosers = {
            "catalogue": widgets.VBox([entry, self._about]),
            "path": path,
            "session": row(self._variable, button("Refresh", "refresh", self._offer_modules)),
            "upload": upload,
        }
        self._chooser = widgets.VBox()
        self.observe(self._show_chooser, "origin")
        self.observe(self._show_entry, "entry")
        self.observe(self._show_table, "checkpoint")
        self._state_view.layout.flex = "1 1 20em"
        action = row(self._open_button, self._state_view)
        self.children = [self._link("origin", origin), self._chooser, action, self._table]
        self.add_class("wskit-checkpoint-picker")
        self._show_chooser()
        self._show_entry()

    def _show_chooser(self, _: Any = None) -> None:
        if self.origin == "session":
            self._offer_modules()
        self._chooser.children = [self._choosers[self.origin]]
        self._open_button.layout.display = "none" if self.origin == "upload" else ""

    def _offer_modules(self) -> None:
        names = list(self.modules())
        chosen = self.variable if self.variable in names else next(iter(names), None)
        with self._variable.hold_sync():
            self._variable.options, self._variable.value = names, chosen

    def _on_upload(self, change: Any) -> None:
        for file in change["new"]:
            self.upload(file.name, file.content)

    def _show_table(self, _: Any) -> None:
        self._table.value = "" if self.checkpoint is None else self.checkpoint._repr_html_()

    def _show_entry(self, _: Any = None) -> None:
        """Show size, licence, origin and citation, before anything is downloaded."""
        r: Any = data.catalog().set_index("name").loc[self.entry]
        size = "size unknown" if pd.isna(r["bytes"]) else f"{r['bytes'] / 1e6:.2f} MB"
        where = "in the cache" if r["cached"] else "to download"
        about = f"{size}, {where}; licence: {r['licence']}; from {r['source']}"
        self._about.value = (
            f'<div style="line-height:1.4"><b>{html.escape(r["title"])}</b><br>{html.escape(about)}'
            "<details><summary>How to cite it</summary>"
            f'<pre style="white-space:pre-wrap">{html.escape(r["citation"])}</pre></details></div>'
        )
