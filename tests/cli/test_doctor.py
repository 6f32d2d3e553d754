"""`luthier doctor`."""

import json
import sys

import pytest

from luthier.cli import doctor

from .conftest import Command


def test_a_sound_installation_is_told_with_what_it_has(command: Command) -> None:
    status, out, err = command("doctor")
    assert (status, err) == (0, "")
    assert "Python 3" in out
    assert "devices: cpu" in out or "cuda" in out
    assert "trained, saved, loaded and predicted" in out


def test_for_programs_it_is_one_object(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_try_training", lambda: {"accuracy": 1.0, "seconds": 0.1})
    status, out, _ = command("doctor", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["problems"] == []
    assert set(found) >= {"luthier", "python", "packages", "extras", "devices", "threads", "training"}


def test_what_is_missing_or_too_old_is_named_with_what_to_do(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_try_training", lambda: {"accuracy": 1.0, "seconds": 0.1})
    monkeypatch.setattr(
        doctor, "_requirements", lambda: ({"no-such-package": "1.2", "click": "99.0"}, {"text": {"gone": "1"}})
    )
    status, out, err = command("doctor")
    assert status == 2
    assert "pip install 'no-such-package>=1.2'" in err
    assert "pip install --upgrade 'click>=99.0'" in err
    assert "pip install 'luthier[text]'" in out


def test_a_broken_torch_is_reported_and_not_raised(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = command("doctor")
    assert status == 2
    assert "install torch" in err
    assert "Traceback" not in err


def test_versions_are_compared_as_numbers() -> None:
    assert doctor._numbers("2.13.0+cpu") > doctor._numbers("2.9")
