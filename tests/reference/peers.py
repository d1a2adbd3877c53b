"""Other packages, for the tests that compare with them."""

from __future__ import annotations

import importlib
import importlib.util
import warnings

import pytest


def peer(module):
    """A fixture that skips the test if the package is not installed; its warnings are its own."""

    @pytest.fixture(scope="module")
    def imported():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if importlib.util.find_spec(module.split(".")[0]) is None:
                pytest.skip(f"{module.split('.')[0]} is not installed")
            return importlib.import_module(module)

    return imported
