"""Every test that asks for `model` runs on each executor; for `our_model` on manyhands' own."""

import gc
import warnings

import pytest
from models import MODELS, Gate


@pytest.fixture(params=MODELS.values(), ids=lambda model: model.name)
def model(request):
    return request.param


@pytest.fixture(params=[model for model in MODELS.values() if model.is_ours], ids=lambda model: model.name)
def our_model(request):
    return request.param


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


@pytest.fixture
def collected_warnings():
    """Catch the test's warnings; call it to collect garbage and get the warnings since the last call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def collect():
            gc.collect()
            messages = [warning.message for warning in caught]
            caught.clear()
            return messages

        yield collect
