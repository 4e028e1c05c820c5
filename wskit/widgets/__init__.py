"""Panels for JupyterLab: thin shells over plain functions, whose traits are their whole state.

A panel can be driven by its controls or by its traits, reads its latest result as an attribute,
and returns by ``.code()`` the plain cell that gives what the screen shows.
"""

from wskit.widgets._esd import EsdExplorer
from wskit.widgets._picker import CheckpointPicker
from wskit.widgets._region import RegionExplorer
from wskit.widgets._soup import SoupKitchen
from wskit.widgets._swa import SwaExplorer
from wskit.widgets._zoo import ZooExplorer

__all__ = [
    "CheckpointPicker",
    "EsdExplorer",
    "RegionExplorer",
    "SoupKitchen",
    "SwaExplorer",
    "ZooExplorer",
]


def __dir__() -> list[str]:
    return __all__
