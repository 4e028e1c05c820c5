"""Tables of what weights look like: one row a layer."""

from wskit.features._spectral import Convention, spectral_table, summary

__all__ = ["Convention", "spectral_table", "summary"]
