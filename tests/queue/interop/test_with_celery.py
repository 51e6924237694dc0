"""Celery and we on one broker: what the one sends the other runs, and the sender reads what came of it."""

import time
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from watching import eventually, has_ended

# Several programs and a server are started before the first.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SERIALIZERS = ("json", "msgpack", "yaml", "pickle")
VALUE = {"text": "grüße", "numbers": [1, -2.5, 10**9], "nested": {"none": None, "yes": True}}


def test_a_plain_call(way):
    assert way.get("add", 2, 3) == 5


def test_keyword_arguments(way):
    assert way.get("add", 2, kwargs={"b": 40}) == 42


def test_delay_is_the_same_call_to_the_own_queue(system):
    for side in ("theirs", "ours"):
        assert system.apps[side].tasks["interop.add"].delay(20, b=22).get(timeout=40) == 42


def test_hundreds_in_flight(way):
    results = [way.send("add", number, 1) for number in range(300)]
    assert [result.get(timeout=40) for result in results] == list(range(1, 301))


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "zstd"])
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_each_serializer_and_compression(way, serializer, compression):
    result = way.send("echo", VALUE, kwargs={"again": VALUE}, serializer=serializer, compression=compression)
    assert result.get(timeout=40) == [[VALUE], {"again": VALUE}]


def test_values_that_json_does_not_have(way):
    values = [
        datetime(2026, 11, 21, 10, 30, tzinfo=timezone(timedelta(hours=2))),
        date(2026, 11, 21),
        Decimal("3.140"),
        UUID("12345678123456781234567812345678"),
        b"bytes",
        b"\xff\x00",
    ]
    assert way.get("echo", *values) == [values, {}]


def test_a_countdown_is_waited_for(way, tmp_path):
    began = time.time()
    assert way.get("nap", str(tmp_path / "ran"), countdown=1) >= began + 1


def test_an_eta_arrives_as_it_was_given(way):
    eta = datetime.now(timezone.utc) + timedelta(milliseconds=200)
    assert datetime.fromisoformat(way.get("about", eta=eta)["eta"]) == eta


def test_what_comes_too_late_is_not_run(way, tmp_path):
    result = way.send("nap", str(tmp_path / "ran"), countdown=1.0, expires=0.3)
    with pytest.raises(Exception, match="expired") as caught:
        result.get(timeout=40)
    assert type(caught.value).__name__ in ("TaskRevokedError", "TaskRevoked")
    assert result.state == "REVOKED"
    assert not (tmp_path / "ran").exists()


def test_what_does_not_come_too_late_is_run(way):
    assert way.get("about", expires=3600)["expires"] is not None


@pytest.mark.parametrize("by", ["theirs", "ours"])
def test_a_task_that_was_revoked_is_not_run(way, by, tmp_path):
    assert way.get("add", 1, 1) == 2  # a worker hears of revocations from its first task on
    result = way.send("nap", str(tmp_path / "ran"), countdown=3)
    app = way.system.apps[by]
    app.revoke(result.id) if by == "ours" else app.control.revoke(result.id)
    with pytest.raises(Exception, match="revoked"):
        result.get(timeout=40)
    assert result.state == "REVOKED"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("by", ["theirs", "ours"])
def test_a_task_that_runs_is_ended_when_it_is_terminated(way, by, tmp_path):
    result = way.send("linger", str(tmp_path / "ran"))
    eventually(lambda: (tmp_path / "ran").exists() and (tmp_path / "ran").read_text().endswith("ran"))
    app = way.system.apps[by]
    revoke = app.revoke if by == "ours" else app.control.revoke
    revoke(result.id, terminate=True)
    # As long as nothing is stored, a worker of Celery's stores "revoked", whoever may have the task.
    with pytest.raises(Exception, match=r"terminated|revoked"):
        result.get(timeout=40)
    assert result.state == "REVOKED"
    pid = (tmp_path / "ran").read_text().split()[0]
    eventually(lambda: has_ended(pid))
    assert way.get("add", 1, 1) == 2


def test_retries_are_counted(way):
    assert way.get("retry", 3) == 3


def test_who_runs_out_of_retries_has_failed_with_the_last_error(way):
    with pytest.raises(KeyError, match="out of patience"):
        way.get("give_up")


def test_an_error_arrives_with_its_traceback(way):
    result = way.send("fail", "no such thing")
    with pytest.raises(ValueError, match="no such thing") as caught:
        result.get(timeout=40)
    assert caught.value.args == ("no such thing", 7)
    assert result.state == "FAILURE"
    assert "in fail" in result.traceback
    assert "ValueError" in result.traceback


def test_an_error_whose_class_the_sender_lacks_bears_its_name(way):
    result = way.send("fail_oddly")
    with pytest.raises(Exception, match="nobody else has this class"):
        result.get(timeout=40)
    assert "Odd" in result.traceback


def test_a_priority_arrives(way):
    assert way.get("about", priority=5)["priority"] == 5
    assert not way.get("about")["priority"]


def test_limits_headers_and_ids_arrive(way):
    id = str(uuid4())
    found = way.get("about", task_id=id, time_limit=30, soft_time_limit=20, headers={"x-tenant": "acme"})
    assert found["id"] == found["root_id"] == id
    assert found["timelimit"] == [30, 20]
    assert found["tenant"] == "acme"


def test_an_ignored_result_is_not_stored(way, tmp_path):
    result = way.send("note", str(tmp_path / "ran"))
    eventually((tmp_path / "ran").exists)
    assert way.get("add", 1) == 1  # whatever comes after it is stored after it
    assert result.state == "PENDING"


def test_a_task_that_nobody_has_breaks_no_worker(system):
    for sender, worker in (("theirs", "ours"), ("ours", "theirs")):
        system.apps[sender].send_task("interop.nobody_has_this", queue=worker)
        assert system.apps[sender].tasks["interop.add"].apply_async((1, 1), queue=worker).get(timeout=40) == 2


def test_the_one_reads_what_the_other_has_stored(system):
    if system.broker == "rabbit":
        pytest.skip("a result that is a message is for its sender alone")
    theirs, ours = system.apps["theirs"], system.apps["ours"]
    sent = theirs.tasks["interop.add"].apply_async((4, 5), queue="theirs")
    assert ours.result(sent.id).get(timeout=40) == 9
    sent = ours.tasks["interop.fail"].apply_async(("as it was",), queue="ours")
    with pytest.raises(ValueError, match="as it was"):
        theirs.AsyncResult(sent.id).get(timeout=40)
