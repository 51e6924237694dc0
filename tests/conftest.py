"""What every test shares: how hard hypothesis looks, the build under test, warm workers, a context each."""

import contextvars
import os

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import junkdrawer

import manyhands
from manyhands.executors import process

# The deadline is pytest's timeout: a busy machine is no reason for a property to fail.
settings.register_profile("fast", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "fast")
# Else it measures garbage collections in Python code, where an interruption of a task may arrive and is lost.
junkdrawer._gc_initialized = True

# Workers import the module whose function they run; of what tests import, these take the longest by far.
_zygote = process.zygote
process.zygote = lambda preload, *rest: _zygote((*preload, "pytest", "hypothesis"), *rest)


def pytest_report_header() -> str:
    return f"manyhands: {manyhands.__file__}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem) -> bool:
    """Run a test in a context of its own: variables that it leaves set would travel with all later tasks."""
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    contextvars.copy_context().run(pyfuncitem.obj, **arguments)
    return True
