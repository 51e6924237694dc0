"""The programs of examples/ run, and do what they say."""

import json
import os
import re
import subprocess
import sys
import zoneinfo
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.py"

pytestmark = pytest.mark.skipif(
    not zoneinfo.available_timezones(), reason="this machine knows no time zones: install tzdata"
)


def run_demo(folder, *options):
    command = [sys.executable, str(DEMO), "--folder", str(folder), *options]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_the_demo_ends_in_a_complete_file_and_a_table(tmp_path):
    shown = run_demo(tmp_path, "--rows", "40")
    zones = sorted(zoneinfo.available_timezones())[:40]
    rows = [json.loads(line) for line in (tmp_path / "zones.jsonl").read_text().splitlines()]
    assert [row["zone"] for row in rows] == zones
    abidjan = rows[zones.index("Africa/Abidjan")]
    assert abidjan == {"zone": "Africa/Abidjan", "january": "GMT", "july": "GMT", "hours": [0.0, 0.0]}
    assert "40 of 40 rows" in shown

    table = re.findall(r"^(.{36}) +([\d.]+) +[\d.]+x +(\d+) +(\d+) +(\d+)$", shown, re.M)
    assert [way.strip() for way, *_ in table] == [
        "a for loop",
        "ThreadPoolExecutor(32)",
        "mh.map on 32 threads",
        "mh.map on asyncio, 32 at once",
    ]
    assert all((done, failed) == ("40", "0") for _, _, done, failed, _ in table)
    # The service is as unlucky with every way: the same requests fail.
    assert len({retried for *_, retried in table}) == 1


def test_the_service_fails_and_hangs_as_often_as_it_says():
    sys.path.insert(0, str(DEMO.parent))
    try:
        from timezone_service import ERRORS, HANGS, Service
    finally:
        sys.path.remove(str(DEMO.parent))
    with Service() as service:
        moods = [service.mood("", f"zone {number}") for number in range(10_000)]
        again = [service.mood("another run", f"zone {number}") for number in range(10_000)]
    assert moods == again
    assert abs(moods.count("error") / len(moods) - ERRORS) < 0.005
    assert abs(moods.count("hang") / len(moods) - HANGS) < 0.005
