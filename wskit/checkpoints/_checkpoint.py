"""The lazily opened checkpoint."""

import difflib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from wskit._base.weights import LazyWeights
from wskit.checkpoints._reading import Contents, Scalar, explain_damage
from wskit.errors import CheckpointError

_ROWS = 20  # of a long table


class Checkpoint(LazyWeights):
    """A lazy, read-only ``Mapping[str, Tensor]`` over a file, a folder, a module or a mapping.

    Made by `open_checkpoint`. Shapes and dtypes are known at once, a tensor is read when it is
    asked for. It is a context manager; tensors that were read stay valid after it is closed.

    A tensor of a mapped file (``.safetensors``, zip ``.pt``) or of a live source is a view, not a
    copy: writing into it changes what this Checkpoint (or the live source) holds, never the file.
    While a mapped file is open, it must not be truncated by others.
    """

    def __init__(self, contents: Contents, source: str, files: Sequence[Path] = ()) -> None:
        self._entries = dict(contents.entries)
        self._close: Callable[[], None] | None = contents.close
        self._source, self._files = source, tuple(files)
        self._metadata = MappingProxyType(dict(contents.metadata))
        self._left_out = contents.left_out
        self._views = contents.views
        first: dict[object, str] = {}
        self._ties = {
            name: first[entry.identity]
            for name, entry in self._entries.items()
            if first.setdefault(entry.identity, name) != name
        }

    @property
    def source(self) -> str:
        """Where the weights come from: a path, a ``hf://`` reference or a type's name."""
        return self._source

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it reads from, an index first; empty for a module or a mapping."""
        return self._files

    @property
    def metadata(self) -> Mapping[str, Scalar]:
        """Plain values that lie beside the tensors: an epoch, a format, an accuracy."""
        return self._metadata

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of entries that are neither weights nor plain values, such as optimizer states."""
        return self._left_out

    @property
    def ties(self) -> Mapping[str, str]:
        """Each tied name with the first name of the same memory."""
        return MappingProxyType(self._ties)

    @property
    def views(self) -> bool:
        """Whether a tensor costs nothing until its entries are looked at: not in ``.npz``."""
        return self._views

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors; tied ones count once."""
        return sum(entry.nbytes for name, entry in self._entries.items() if name not in self._ties)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        self._require(name)
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor without reading it."""
        self._require(name)
        return self._entries[name].dtype

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return the rows ``start`` to ``stop`` of a tensor, as ``self[name][start:stop]``.

        From a ``.safetensors`` or a zip ``.pt`` file only these rows are read, into memory of
        their own, so that one can go through a tensor that is larger than the memory.
        """
        self._require(name)
        entry = self._entries[name]
        if entry.read_rows is None:
            return self[name][start:stop]
        start, stop, _ = slice(start, stop).indices(entry.shape[0])
        with explain_damage(f"{self._source}, tensor {name!r}", "readable rows"):
            return entry.read_rows(start, max(start, stop))

    def close(self) -> None:
        """Let go of the file. Names, shapes and dtypes remain, tensors can no longer be read."""
        if self._close is not None:
            self._entries = {
                name: replace(entry, read=self._closed, read_rows=None)
                for name, entry in self._entries.items()
            }
            self._close()
            self._close = None

    def __getitem__(self, name: str) -> Tensor:
        self._require(name)
        with explain_damage(f"{self._source}, tensor {name!r}", "a readable tensor"):
            return self._entries[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._close is None else ""
        return f"Checkpoint({self._source!r}: {self._summary()}{state})"

    def _repr_html_(self) -> str:
        """Show a table of the tensors; colours are the page's, for light and dark themes."""
        import pandas as pd

        rows = [
            {
                "tensor": f"{name} (tied to {self._ties[name]})" if name in self._ties else name,
                "shape": " × ".join(map(str, entry.shape)) or "scalar",
                "dtype": str(entry.dtype).removeprefix("torch."),
                "size": _format_size(float(entry.nbytes)),
            }
            for name, entry in self._entries.items()
        ]
        with pd.option_context("display.max_colwidth", None):
            table = pd.DataFrame(rows).to_html(index=False, border=0, max_rows=_ROWS)
        notes = [f"{key}: {_clip(value)}" for key, value in list(self._metadata.items())[:8]]
        if self._left_out:
            notes.append(f"left out: {_clip(', '.join(self._left_out))}")
        return (
            f"<div><b>{html.escape(self._source)}</b>: {html.escape(self._summary())}{table}"
            f"{html.escape('; '.join(notes))}</div>"
        )

    def _summary(self) -> str:
        count = len(self._entries)
        return f"{count} tensor{'s' if count != 1 else ''}, {_format_size(float(self.nbytes))}"

    def _require(self, name: str) -> None:
        if name not in self._entries:
            close = difflib.get_close_matches(str(name), self._entries, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise KeyError(f"{self._source} holds no tensor {name!r}{hint}")

    def _closed(self) -> Tensor:
        raise CheckpointError(
            f"{self._source}: expected an open checkpoint, but it was closed; open it again"
        )


def _format_size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def _clip(value: object, limit: int = 80) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
