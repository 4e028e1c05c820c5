"""One page on a set of weights: what its layers look like, and how sure that is.

`examine` computes, `write_report` draws and writes.
"""

from wskit.report._examine import Report, examine
from wskit.report._page import check_target as check_target  # for the command line
from wskit.report._page import write_report

__all__ = ["Report", "examine", "write_report"]


def __dir__() -> list[str]:
    return __all__
