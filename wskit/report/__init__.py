"""One page on a set of weights: what its layers look like, and how sure that is.

`examine` computes, `write_report` draws and writes.
"""

from wskit.report._examine import examine
from wskit.report._page import check_target, write_report
from wskit.report._report import Comparison, Provenance, Report, Specimen

__all__ = [
    "Comparison",
    "Provenance",
    "Report",
    "Specimen",
    "check_target",
    "examine",
    "write_report",
]
