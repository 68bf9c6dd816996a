"""Waiting for something that another process does."""

import time


def wait_until(condition, timeout_s=90.0):
    """Poll until `condition` is true; returns the seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - began
