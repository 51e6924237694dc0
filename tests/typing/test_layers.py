"""The check of who may know whom is itself checked, on small trees that break one rule each."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "layers"

pytestmark = pytest.mark.skipif(shutil.which("cargo") is None, reason="reads manifests with cargo")


@pytest.fixture
def tree(tmp_path):
    """A tree that keeps every rule."""
    write(tmp_path / "Cargo.toml", '[workspace]\nresolver = "3"\nmembers = ["crates/*"]\n')
    add_crate(tmp_path, "engine", '[target."cfg(loom)".dependencies]\nloom = "0.7"\n')
    add_crate(tmp_path, "os", '[dependencies]\nmanyhands-engine = { path = "../engine" }\nrustix = "1"\n')
    add_crate(tmp_path, "python", '[dependencies]\nmanyhands-os = { path = "../os" }\npyo3 = "0.30"\n')
    package = tmp_path / "python" / "manyhands"
    write(package / "__init__.py", "from .executors import thread\nfrom . import errors, sync\n")
    write(
        package / "errors.py",
        "import asyncio\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rich\n",
    )
    write(package / "_core.pyi", "from .errors import Problem\n")
    write(package / "sync.py", "from manyhands import _core, errors\nimport manyhands._core\n")
    write(package / "maps.py", "from manyhands.executors import thread\n")
    write(package / "executors" / "__init__.py", "from . import thread\n")
    write(package / "executors" / "thread.py", "from .. import sync\nfrom ..errors import Problem\n")
    write(package / "cli" / "__main__.py", "import click\nimport manyhands\nfrom . import map\n")
    write(package / "cli" / "map.py", "from manyhands import executors\n")
    return tmp_path


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def add_crate(root, role, dependencies=""):
    folder = root / "crates" / role
    write(folder / "Cargo.toml", f'[package]\nname = "manyhands-{role}"\nversion = "0.1.0"\n{dependencies}')
    write(folder / "src" / "lib.rs", "")


def check(root):
    return subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True, check=False)


def test_a_tree_that_keeps_the_rules_passes(tree):
    checked = check(tree)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "layers: 3 crates and 9 modules know only whom they may\n"


@pytest.mark.parametrize(
    ("role", "dependencies", "complaint"),
    [
        (
            "engine",
            '[dependencies]\nmanyhands-os = { path = "../os" }',
            "engine depends on os, expected only none of ours",
        ),
        (
            "os",
            '[dev-dependencies]\nmanyhands-python = { path = "../python" }',
            "os depends on python, expected only engine",
        ),
        ("os", '[dependencies]\npyo3 = "0.30"', "os depends on pyo3, which is reserved for python"),
        (
            "python",
            '[dependencies]\nevents = { package = "mio", version = "1" }',
            "python depends on mio, which is reserved",
        ),
        (
            "engine",
            '[dependencies]\ntokio = "1"',
            "engine depends on tokio, which is reserved for fetch, python, queue",
        ),
        ("engine", '[dependencies]\nloom = "0.7"', "loom is a dependency of every build"),
        ("attic", "", "attic: has no row in CRATES"),
    ],
)
def test_a_crate_that_knows_too_much_is_named(tree, role, dependencies, complaint):
    add_crate(tree, role, dependencies)
    checked = check(tree)
    assert checked.returncode == 1
    assert checked.stderr.startswith(f"crates/{role}")
    assert complaint in checked.stderr


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        (
            "errors.py",
            "from . import _core",
            ":1: imports manyhands._core, which is of a higher layer (the Rust core)",
        ),
        (
            "errors.py",
            "\n\nimport manyhands.sync",
            ":3: imports manyhands.sync, which is of a higher layer (public modules)",
        ),
        ("_core.pyi", "from .sync import Lock", ":1: imports manyhands.sync"),
        (
            "sync.py",
            "def lazily():\n    from .executors.thread import ThreadExecutor",
            ":2: imports manyhands.executors.thread",
        ),
        (
            "sync.py",
            "from . import executors",
            ":1: imports manyhands.executors, which is of a higher layer (executors)",
        ),
        (
            "executors/thread.py",
            "from .. import maps",
            ":1: imports manyhands.maps, which is of a higher",
        ),
        (
            "maps.py",
            "from .queue import app",
            ":1: imports manyhands.queue.app",
        ),
        (
            "maps.py",
            "from . import Lock",
            ":1: imports manyhands.Lock, which is",
        ),
        (
            "sync.py",
            "import manyhands as mh",
            ":1: imports manyhands, which is of a higher layer (the package itself)",
        ),
        ("executors/thread.py", "from ..queue import app", ":1: imports manyhands.queue"),
        (
            "executors/thread.py",
            "from ... import nothing_of_ours\nfrom ..cli.map import run",
            ":2: imports manyhands.cli.map",
        ),
        (
            "__init__.py",
            "from .cli import map",
            ":1: imports manyhands.cli.map, which is of a higher layer (cli)",
        ),
    ],
)
def test_a_module_that_imports_upwards_is_named(tree, module, text, complaint):
    write(tree / "python" / "manyhands" / module, text)
    checked = check(tree)
    assert checked.returncode == 1
    assert f"python/manyhands/{module}{complaint}" in checked.stderr


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        (
            "sync.py",
            "from rich.table import Table",
            ":1: imports rich.table.Table, which is in no row of LIBRARIES",
        ),
        (
            "sync.py",
            "try:\n    import manyhands_extra\nexcept ImportError: ...",
            ":2: imports manyhands_extra",
        ),
        ("sync.py", "import click", ":1: imports click, which is reserved for cli"),
    ],
)
def test_a_library_that_a_user_may_lack_is_named(tree, module, text, complaint):
    write(tree / "python" / "manyhands" / module, text)
    assert f"python/manyhands/{module}{complaint}" in check(tree).stderr


def test_a_tree_without_modules_is_no_success(tree):
    shutil.rmtree(tree / "python")
    assert "found no module" in check(tree).stderr
