"""A Celery program that changed its imports: names, settings, tasks, and what is warned of."""

import logging
import pickle
import re
import sys
import types
import uuid
import warnings
from datetime import timedelta

import pytest

import manyhands.celery as face
from manyhands.celery import (
    AsyncResult,
    Celery,
    CelerySettingWarning,
    MaxRetriesExceededError,
    Task,
    current_app,
    current_task,
    get_task_logger,
    shared_task,
    signature,
)
from manyhands.celery.settings import _declaration
from manyhands.queue import Worker


@pytest.fixture(autouse=True)
def own_world(monkeypatch):
    monkeypatch.setattr("manyhands.celery.current._apps", [])
    monkeypatch.setattr("manyhands.celery.current._shared", [])
    monkeypatch.setattr("manyhands.celery.current._current", None)


def app(**settings):
    place = f"memory://{uuid.uuid4().hex}"
    return Celery("shop", broker=place, backend=place, **settings)


def add(a, b):
    return a + b


def test_a_program_as_one_writes_it():
    made = app()
    made.conf.update(accept_content=["json"], timezone="Europe/Berlin", enable_utc=True)
    task = made.task(add)
    result = task.delay(1, 2)
    assert made.depth() == 1
    assert task.name == f"{__name__}.add"
    assert isinstance(result, AsyncResult)
    assert result.task_id == result.id
    assert made.AsyncResult(result.id) == result == AsyncResult(result.id)
    assert task.apply_async(
        args=[1], kwargs={"b": 2}, queue="slow", routing_key="ignored", countdown=5, retry_policy={}
    )
    assert made.depth("slow") == 1
    assert task.apply_async((1, 2), routing_key="by-key")
    assert made.depth("by-key") == 1
    assert made.send_task("elsewhere.task", args=[1], queue="slow")
    assert made.control.purge() == 1


def test_settings_apply_to_tasks_that_were_made_before():
    made = app()
    task = made.task(add)
    own = made.task(time_limit=5, name="own")(add)
    assert (task.acks_late, task.timeout, task.queue) == (False, None, None)
    made.conf.task_acks_late = True
    made.conf["task_time_limit"] = 30
    made.conf.update({"task_default_queue": "jobs"}, task_ignore_result=True)
    assert (task.acks_late, task.timeout, task.ignore_result) == (True, 30, True)
    assert (own.timeout, own.acks_late) == (5, True)
    task.delay(1, 2)
    assert made.depth("jobs") == 1


def test_what_settings_say_of_workers_is_for_the_command():
    made = app(worker_concurrency=3, worker_max_memory_per_child=1000)
    assert made.worker_options == {"concurrency": 3, "max_memory_per_worker": 1_024_000}
    made = app(worker_prefetch_multiplier=2, worker_pool="threads")
    assert made.worker_options == {"on": "thread", "prefetch_multiplier": 2}
    assert app(worker_prefetch_multiplier=0).worker_options == {}
    assert app(worker_pool="solo", worker_concurrency=8).worker_options == {"on": "thread", "concurrency": 1}


def test_a_worker_takes_from_the_queues_of_celerys_worker():
    made = app(task_default_queue="jobs", task_routes={"slow.*": "slow"})
    made.task(name="slow.one", queue="mail")(add)
    assert Worker(made, on="thread").queues == ["jobs"]
    made.conf.task_queues = ["jobs", types.SimpleNamespace(name="mail")]
    assert Worker(made, on="thread").queues == ["jobs", "mail"]


def declared(made):
    return _declaration(made.conf)


