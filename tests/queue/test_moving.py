"""A small program of Celery's usual shape, which has changed nothing but its imports."""

import os
import subprocess
import sys
import textwrap

import pytest
from test_worker_command import PATIENCE, Program, manyhands

FILES = {
    "celeryconfig.py": """
        from datetime import timedelta

        broker_url = result_backend = "sqlite:///shop.db"
        task_routes = {"proj.tasks.flaky": {"queue": "slow"}}
        task_default_queue = "jobs"
        task_time_limit = 30
        worker_prefetch_multiplier = 1
        worker_concurrency = 1
        task_acks_late = True
        task_serializer = result_serializer = "json"
        accept_content = ["application/json"]
        timezone = "Europe/Berlin"
        enable_utc = True
        result_expires = timedelta(hours=1)
        task_always_eager = False
        beat_schedule = {"every": {"task": "proj.tasks.where", "schedule": 30.0}}
    """,
    "proj/__init__.py": "",
    "proj/celery.py": """
        from contextlib import contextmanager
        from manyhands.celery import Celery, Task

        inside = 0

        @contextmanager
        def context():
            global inside
            inside += 1
            yield
            inside -= 1

        class InContext(Task):
            def __call__(self, *args, **kwargs):
                with context():
                    return self.run(*args, **kwargs)

        app = Celery("proj", task_cls=InContext)
        app.config_from_object("celeryconfig")
        app.conf.update(worker_send_task_events=False)
        app.autodiscover_tasks(["proj"])
    """,
    "proj/tasks.py": """
        from manyhands.celery import shared_task
        from manyhands.celery.utils.log import get_task_logger

        log = get_task_logger(__name__)

        @shared_task
        def where():
            from proj import celery
            return celery.inside

        @shared_task(
            bind=True, autoretry_for=(OSError,), retry_backoff=1, retry_backoff_max=0.01, max_retries=3
        )
        def flaky(self, n):
            if self.request.retries < 2:
                raise ConnectionError("not yet")
            return [n, self.request.retries]
    """,
    "web.py": """
        from proj import celery
        from proj.tasks import flaky, where

        print(where.delay().get(timeout=60), flaky.apply_async((7,), countdown=0).get(timeout=60))
    """,
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def test_it_works_by_the_name_of_its_package(project):
    log = project / "log"
    command = [sys.executable, "-m", "manyhands.cli", "worker", "-A", "proj", "-Q", "jobs,slow", "-n", "w@%h"]
    with log.open("wb") as sink, subprocess.Popen(command, cwd=project, stdout=sink, stderr=sink) as process:
        worker = Program(project, process, log)
        try:
            worker.wait_for("is ready")
            web = subprocess.run(
                [sys.executable, "web.py"],
                cwd=project,
                capture_output=True,
                text=True,
                check=True,
                timeout=PATIENCE,
            )
            assert worker.stop() == 0
        finally:
            process.kill()
    assert web.stdout == "1 [7, 2]\n"
    assert worker.said().count("beat_schedule") == 1, "each process says it"
    assert f"w@{os.uname().nodename} is ready" in worker.said()


@pytest.mark.parametrize("name", ["proj", "proj.celery", "proj.celery:app", "proj.celery.app"])
def test_its_names_for_commands(project, name):
    shown = manyhands(project, "queue", "inspect", "-A", name)
    assert "proj: broker sqlite:///shop.db" in shown.stdout
    assert "proj.tasks.flaky  queue=slow retries=3 timeout=30" in shown.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-A", "proj", "-P", "gevent"], "hint: --on process, thread"),
        (["-A", "proj", "--max-tasks-per-child=5"], "hint: --max-tasks-per-worker"),
        (["-A", "proj", "-B"], "hint: there is no scheduler yet"),
        (["-A", "proj", "--no-such"], "No such option '--no-such'"),
        (["-A", "proj.nowhere"], "No module named 'proj.nowhere'"),
        (["-A", "broken"], "could not look for tasks in 'nowhere'"),
        (["-A", "tasks"], "ZeroDivisionError"),
    ],
)
def test_what_a_worker_cannot_take_is_said_with_the_way_out(project, options, words):
    (project / "broken.py").write_text(
        "from manyhands.celery import Celery\napp = Celery(broker='memory://')\n"
        "app.autodiscover_tasks(['nowhere'])\n"
    )
    (project / "tasks.py").write_text(
        "from manyhands.celery import Celery\napp = Celery(broker='memory://', include=['worse'])\n"
    )
    (project / "worse.py").write_text("1 / 0\n")
    ended = manyhands(project, "worker", *options)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "manyhands/cli" not in ended.stderr, "a traceback of ours"
