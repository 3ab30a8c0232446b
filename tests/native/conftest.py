"""Hypothesis profiles for the native tests: OFFLINE_ENGINE_TEST_EXAMPLES sets how many examples each test tries."""

import os

from hypothesis import settings

settings.register_profile(
    "native", max_examples=int(os.environ.get("OFFLINE_ENGINE_TEST_EXAMPLES", "100")), deadline=None
)
settings.load_profile("native")