def test_queues_are_declared_as_celerys_settings_say():
    assert declared(app()) == {"max_priority": None, "queue_type": None}
    assert declared(app(task_default_queue_type="classic"))["queue_type"] is None
    made = app(task_queue_max_priority=10, task_default_queue_type="classic")
    assert declared(made) == {"max_priority": 10, "queue_type": None}
    # As Kombu's queues are.
    mail = types.SimpleNamespace(name="mail", queue_arguments={"x-queue-type": "quorum"}, max_priority=None)
    assert declared(app(task_queues=[mail])) == {"max_priority": None, "queue_type": "quorum"}
    urgent = types.SimpleNamespace(name="urgent", queue_arguments=None, max_priority=5)
    assert declared(app(task_queues=[urgent], task_queue_max_priority=10))["max_priority"] == 5
    with pytest.warns(CelerySettingWarning, match="declared in several ways(?s:.*)taken as they are"):
        made = app(task_queues=[mail, urgent])
    with pytest.warns(CelerySettingWarning):
        assert declared(made) == {"max_priority": None, "queue_type": None}


def test_routes_in_all_of_celerys_forms():
    pairs = [("feed.*", {"queue": "feeds"}), ("web.*", "web")]
    for given in (dict(pairs), pairs, (pairs,), [dict(pairs[:1]), dict(pairs[1:])]):
        made = app(task_routes=given)
        made.send_task("feed.import")
        assert made.depth("feeds") == 1


@pytest.mark.parametrize("routes", [lambda name, *_: None, "shop.Router", {re.compile("a"): "x"}])
def test_routes_of_another_kind_are_warned_of(routes):
    with pytest.warns(CelerySettingWarning, match=r"task_routes[\s\S]*\nhint: expected patterns"):
        app(task_routes=routes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beat_schedule": {}}, "hint: there is no scheduler yet"),
        ({"CELERYBEAT_SCHEDULE": {}}, "hint: there is no scheduler yet"),
        ({"broker_use_ssl": {}}, "hint: say it in the address, as in rediss://"),
        ({"worker_pool": "gevent"}, "found 'gevent', which manyhands has not.*\nhint: there are prefork"),
        ({"broker_url": "memory://a;memory://b"}, "found 2 addresses: manyhands uses the first"),
    ],
)
def test_what_is_left_out_is_warned_of_with_the_way_out(settings, words):
    with pytest.warns(CelerySettingWarning, match=words) as warned:
        Celery("shop", **settings)
    assert {each.filename for each in warned} == {__file__}


def test_the_heartbeat_of_a_connection_is_that_of_the_settings():
    assert Celery("shop", broker="amqp://host//", broker_heartbeat=7).broker == "amqp://host//?heartbeat=7"
    for address in ("redis://host/0", "amqp://host//?heartbeat=3"):
        assert Celery("shop", broker=address, broker_heartbeat=7).broker == address
    assert Celery("shop", broker="amqp://host//").broker == "amqp://host//"


def test_rate_limits_may_be_disabled():
    made = app()
    task = made.task(rate_limit="1/m")(add)
    assert task.rate == "1/m"
    made.conf.worker_disable_rate_limits = True
    assert task.rate is None


def test_modules_may_be_named_by_one_word():
    assert app(imports="os").include == ("os",)


@pytest.mark.parametrize("way", ["task_cls", "attribute", "name"])
def test_every_task_may_be_of_a_class_of_the_programs_own(way, monkeypatch):
    depth = []

    class InContext(Task):
        def __call__(self, *args, **kwargs):
            depth.append(self.name)
            return self.run(*args, **kwargs)

    monkeypatch.setattr(sys.modules[__name__], "InContext", InContext, raising=False)
    if way == "attribute":
        made = app(task_always_eager=True)
        made.Task = InContext
    else:
        made = app(
            task_always_eager=True, task_cls=InContext if way == "task_cls" else f"{__name__}:InContext"
        )
    assert made.task(name="plain")(add).delay(1, 2).get() == 3

    @made.task(bind=True, name="bound")
    def bound(self, n):
        return self.name, n

    assert bound.delay(1).get() == ("bound", 1)
    assert depth == ["plain", "bound"]
    assert bound.retry_on, "a worker is not to take the short way past the class"


