"""Whatever is killed or cut off while tasks are sent and run: what was confirmed is run, at least once.

How many were run again is printed: a task whose worker died may be, for nobody knows how far it was.
"""

import shutil
import subprocess
import sys
import threading
import time

import pytest
from proxy import Proxy
from scenes import HERE, TASKS, WORKER, scene_at
from servers import Redis, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SILENCE, RESTARTS = (10.0, 3) if TASKS >= 5000 else (1.0, 1)
servers_only = pytest.mark.parametrize("broker", ["redis", "rabbit"], indirect=True)
"""A file neither dies nor falls silent."""


def test_worker_processes_are_killed(scene, capsys):
    scene.send_many(TASKS)
    scene.start_worker()
    for part in range(1, 6):
        scene.until_run(TASKS * part // 6)
        assert len(scene.run()) < TASKS
        scene.kill_a_process()
    scene.account(capsys)


def test_workers_are_killed_with_all_that_they_had(scene, capsys):
    scene.send_many(TASKS)
    for part in range(1, 4):
        scene.start_worker()
        scene.until_run(TASKS * part // 4)
        scene.kill_worker()
        assert len(scene.run()) < TASKS
    scene.start_worker()
    scene.account(capsys)


@servers_only
def test_the_broker_is_killed_and_comes_back(scene, capsys):
    scene.start_worker()
    sending = threading.Thread(target=scene.send, args=(TASKS,))
    sending.start()
    pauses = []
    for part in range(1, RESTARTS + 1):
        scene.until_run(TASKS * part // 5)
        scene.server.restart()
        pauses.append(scene.back_at_work())
    sending.join()
    scene.account(capsys, f", back at work after {' '.join(f'{pause:.1f} s' for pause in pauses)}")
    assert len(scene.owed) == TASKS


@servers_only
def test_the_network_falls_silent_for_a_while(broker, request, tmp_path, capsys):
    if broker == "redis":
        with running(Redis, tmp_path / "redis") as server:
            silence(server, tmp_path, capsys)
    else:
        server = request.getfixturevalue("rabbit_server")
        silence(server, tmp_path, capsys)


def silence(server, folder, capsys):
    proxy = Proxy(server.port)
    try:
        with scene_at(server, server.url.replace(str(server.port), str(proxy.port)), folder) as scene:
            scene.app.queue.purge()
            scene.start_worker()
            sending = threading.Thread(target=scene.send, args=(TASKS,))
            sending.start()
            scene.until_run(TASKS // 4)
            with proxy.cut():
                time.sleep(SILENCE)  # that is the fault
            pause = scene.back_at_work()
            sending.join()
            scene.account(capsys, f", back at work after {pause:.1f} s")
            assert len(scene.owed) == TASKS
    finally:
        proxy.close()


FULL = """
import subprocess, sys, time
from pathlib import Path
from manyhands.errors import BrokerError
from appending import append, queue

folder, trace = sys.argv[1:]
confirmed, number, refused = set(), 0, 0
while refused < 20:
    try:
        append.delay(number)
        confirmed.add(number)
    except BrokerError:
        refused += 1
    number += 1
subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
append.delay(number)
confirmed.add(number)
worker = subprocess.Popen([sys.executable, *%r])
try:
    deadline = time.monotonic() + 100
    while confirmed - set(map(int, Path(trace).read_text().split())) and time.monotonic() < deadline:
        time.sleep(0.02)
finally:
    worker.terminate()
    worker.wait()
run = sorted(map(int, Path(trace).read_text().split()))
print(len(confirmed), len(confirmed - set(run)), len(run) - len(set(run)))
"""
"""Sends until the disk is full and a little longer, and again when there is place; then all is run."""


def may_mount():
    tried = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL, check=False)
    return tried.returncode == 0


def test_a_full_disk_refuses_and_loses_nothing(tmp_path, monkeypatch, capsys):
    if shutil.which("unshare") is None or not may_mount():
        pytest.skip("mounting needs rights that this user does not have")
    trace, disk = tmp_path / "trace", tmp_path / "disk"
    disk.mkdir()
    trace.touch()
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("FAULTS_BROKER", f"sqlite:///{disk}/jobs.db")
    monkeypatch.setenv("FAULTS_TRACE", str(trace))
    monkeypatch.setenv("FAULTS_UNREACHABLE", "fail")
    mount = 'mount -t tmpfs -o size=2m tmpfs "$1" && exec "$3" -c "$4" "$1" "$2"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", disk, trace, sys.executable, FULL % WORKER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    confirmed, lost, doubled = map(int, done.stdout.split())
    with capsys.disabled():
        print(f" [{confirmed} tasks, {lost} lost, {doubled} run again]", end="")
    assert confirmed > 100
    assert (lost, doubled) == (0, 0)
