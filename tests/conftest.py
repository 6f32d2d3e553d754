"""Settings of the whole suite."""

import pytest
from hypothesis import settings

# A deadline on one example measures the machine and not the code.
settings.register_profile("luthier", deadline=None, max_examples=60)
settings.load_profile("luthier")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the checks before the first step, which would say of some mistakes what is to happen."""
    monkeypatch.setattr("luthier.training.fit.chosen_rules", lambda *given: [])