def test_a_class_that_is_none_of_tasks_is_refused():
    with pytest.raises(TypeError, match=r"expected a class that inherits from manyhands.celery.Task"):
        app(task_cls=dict)


@pytest.mark.parametrize(
    ("name", "words"), [("on_after_configure", "signals"), ("worker_main", "manyhands worker -A")]
)
def test_what_applications_have_not_yet_is_refused_with_the_way_out(name, words):
    with pytest.raises(AttributeError, match=f"{name}[\\s\\S]*hint: .*{words}"):
        getattr(app(), name)
    assert not hasattr(app(), "no_such_thing")


def test_what_the_package_has_not_yet_cannot_be_imported():
    with pytest.raises(ImportError, match=r"manyhands has none yet\nhint: tasks can send each other"):
        from manyhands.celery import chain  # noqa: F401
    with pytest.raises(ImportError, match="no_such_thing"):
        from manyhands.celery import no_such_thing  # noqa: F401


def test_modules_are_called_as_celerys_are():
    from manyhands.celery.exceptions import SoftTimeLimitExceeded
    from manyhands.celery.exceptions import TimeoutError as Late
    from manyhands.celery.result import AsyncResult as Result
    from manyhands.celery.utils.log import get_task_logger as logger

    assert (Result, logger, SoftTimeLimitExceeded) == (
        AsyncResult,
        get_task_logger,
        face.SoftTimeLimitExceeded,
    )
    with pytest.raises(Late, match="could not get the result of the task nobody: it has not come within 0 s"):
        app().AsyncResult("nobody").get(timeout=0)


def test_celerys_own_defaults_count():
    task = app().task(add)
    assert (task.acks_late, task.reject_on_worker_lost, task.max_retries) == (False, False, 3)
    assert (task.retry_on, task.default_retry_delay, task.pause(2)) == ((), 180, 180)
    assert Celery("shop", broker="memory://").results is None


