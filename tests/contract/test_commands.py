"""Commands: what they give back, what they fail with, and that nothing of them is left."""

import contextlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually, has_ended


def shell(script, *arguments):
    return ["sh", "-c", script, "sh", *map(str, arguments)]


def pids_in(file, number):
    """The processes that a command has noted in a file, once there are so many."""
    written = file.read_text().split("\n")[:-1] if file.exists() else []
    return [int(line) for line in written] if len(written) >= number else None


def children():
    found = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found += map(int, (thread / "children").read_text().split())
    return found


def stop_when(condition, commands, **options):
    """Start commands, and leave their map as soon as the condition holds."""
    with mh.map_commands([["true"], *commands], workers=len(commands) + 1, **options) as values:
        next(values)  # from then on all are running
        eventually(condition)


# A family: the shell, a child of it and a grandchild, all noted in the file "$1".
FAMILY = """
    sh -c 'sleep 1000 & echo $! >> "$1"; echo $$ >> "$1"; wait' sh "$1" &
    echo $$ >> "$1"
    wait
"""


class TestWhatComesBack:
    def test_the_standard_librarys_record_of_a_completed_process(self):
        done = mh.run_command(shell("echo out; echo err >&2"))
        assert type(done) is subprocess.CompletedProcess
        assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")
        assert done.args[:2] == ["sh", "-c"]

    def test_text_has_the_line_ends_of_subprocess_and_survives_what_is_no_utf_8(self):
        done = mh.run_command(["printf", r"a\r\nb\rc\303\244\377"])
        assert done.stdout == "a\nb\ncä�"

    def test_bytes_are_left_alone(self):
        done = mh.run_command(["printf", r"a\r\n\377"], text=False)
        assert (done.stdout, done.stderr) == (b"a\r\n\xff", b"")

    @pytest.mark.parametrize("text", [True, False])
    def test_input_larger_than_a_pipe_goes_in_while_output_comes_out(self, text):
        data = "0123456789abcdef" * (1 << 16)
        done = mh.run_command(["cat"], input=data if text else data.encode(), text=text)
        assert done.stdout == (data if text else data.encode())

    def test_a_command_need_not_read_its_input(self):
        assert mh.run_command(["true"], input="x" * (1 << 20)).returncode == 0

    @pytest.mark.parametrize("given", [None, ""])
    def test_without_input_a_command_reads_nothing(self, given):
        assert mh.run_command(["cat"], input=given).stdout == ""

    def test_directory_and_environment(self, tmp_path):
        done = mh.run_command(shell('pwd; echo "$WORD"'), cwd=tmp_path, env={"WORD": "here"})
        assert done.stdout == f"{tmp_path.resolve()}\nhere\n"

    def test_by_default_the_environment_is_a_copy_of_this_moments(self, monkeypatch):
        # The C library's list, which alone `os.putenv` changes, may move while a program is started.
        monkeypatch.setenv("WORD", "ours")
        os.putenv("WORD", "the C library's")
        assert mh.run_command(shell('echo "$WORD"')).stdout == "ours\n"
        commands = mh.map_commands([shell('echo "$WORD"')] * 2, workers=1)
        monkeypatch.setenv("WORD", "new")
        assert [done.stdout for done in commands] == ["new\n"] * 2

    def test_a_variable_may_go_while_the_environment_is_copied(self, monkeypatch):
        class Changing(dict):
            def keys(self):
                return [*super().keys(), "GONE"]

            def __iter__(self):
                return iter(self.keys())

        monkeypatch.setattr(os, "environ", Changing(os.environ, WORD="here"))
        assert mh.run_command(shell('echo "$WORD"')).stdout == "here\n"
        with mh.ProcessExecutor(1) as pool:
            assert pool.submit(os.getenv, "WORD").result() == "here"

    def test_arguments_may_be_bytes_and_paths(self, tmp_path):
        (tmp_path / "page").write_text("words")
        assert mh.run_command((b"cat", tmp_path / "page")).stdout == "words"

    def test_output_is_waited_for_until_nobody_holds_it_open(self):
        assert mh.run_command(shell("(sleep 0.2; echo late) & echo early")).stdout == "early\nlate\n"


