"""Variables for a while: what was there before comes back, and what was not goes."""

import os

import pytest

from infra.environment import environment_variables


def test_variables_hold_inside_and_are_put_back_whatever_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMNIFORCING_OLD", "before")
    monkeypatch.delenv("OMNIFORCING_NEW", raising=False)
    values = {"OMNIFORCING_OLD": "inside", "OMNIFORCING_NEW": "inside"}
    with pytest.raises(KeyError, match="left"), environment_variables(values):
        assert {name: os.environ[name] for name in values} == values
        raise KeyError("left")
    assert os.environ["OMNIFORCING_OLD"] == "before"
    assert "OMNIFORCING_NEW" not in os.environ