def test_the_options_of_a_task():
    made = app()
    task = made.task(
        bind=True,
        autoretry_for=(OSError, KeyError),
        max_retries=None,
        retry_backoff=4,
        retry_backoff_max=10,
        retry_jitter=False,
        rate_limit="10/m",
        time_limit=timedelta(minutes=1),
        soft_time_limit=50,
        acks_late=True,
        ignore_result=True,
        name="named",
        queue="billing",
        priority=7,
    )(add)
    assert (task.retry_on, task.retries, [task.pause(n) for n in range(3)]) == (
        (OSError, KeyError),
        None,
        [4, 8, 10],
    )
    assert (task.rate, task.timeout, task.soft_timeout, task.queue) == ("10/m", 60, 50, "billing")
    assert (task.name, task.priority, task.acks_late, task.bind) == ("named", 7, True, True)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"CELERY_TASK_ALWAYS_EAGER": True}, ("task_always_eager", True)),
        ({"CELERY_ALWAYS_EAGER": True}, ("task_always_eager", True)),
        ({"CELERY_DEFAULT_QUEUE": "q"}, ("task_default_queue", "q")),
        ({"CELERYD_CONCURRENCY": 3}, ("worker_concurrency", 3)),
        ({"CELERY_RESULT_SERIALIZER": "json"}, ("result_serializer", "json")),
        ({"BROKER_URL": "memory://old"}, ("broker_url", "memory://old")),
        ({"result_expires": 60}, ("result_expires", 60)),
    ],
)
def test_settings_of_any_age(given, read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = app(**given)
    assert made.conf[read[0]] == getattr(made.conf, read[0]) == read[1]


def test_what_there_is_none_of_is_warned_of_and_goes_on():
    made = app()
    with pytest.warns(CelerySettingWarning, match="beat_schedule") as caught:
        made.conf.beat_schedule = {}
    assert caught[0].filename == __file__
    with pytest.warns(CelerySettingWarning, match="my_own"):
        made.conf.update(my_own=5)
    assert made.conf.my_own == 5
    with pytest.warns(CelerySettingWarning, match="priority_steps"):
        made.conf.broker_transport_options = {"priority_steps": [0, 5], "visibility_timeout": 60}
    assert made.visibility == 60
    with pytest.warns(CelerySettingWarning, match="colour"):
        task = made.task(colour="red")(add)
    assert task.colour == "red"
    with pytest.raises(AttributeError, match="no_such"):
        _ = made.conf.no_such


def test_settings_from_objects(monkeypatch, tmp_path):
    module = types.ModuleType("shop_config")
    module.__dict__.update(
        task_serializer="json", task_default_queue="fromconf", os=sys, helper=print, result_expires=5
    )
    monkeypatch.setitem(sys.modules, "shop_config", module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = app()
        made.config_from_object("shop_config")
        assert made.default_queue == "fromconf"
        module.SETTINGS = {"CELERY_TASK_DEFAULT_QUEUE": "spaced", "DEBUG": True}
        made.config_from_object("shop_config:SETTINGS", namespace="CELERY")
        assert made.default_queue == "spaced"
        made.config_from_object("no_such_module", silent=True)
    monkeypatch.setenv("SHOP", "shop_config")
    made.config_from_envvar("SHOP")
    assert made.default_queue == "fromconf"
    with pytest.raises(ModuleNotFoundError):
        made.config_from_object("no_such_module")


def test_routes_and_annotations():
    made = app(
        task_routes=({"shop.*": {"queue": "billing", "priority": 3}}, {"*": "rest"}),
        task_annotations={"*": {"rate_limit": "1/s"}, "shop.b": {"time_limit": 9}},
    )
    a = made.task(name="shop.a")(add)
    b = made.task(name="shop.b")(add)
    c = made.task(name="else.c")(add)
    for task in (a, b, c):
        task.delay(1, 2)
    assert (made.depth("billing"), made.depth("rest")) == (2, 1)
    assert (a.rate, a.timeout, b.rate, b.timeout) == ("1/s", None, "1/s", 9)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("disabled://", None),
        ("rpc", "rpc://"),
        ("db+postgresql+psycopg2://me:secret@host/db", "postgresql://me:***@host/db"),
        ("db+sqlite:///results.db", "sqlite:///results.db"),
        ("cache+memory://", "memory://"),
    ],
)
def test_the_addresses_of_results(given, kept):
    made = Celery("shop", broker="memory://")
    made.conf.result_backend = given
    assert made.results == kept


def test_eager_tasks_and_their_errors():
    made = app(task_always_eager=True)

    @made.task(bind=True, max_retries=1, default_retry_delay=0)
    def fail(self):
        assert current_task() is self
        self.retry()

    with pytest.raises(MaxRetriesExceededError):
        fail.delay().get()
    made.conf.task_eager_propagates = True
    with pytest.raises(MaxRetriesExceededError):
        fail.delay()


def test_a_base_class_is_told_of_what_happens():
    told = []

    class Told(Task):
        autoretry_for = (KeyError,)
        max_retries = 1
        default_retry_delay = 7

        def before_start(self, task_id, args, kwargs):
            told.append("start")

        def on_success(self, retval, task_id, args, kwargs):
            told.append(("success", retval))

        def on_retry(self, exc, task_id, args, kwargs, einfo):
            told.append(("retry", type(exc)))

        def on_failure(self, exc, task_id, args, kwargs, einfo):
            told.append(("failure", type(exc), "ValueError" in str(einfo)))

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            told.append(status)

    made = app(task_always_eager=True)
    failures = [KeyError("once")]

    @made.task(base=Told, bind=True)
    def work(self, then=None):
        if failures:
            raise failures.pop()
        if then:
            raise then
        return 5

    assert (work.retries, work.retry_delay) == (1, 7)
    assert work.delay().get() == 5
    assert told == ["start", ("retry", KeyError), "RETRY", "start", ("success", 5), "SUCCESS"]
    told.clear()
    assert work.delay(ValueError("no")).failed()
    assert told == ["start", ("failure", ValueError, True), "FAILURE"]