class TestFailures:
    def test_an_exit_code_is_an_error_with_the_tail_of_stderr(self):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            mh.run_command(shell("seq 100 >&2; echo told; exit 3"))
        error = caught.value
        assert isinstance(error, mh.CommandFailed)
        assert (error.returncode, error.stdout, error.stderr.split()[0]) == (3, "told\n", "1")
        assert (
            str(error).splitlines()[0] == "`sh -c 'seq 100 >&2; echo told; exit 3' sh` ended with exit code 3"
        )
        assert str(error).split()[-10:] == [str(number) for number in range(91, 101)]

    def test_a_signal_has_its_name(self):
        with pytest.raises(mh.CommandFailed, match="by SIGKILL") as caught:
            mh.run_command(shell("kill -9 $$"), text=False)
        assert (caught.value.returncode, caught.value.stderr) == (-signal.SIGKILL, b"")

    def test_a_signal_without_a_name_has_its_number(self):
        assert str(mh.CommandFailed(-99, ["x"])) == "`x` ended by signal 99"

    def test_unchecked_the_exit_code_is_only_told(self):
        assert mh.run_command(["false"], check=False).returncode == 1

    def test_a_failure_pickles_with_its_fields(self):
        error = pickle.loads(pickle.dumps(mh.CommandFailed(2, ["a", "b c"], "out", "err")))
        assert (error.returncode, error.cmd, error.stdout, error.stderr) == (2, ["a", "b c"], "out", "err")
        assert str(error) == "`a 'b c'` ended with exit code 2\n  err"

    @pytest.mark.parametrize(
        ("command", "kind", "words"),
        [
            (["no-such-program", "x"], FileNotFoundError, "program x`: found no such program on the PATH"),
            (["/no/such/program"], FileNotFoundError, "found no such file"),
            (["/etc"], PermissionError, "found a file that may not be executed"),
            ("ls -l", TypeError, r"could not run 'ls -l': found str, expected a list of arguments\nhint: \["),
            (b"ls", TypeError, "found bytes, expected a list"),
            (7, TypeError, "could not run 7: expected a list of arguments"),
            ([], ValueError, "found an empty list"),
            (["sleep", 3], TypeError, "found the argument 3 of type int, expected str, bytes or a path"),
            (["echo", "a\0b"], ValueError, "null"),
        ],
    )  # fmt: skip
    def test_what_is_no_command_says_why(self, command, kind, words):
        with pytest.raises(kind, match=words):
            mh.run_command(command)
        (outcome,) = mh.map_commands([command], on_error="return", retries=3)
        assert type(outcome.exception) is kind
        assert outcome.attempts == 1

    def test_a_script_without_its_interpreter_and_a_file_that_is_no_program(self, tmp_path):
        script, nonsense = tmp_path / "script", tmp_path / "nonsense"
        script.write_text("#!/no/such/interpreter\n")
        nonsense.write_bytes(b"\0\1\2")
        for file in (script, nonsense):
            file.chmod(0o755)
        with pytest.raises(FileNotFoundError, match="found no interpreter of the name in its first line"):
            mh.run_command([script])
        with pytest.raises(OSError, match=r"could not run `.*nonsense`: found neither"):
            mh.run_command([nonsense])

    def test_a_directory_that_is_not_there(self, tmp_path):
        missing = tmp_path / "moon"
        with pytest.raises(FileNotFoundError, match=r"found no directory '.*moon' to run it in") as caught:
            mh.run_command(["true"], cwd=missing)
        assert caught.value.filename == str(missing)

    def test_nonsense_in_the_options(self):
        with pytest.raises(ValueError, match="`grace`: found -1"):
            mh.run_command(["true"], grace=-1)
        with pytest.raises(TypeError, match="`input`: found int"):
            mh.run_command(["true"], input=1)
        with pytest.raises(TypeError, match="speed"):
            mh.run_command(["true"], speed=3)
        with pytest.raises(TypeError, match="'seed', which is for functions only"):
            mh.map_commands([["true"]], seed=3)
        with pytest.raises(TypeError, match="'speed', expected one of"):
            mh.map_commands([["true"]], speed=3)
        with pytest.raises(TypeError, match="found str, expected an iterable of commands"):
            mh.map_commands("ls")

    def test_a_failure_is_tried_again(self, tmp_path):
        third_time = shell('echo x >> "$1"; [ $(wc -l < "$1") -ge 3 ]', tmp_path / "tries")
        assert mh.run_command(third_time, retries=2, backoff=0.01).returncode == 0
        assert (tmp_path / "tries").read_text() == "x\n" * 3


