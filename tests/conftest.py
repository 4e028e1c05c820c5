import hypothesis
import jaxtyping
import pytest

# A busy machine is no reason to fail: what is tested is what comes out, not how soon.
hypothesis.settings.register_profile("wskit", deadline=None, print_blob=True)
hypothesis.settings.load_profile("wskit")


@pytest.fixture
def without_type_checks():
    """The run-time checks of annotations off: arguments are then what a user could pass."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_figure_stays_open():
    """The test leaves pyplot no figure."""
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before


@pytest.fixture
def no_layout(monkeypatch):
    """Lay nothing out, which is half of the time; tests of the plots and in the browser do."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "set_layout_engine", lambda *_, **__: None)
