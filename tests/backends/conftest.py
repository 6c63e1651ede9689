"""Lets the assertions of the contract, which is no test module itself, show their values."""

import pytest

pytest.register_assert_rewrite("tests.backends.contract")