def test_a_task_with_hooks_alone_is_not_run_past_them():
    class Told(Task):
        def on_success(self, retval, task_id, args, kwargs):
            pass

    made = app()
    hooked = made.task(base=Told)(add)
    assert hooked.retry_on
    made.conf.task_acks_late = True
    assert hooked.retry_on
    assert hooked.acks_late
    assert not made.task(name="plain")(add).retry_on


@shared_task
def shared(n):
    """Double."""
    return 2 * n


def test_shared_tasks_belong_to_every_application():
    @shared_task(name="shop.mine", bind=True)
    def mine(self, n):
        return self.name, n

    first, second = app(task_always_eager=True), app(task_always_eager=True)
    assert "shop.mine" in first.tasks
    assert mine.delay(1).get() == ("shop.mine", 1)
    assert mine.app is second
    first.set_current()
    assert mine.app is first
    assert mine(2) == ("shop.mine", 2)
    assert current_app.main == "shop"
    assert signature("shop.mine", (3,)).delay().get() == ("shop.mine", 3)
    late = shared_task(name="shop.late")(add)
    assert late.delay(1, 2).get() == 3


def test_a_shared_task_is_the_function_and_pickled_by_name():
    app(task_always_eager=True)
    assert shared(4) == 8
    assert shared.__doc__ == "Double."
    assert pickle.loads(pickle.dumps(shared)) is shared
    assert shared.delay(4).get() == 8


def test_tasks_of_the_script_are_called_like_the_application():
    made = app()

    def task():
        pass

    task.__module__ = "__main__"
    assert made.task(task).name == "shop.task"
    assert made.gen_task_name("f", "__main__") == "shop.f"
    assert made.gen_task_name("f", "other") == "other.f"


def test_tasks_of_packages_are_found(tmp_path, monkeypatch):
    for package, has_tasks in (("shop_a", True), ("shop_b", False)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        if has_tasks:
            (tmp_path / package / "tasks.py").write_text(
                "from manyhands.celery import shared_task\n@shared_task\ndef found(): return 5\n"
            )
    monkeypatch.syspath_prepend(tmp_path)
    made = app(include=["os"])
    made.autodiscover_tasks(["shop_a", "shop_b"])
    assert made.include == ("os", "shop_a.tasks")
    made.autodiscover_tasks(["shop_a.apps.ShopConfig", "shop_a.tasks", "queue"])
    assert made.include == ("os", *["shop_a.tasks"] * 3)
    made.autodiscover_tasks(lambda: ["shop_a"], force=True)
    assert "shop_a.tasks.found" in made.tasks
    for module in ("shop_a", "shop_a.tasks"):
        sys.modules.pop(module, None)
    made.autodiscover_tasks(["shop_z"])
    with pytest.raises(ModuleNotFoundError, match=r"could not look for tasks in 'shop_z'.*\nhint: "):
        made.include  # noqa: B018


def test_what_there_is_not_yet_is_refused_and_not_dropped():
    made = app()
    task = made.task(add)
    with pytest.raises(TypeError, match="link"):
        task.apply_async((1, 2), link=task.s(3))
    assert made.depth() == 0


def test_a_task_that_expires_by_itself(monkeypatch):
    made = app(task_always_eager=False)
    seen = {}
    monkeypatch.setattr(made, "_send", lambda task, args, kwargs, options: seen.update(options))
    made.task(expires=timedelta(seconds=90))(add).apply_async((1, 2))
    assert seen == {"expires": 90.0}


def test_the_other_names():
    assert isinstance(get_task_logger("shop"), logging.Logger)
    for name in face.__all__:
        assert getattr(face, name) is not None