class TestStopping:
    def test_at_the_limit_the_whole_family_ends(self, tmp_path):
        for number in itertools.count():
            file = tmp_path / str(number)
            with pytest.raises(mh.TaskTimeout, match="ran longer than its limit") as caught:
                mh.run_command(shell(FAMILY, file), timeout=0.2 * 2**number)
            if pids := pids_in(file, 3):  # else the machine was too busy for them to begin
                break
        assert caught.value.task.startswith("sh -c")
        # The leader is reaped already; the others get their signal before that.
        assert has_ended(pids[0])
        eventually(lambda: all(map(has_ended, pids)))

    def test_it_is_asked_before_it_is_forced(self, tmp_path):
        polite = shell('trap \'echo tidied > "$1"; exit\' TERM; echo x > "$2"; while :; do sleep 0.01; done',
                       tmp_path / "tidied", tmp_path / "ready")  # fmt: skip
        stop_when((tmp_path / "ready").exists, [polite], grace=1000)
        eventually((tmp_path / "tidied").exists)

    def test_what_ignores_the_question_is_forced(self, tmp_path):
        file = tmp_path / "pids"
        stop_when(lambda: pids_in(file, 3), [shell(f"trap '' TERM; {FAMILY}", file)], grace=0.05)
        eventually(lambda: all(map(has_ended, pids_in(file, 3))))

    def test_a_grandchild_that_ignores_the_question_ends_with_its_family(self, tmp_path):
        file = tmp_path / "pids"
        stubborn = shell('sh -c \'trap "" TERM; echo $$ >> "$1"; exec sleep 1000\' sh "$1" & wait', file)
        stop_when(lambda: pids_in(file, 1), [stubborn], grace=0.05)
        eventually(lambda: all(map(has_ended, pids_in(file, 1))))

    def test_a_failure_stops_the_other_commands(self, tmp_path):
        file = tmp_path / "pids"
        fails = shell('until [ $(wc -l < "$1") -ge 3 ]; do sleep 0.01; done; exit 4', file)
        file.touch()
        with pytest.raises(mh.CommandFailed, match="exit code 4"):
            list(mh.map_commands([fails, shell(FAMILY, file)], workers=2))
        eventually(lambda: all(map(has_ended, pids_in(file, 3))))

    @pytest.mark.parametrize("call", ["mh.run_command(family)", "list(mh.map_commands([family]))"])
    def test_ctrl_c_ends_the_family(self, tmp_path, call):
        file = tmp_path / "pids"
        program = f"import sys, manyhands as mh\nfamily = sys.argv[1:]\n{call}"
        parent = subprocess.Popen(
            [sys.executable, "-c", program, *shell(FAMILY, file)], stderr=subprocess.PIPE, text=True
        )
        pids = eventually(lambda: pids_in(file, 3))
        parent.send_signal(signal.SIGINT)
        _, stderr = parent.communicate()
        assert stderr.splitlines()[-1] == "KeyboardInterrupt"
        assert stderr.count("Traceback") == 1
        eventually(lambda: all(map(has_ended, pids)))

    def test_the_interpreters_exit_waits_for_commands_that_are_being_stopped(self, tmp_path):
        program = textwrap.dedent(
            """
            import itertools, os, sys, time, manyhands as mh
            ready, tidied = sys.argv[1:]
            script = 'trap "sleep 0.2; echo x > $2; exit" TERM; echo x > $1; while :; do sleep 0.01; done'
            commands = mh.map_commands([["sh", "-c", script, "sh", ready, tidied]], on_error="return")
            import threading
            def leave():
                while not os.path.exists(ready):
                    time.sleep(0.01)
                os.kill(os.getpid(), 2)
            threading.Thread(target=leave, daemon=True).start()
            try:
                list(commands)
            except KeyboardInterrupt:
                pass
            """
        )
        subprocess.run([sys.executable, "-c", program, tmp_path / "ready", tmp_path / "tidied"], check=True)
        assert (tmp_path / "tidied").exists()


