"""Our settings of Ray Data while one of our graphs runs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext


@contextmanager
def ray_data_settings() -> Iterator[None]:
    """Our settings of Ray Data, for this run only: other work of this process may use it too."""
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    before = (context.enable_progress_bars, context.raise_original_map_exception, logger.level)
    # Our progress and our errors are enough: Ray Data narrates each execution.
    context.enable_progress_bars = False
    # Its own exception loses the one that a stage raised on the way to the driver.
    context.raise_original_map_exception = True
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # A small run has less to write than its writers could write at a time.
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")
            yield
    finally:
        context.enable_progress_bars, context.raise_original_map_exception = before[:2]
        logger.setLevel(before[2])
