"""What holds on every cluster, of which each has its fixture `pool`: the same face, the same policies."""

import asyncio
import concurrent.futures

import pytest
from calls import CALLER, add_on_loop, caller, die_until, draw, draw_on_loop, fail_until, identity, note

import manyhands as mh


class TheFace:
    """Mixed into a test class."""

    def test_an_executor_and_its_futures_are_of_the_usual_kind(self, pool):
        assert isinstance(pool, concurrent.futures.Executor)
        future = pool.submit(pow, 2, 10)
        assert type(future) is mh.Future
        assert future.result() == 1024

    def test_plain_functions_coroutine_functions_and_closures(self, pool):
        offset = 3
        assert pool.submit(add_on_loop, 1, right=2).result() == 3
        assert pool.submit(lambda number: number + offset, 4).result() == 7

    def test_maps(self, pool):
        assert list(pool.map(pow, [2, 3], [3, 2])) == [8, 9]
        assert list(mh.map(abs, range(-50, 0), on=pool)) == list(range(50, 0, -1))
        outcomes = list(mh.map(int, ["1", "x"], on=pool, on_error="return"))
        assert [outcome.ok for outcome in outcomes] == [True, False]

    @pytest.mark.parametrize("function", [draw, draw_on_loop])
    def test_an_item_draws_the_same_numbers_as_elsewhere(self, pool, function):
        drawn = list(mh.map(draw, range(5), seed=7))
        assert list(mh.map(function, range(5), on=pool, seed=7)) == drawn
        with pytest.raises(LookupError, match="there is no item with a seed here"):
            pool.submit(function, 0).result()

    def test_context_variables_stay_here(self, pool):
        CALLER.set("somebody")
        assert pool.submit(caller).result() == "nobody"

    def test_groups(self, pool):
        with mh.TaskGroup(pool) as group:
            futures = [group.submit(abs, -n) for n in range(3)]
        assert [future.result() for future in futures] == [0, 1, 2]

    def test_a_future_can_be_awaited(self, pool):
        async def main():
            return await pool.submit(abs, -1)

        assert asyncio.run(main()) == 1

    @pytest.mark.parametrize("value", [(abs, -1), [(sum, [1, 2])], "x", {"a": (len, "ab")}, None])
    def test_arguments_arrive_as_they_are(self, pool, value):
        assert pool.submit(identity, value).result() == value

    def test_statistics(self, pool):
        before = pool.statistics()
        with pytest.raises(ArithmeticError):
            pool.submit(divmod, 1, 0).result()
        pool.submit(abs, 1).result()
        after = pool.statistics()
        assert after.submitted - before.submitted == 2
        assert after.succeeded - before.succeeded == 1
        assert after.failed - before.failed == 1


class Policies:
    """Mixed into a test class."""

    def test_what_fails_is_repeated(self, pool, tmp_path):
        failing = pool.with_policy(retries=2, backoff=0.01).submit(fail_until, tmp_path / "tries", 3)
        assert failing.result() == 3

    def test_a_task_whose_worker_died_is_repeated(self, pool, tmp_path):
        patient = pool.with_policy(retries=1, backoff=0)
        assert patient.submit(die_until, tmp_path / "tries", 2).result() == "alive"
        assert note(tmp_path / "tries") == 3

    def test_unless_its_policy_takes_deaths_for_hopeless(self, pool, tmp_path):
        choosy = pool.with_policy(retries=1, retry_on=ArithmeticError)
        with pytest.raises(mh.WorkerDied):
            choosy.submit(die_until, tmp_path / "tries", 2).result()
        assert note(tmp_path / "tries") == 2