class TestMaps:
    def test_results_come_in_the_order_of_the_commands(self):
        commands = [shell(f"sleep {pause}; echo {pause}") for pause in (0.2, 0.1, 0)]
        assert [done.stdout for done in mh.map_commands(commands, workers=3)] == ["0.2\n", "0.1\n", "0\n"]

    def test_or_as_they_end(self, tmp_path):
        waits = shell('until [ -e "$1" ]; do sleep 0.01; done; echo first', tmp_path / "go")
        values = mh.map_commands([waits, shell("echo second")], workers=2, ordered=False)
        assert next(values).stdout == "second\n"
        (tmp_path / "go").touch()
        assert next(values).stdout == "first\n"

    def test_so_many_run_at_once_and_no_more(self, tmp_path):
        script = 'touch "$1/$$"; ls "$1" | wc -l; sleep 0.02; rm "$1/$$"'
        seen = [int(done.stdout) for done in mh.map_commands([shell(script, tmp_path)] * 20, workers=3)]
        assert max(seen) <= 3

    def test_outcomes_have_the_command_and_its_error(self):
        commands = [["true"], ["false"], ["sleep", "1000"]]
        outcomes = list(mh.map_commands(commands, workers=3, timeout=1, on_error="return"))
        assert [outcome.input for outcome in outcomes] == commands
        kinds = [type(outcome.exception) for outcome in outcomes]
        assert kinds == [type(None), mh.CommandFailed, mh.TaskTimeout]

    def test_failures_may_be_skipped(self):
        values = mh.map_commands([["false"], ["echo", "x"]], on_error="skip")
        assert [done.stdout for done in values] == ["x\n"]
        assert values.summary().failures == {"CommandFailed": 1}

    def test_commands_are_read_only_as_results_are_taken(self):
        with mh.map_commands((["echo", str(n)] for n in itertools.count()), workers=2) as values:
            assert [next(values).stdout for _ in range(5)] == ["0\n", "1\n", "2\n", "3\n", "4\n"]

    def test_one_thread_looks_after_all_commands(self, tmp_path):
        before = {*threading.enumerate()}
        file = tmp_path / "pids"
        seen = []

        def all_run():
            seen.append(len({*threading.enumerate()} - before))
            return pids_in(file, 20)

        stop_when(all_run, [shell('echo $$ >> "$1"; exec sleep 1000', file)] * 20)
        assert max(seen) == 1
        eventually(lambda: all(map(has_ended, pids_in(file, 20))))


def test_nothing_leaks():
    strangers = {*children()}  # of other tests: a zygote

    def run_all():
        mh.run_command(["true"])
        mh.run_command(["cat"], input="x" * 100_000)
        commands = [["true"], ["false"], ["no-such-program"], ["sleep", "1000"], "nonsense"]
        list(mh.map_commands(commands, timeout=0.05, on_error="return", workers=5))
        eventually(lambda: not {*children()} - strangers)
        eventually(lambda: not any(thread.name.startswith("map") for thread in threading.enumerate()))

    run_all()
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        run_all()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
