"""The tests: one file per module of pipeline/, plus contract, architecture, README and docs."""

import pytest

pytest.register_assert_rewrite(
    "tests.commands"
)  # conftest imports it: a failed assert there shows its values too
