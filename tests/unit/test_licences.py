"""Reading SPDX expressions: what `scripts/licences` lets into a wheel."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "licences")
ALLOWED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}


@pytest.fixture(scope="module")
def licences():
    specification = importlib.util.spec_from_loader("licences", SourceFileLoader("licences", SCRIPT))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "expression",
    [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/GPL-3.0",
        "GPL-3.0 AND MIT OR MIT",
        "(MIT OR GPL-3.0) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
    ],
)
def test_an_expression_that_allowed_licences_can_meet_passes(licences, expression):
    assert licences.allows(expression, ALLOWED)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "GPL-3.0",
        "GPL-3.0 AND MIT",
        "GPL-3.0 OR MIT AND GPL-3.0",
        "(MIT OR GPL-3.0) AND MPL-2.0",
        "Apache-2.0 WITH some-exception",
    ],
)
def test_an_expression_that_needs_another_licence_fails(licences, expression):
    assert not licences.allows(expression, ALLOWED)


def test_a_crate_is_held_against_every_rule(licences):
    rules = {
        "licenses": {"allow": ["MIT"]},
        "bans": {"deny": [{"crate": "anyhow", "reason": "use thiserror"}]},
    }
    crate = {"name": "anyhow", "version": "1.0.0", "source": "git+https://example.org/x", "license": None}
    assert list(licences.examine(crate, rules)) == [
        "anyhow 1.0.0: comes from git+https://example.org/x, expected crates.io or this workspace",
        "anyhow 1.0.0: its licence is not stated, which deny.toml does not allow",
        "anyhow 1.0.0: is banned: use thiserror",
    ]
