"""Settings of Ray Data hold while a graph of ours runs, and no longer."""

import logging
import warnings

import pytest
from ray.data import DataContext

from pipelines.ray_jobs.settings import ray_data_settings

NARRATION = "The maximum number of concurrent tasks is 2"


def settings_now():
    context = DataContext.get_current()
    level = logging.getLogger("ray.data").level
    return context.enable_progress_bars, context.raise_original_map_exception, level


@pytest.fixture(params=[(True, False, logging.INFO), (False, True, logging.WARNING)])
def before(request):
    """Settings that somebody else of this process has made."""
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    original = settings_now()

    def set_to(values):
        context.enable_progress_bars, context.raise_original_map_exception = values[:2]
        logger.setLevel(values[2])

    set_to(request.param)
    yield request.param
    set_to(original)


def test_a_graph_is_silent_and_raises_what_a_stage_raised(before):
    with ray_data_settings():
        assert settings_now() == (False, True, logging.CRITICAL)
    assert settings_now() == before


def test_the_settings_of_others_return_after_an_error(before):
    with pytest.raises(ZeroDivisionError), ray_data_settings():
        raise ZeroDivisionError
    assert settings_now() == before


def test_only_the_warning_of_small_runs_is_silent():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with ray_data_settings():
            warnings.warn(NARRATION, stacklevel=1)
            warnings.warn("another", stacklevel=1)
        warnings.warn(NARRATION, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["another", NARRATION]
