"""What every test shares: how hard hypothesis looks, and a header that says which build is under test."""

import os

from hypothesis import settings

import manyhands

# The deadline is pytest's timeout: a busy machine is no reason for a property to fail.
settings.register_profile("fast", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "fast")


def pytest_report_header() -> str:
    return f"manyhands: {manyhands.__file__}"
