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
