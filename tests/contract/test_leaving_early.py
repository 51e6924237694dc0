"""A program whose loop over a map raises ends with that error, on every model."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio
import manyhands as mh


async def wait(seconds):
    await asyncio.sleep(seconds)
    return seconds


for outcome in {map}:
    raise ValueError("mine")
"""
MAPS = {
    "async": "mh.map(wait, [0.001, *[3600] * 9], workers=4)",
    "async, one by one": "mh.map(wait, [0.001, *[3600] * 9], workers=4, ordered=False)",
    "async, outcomes": "mh.map(wait, [0.001, *[3600] * 9], workers=4, on_error='return')",
    "commands": "mh.map_commands([['true'], ['sleep', '3600']], workers=2)",
    "thread": "mh.map(abs, range(1000), workers=2)",
    "process": "mh.map(abs, range(1000), workers=2, on='process')",
    "completed": "mh.as_completed([mh.AsyncExecutor().submit(wait, 0.001)])",
}


@pytest.mark.parametrize("kind", MAPS)
def test_the_error_that_left_the_loop_is_the_programs(kind, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM.format(map=MAPS[kind]))
    command = [sys.executable, str(tmp_path / "program.py")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert ran.stderr.rstrip().endswith("ValueError: mine"), ran.stderr
    assert ran.returncode == 1
