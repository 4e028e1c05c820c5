"""The exceptions that wskit raises on purpose.

Each says in one sentence what was expected, what was found, where (file, tensor, row) and what
to do about it. Each is also the built-in exception that a caller would expect.
"""


class WskitError(Exception):
    """Any error that wskit raises on purpose."""


class CheckpointError(WskitError, ValueError):
    """A checkpoint cannot be opened, read or written as asked."""


class DataError(WskitError, OSError):
    """A file of a manifest cannot be had, or is not the file that the manifest describes."""


class FitError(WskitError, ValueError):
    """A distribution cannot be fitted to these values."""


class SpectrumError(WskitError, ValueError):
    """A tensor has no spectrum that could be computed as asked."""


class ZooError(WskitError, ValueError):
    """A zoo of models cannot be trained, read or put together as asked."""


class FeatureError(WskitError, ValueError):
    """Features of models cannot be computed, or their table kept, as asked."""


class PredictorError(WskitError, ValueError):
    """A table of models cannot be split, fitted or scored as asked."""


class LandscapeError(WskitError, ValueError):
    """A loss landscape cannot be evaluated at these weights as asked."""


class GeometryError(WskitError, ValueError):
    """Models cannot be laid out, compared, matched or projected as asked."""


class AveragingError(WskitError, ValueError):
    """Models cannot be averaged, recorded or sampled as asked."""


class SoupError(WskitError, ValueError):
    """A soup cannot be made of these models, or scored, as asked."""


class ReportError(WskitError, ValueError):
    """A report cannot be made of these weights, or written, as asked."""
