"""Commands, that is programs of the machine, under the same policies and outcomes as functions."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, overload

from manyhands import _core
from manyhands._child import Child, to_its_end
from manyhands._core import Outcome, Policy
from manyhands._environment import variables
from manyhands.errors import ManyhandsError
from manyhands.executors.async_ import AsyncExecutor
from manyhands.maps import MapIterator, map

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from manyhands.executors.base import AttemptOptions

    class CommandMapOptions(AttemptOptions, total=False):
        """The options that `map_commands` has from `map`, for type checkers."""

        ordered: bool
        buffersize: int | None
        progress: bool | str


__all__ = ["CommandFailed", "map_commands", "run_command"]

_Argument: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
_Arguments: TypeAlias = Sequence[_Argument]
_SHOWN = 80  # characters of a command, in a message
_TAIL = 10  # lines of standard error, in a message
_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL: enough to remove a temporary file, short enough to wait for."""

# What may go better another time: that a program is not there does not.
_WORTH_A_RETRY = (subprocess.CalledProcessError, TimeoutError)


class CommandFailed(ManyhandsError, subprocess.CalledProcessError):
    """The command ended with an exit code other than 0, or by a signal.

    A ``subprocess.CalledProcessError``, so its fields are the same; its text has the last lines of what the
    command wrote to its standard error.

    Attributes:
        cmd: The command, as it was given.
        returncode: The exit code; negative for the signal that ended it.
        stdout: What it wrote, as str or bytes.
        stderr: What it wrote to its standard error.
    """

    def __str__(self) -> str:
        """How it ended, and the tail of its standard error."""
        how = f"with exit code {self.returncode}" if self.returncode >= 0 else f"by {self._signal()}"
        stderr = self.stderr.decode(errors="replace") if isinstance(self.stderr, bytes) else self.stderr or ""
        lines = stderr.rstrip().splitlines()[-_TAIL:]
        return "\n".join([f"`{_shown(self.cmd)}` ended {how}", *(f"  {line}" for line in lines)])

    def _signal(self) -> str:
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"


@overload
def run_command(
    command: _Arguments,
    /,
    *,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: Literal[True] = True,
    grace: float = _GRACE,
    **options: Unpack[AttemptOptions],
) -> subprocess.CompletedProcess[str]: ...
@overload
def run_command(
    command: _Arguments,
    /,
    *,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: Literal[False],
    grace: float = _GRACE,
    **options: Unpack[AttemptOptions],
) -> subprocess.CompletedProcess[bytes]: ...
def run_command(
    command: _Arguments,
    /,
    *,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: bool = True,
    grace: float = 5.0,
    **options: Unpack[AttemptOptions],
) -> subprocess.CompletedProcess[Any]:
    r"""Run a command, wait for its end, and return its exit code and output.

    The command gets a process group of its own. At its time limit, and on Ctrl-C, the whole group is
    ended: with SIGTERM, and after `grace` seconds with SIGKILL. So what the command started ends with it,
    except for processes that made a group for themselves, as daemons do. Like ``subprocess.run``, it waits
    until nobody holds the command's output open any more.

    Args:
        command: The program and its arguments. There is no shell between.
        input: What the command reads from its standard input; without, it finds that at its end.
        check: Raise `CommandFailed` if the exit code is not 0; otherwise return it as it is.
        cwd: The directory to run it in.
        env: All of its environment variables; by default those that ``os.environ`` has when it is started.
        text: Return output as str, from UTF-8, with what is none replaced by U+FFFD; otherwise as bytes.
        grace: Seconds to end in, once it is told to.
        **options: timeout, total_timeout, retries, retry_on, backoff, max_backoff and rate, as for `Policy`.
            By default a retry follows a `CommandFailed` and a `TaskTimeout`.

    Returns:
        A ``subprocess.CompletedProcess``, with `args`, `returncode`, `stdout` and `stderr`.

    Raises:
        CommandFailed: It ended with another exit code than 0, after all retries; has the output.
        TaskTimeout: It ran longer than `timeout`.
        FileNotFoundError: There is no such program, or no such directory `cwd`.
        PermissionError: The file may not be executed.
        TypeError: `command` is one str, or has arguments that are neither str, bytes nor paths.

    Example:
        >>> import manyhands as mh
        >>> mh.run_command(["sort", "-r"], input="a\nb\n", timeout=10).stdout
        'b\na\n'
    """
    run = _Command(input=input, check=check, cwd=cwd, env=env, text=text, grace=grace, name=_shown(command))
    options.setdefault("retry_on", _WORTH_A_RETRY)
    # Leaving the block waits until a command that was stopped has ended.
    with AsyncExecutor(concurrency=1, name="command") as pool:
        future = pool.with_policy(Policy(**options)).submit(run, command)
        try:
            return future.result()
        finally:
            future.cancel()


@overload
def map_commands(
    commands: Iterable[_Arguments],
    /,
    *,
    on_error: Literal["return"],
    workers: int | None = None,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: Literal[True] = True,
    grace: float = _GRACE,
    **options: Unpack[CommandMapOptions],
) -> MapIterator[Outcome[subprocess.CompletedProcess[str]]]: ...
@overload
def map_commands(
    commands: Iterable[_Arguments],
    /,
    *,
    on_error: Literal["return"],
    workers: int | None = None,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: Literal[False],
    grace: float = _GRACE,
    **options: Unpack[CommandMapOptions],
) -> MapIterator[Outcome[subprocess.CompletedProcess[bytes]]]: ...
@overload
def map_commands(
    commands: Iterable[_Arguments],
    /,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: Literal[True] = True,
    grace: float = _GRACE,
    **options: Unpack[CommandMapOptions],
) -> MapIterator[subprocess.CompletedProcess[str]]: ...
@overload
def map_commands(
    commands: Iterable[_Arguments],
    /,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: Literal[False],
    grace: float = _GRACE,
    **options: Unpack[CommandMapOptions],
) -> MapIterator[subprocess.CompletedProcess[bytes]]: ...
def map_commands(
    commands: Iterable[_Arguments],
    /,
    *,
    on_error: Literal["raise", "return", "skip"] = "raise",
    workers: int | None = None,
    input: str | bytes | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: bool = True,
    grace: float = 5.0,
    **options: Unpack[CommandMapOptions],
) -> MapIterator[Any]:
    r"""Return a lazy iterator over what `run_command` returns for every command, run several at a time.

    Like `map`, it reads `commands` only as its results are taken, and stops what is running when it is left.
    All commands together are looked after by one thread.

    Args:
        commands: The commands, each a program with its arguments.
        on_error: As for `map`: "raise", "return" outcomes, or "skip".
        workers: How many commands run at once; by default as many as there are processors.
        input: As for `run_command`, and the same for each; so are the five that follow.
        check: See there.
        cwd: See there.
        env: See there.
        text: See there.
        grace: See there.
        **options: timeout, total_timeout, retries, retry_on, backoff, max_backoff, rate, ordered, buffersize
            and progress, as for `map`. By default a retry follows a `CommandFailed` and a `TaskTimeout`; it
            may begin while the attempt before is in its grace.

    Raises:
        TypeError: An option that does not exist, or `commands` is one command as a str.
        ValueError: An option out of its range.

    Example:
        >>> import manyhands as mh
        >>> [done.stdout for done in mh.map_commands([["echo", "a"], ["echo", "b"]], workers=2)]
        ['a\n', 'b\n']
        >>> [outcome.ok for outcome in mh.map_commands([["true"], ["false"]], on_error="return")]
        [True, False]
    """
    if isinstance(commands, str | bytes):
        raise TypeError(
            f"could not run {commands!r}: found {type(commands).__name__}, expected an iterable of commands, "
            "each a list of arguments"
        )
    for name in ("on", "seed"):
        if name in options:
            raise TypeError(f"could not run commands: found the option {name!r}, which is for functions only")
    run: Any = _Command(input=input, check=check, cwd=cwd, env=env, text=text, grace=grace, name="command")
    options.setdefault("retry_on", _WORTH_A_RETRY)
    workers = _core.available_processors() if workers is None else workers
    terms: Any = {**options, "on_error": on_error, "workers": workers, "on": "async"}
    values: MapIterator[Any] = map(run, commands, **terms)
    return values


class _Command:
    """What runs commands, all on the same terms: a coroutine function of the command."""

    def __init__(
        self,
        *,
        input: str | bytes | None,
        check: bool,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
        text: bool,
        grace: float,
        name: str,
    ) -> None:
        if grace < 0:
            raise ValueError(f"could not use `grace`: found {grace:g}, expected 0 or more seconds")
        if input is not None and not isinstance(input, str | bytes):
            raise TypeError(f"could not use `input`: found {type(input).__name__}, expected str or bytes")
        self._input = input.encode() if isinstance(input, str) else input
        self._check, self._cwd, self._env, self._text, self._grace = check, cwd, env, text, grace
        self.__name__ = self.__qualname__ = name

    async def __call__(self, command: _Arguments) -> subprocess.CompletedProcess[Any]:
        """Run a command to its end; when cancelled, stop it."""
        loop = asyncio.get_running_loop()
        child = Child(loop, self._start(_checked(command)), self._input)
        try:
            await child.over()
        except asyncio.CancelledError:
            await to_its_end(child.stop(self._grace))
            raise
        finally:
            child.release()
        stdout, stderr = (self._told(output) for output in child.outputs())
        if self._check and child.returncode:
            raise CommandFailed(child.returncode, command, stdout, stderr)
        return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)

    def _start(self, command: list[_Argument]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if self._input is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._cwd,
                env=variables() if self._env is None else self._env,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            _explain(error, command, self._cwd)

    def _told(self, output: bytes) -> str | bytes:
        """Output as text, its line ends as ``subprocess`` has them; what is no UTF-8 is no error."""
        if not self._text:
            return output
        return output.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _checked(command: Any) -> list[_Argument]:
    """The command, if it is one."""
    if isinstance(command, str | bytes):
        raise TypeError(
            f"could not run {command!r}: found {type(command).__name__}, expected a list of arguments\n"
            'hint: ["program", "argument"], shlex.split(…), or ["sh", "-c", …] for what needs a shell'
        )
    try:
        arguments = list(command)
    except TypeError:
        raise TypeError(f"could not run {command!r}: expected a list of arguments") from None
    if not arguments:
        raise ValueError("could not run a command: found an empty list, expected a program and its arguments")
    for argument in arguments:
        if not isinstance(argument, str | bytes | os.PathLike):
            raise TypeError(
                f"could not run {command!r}: found the argument {argument!r} of type "
                f"{type(argument).__name__}, expected str, bytes or a path"
            )
    return arguments


def _explain(error: OSError, command: list[_Argument], cwd: str | os.PathLike[str] | None) -> NoReturn:
    """Raise the same error, in words that say what is missing."""
    program = missing = os.fsdecode(command[0])
    if cwd is not None and not Path(cwd).is_dir():
        reason, missing = f"found no directory {os.fspath(cwd)!r} to run it in", os.fspath(cwd)
    elif isinstance(error, FileNotFoundError) and Path(program).exists() and os.sep in program:
        reason = "found no interpreter of the name in its first line"
    elif isinstance(error, FileNotFoundError):
        reason = "found no such file" if os.sep in program else "found no such program on the PATH"
    elif isinstance(error, PermissionError):
        reason = "found a file that may not be executed"
    elif error.errno == errno.ENOEXEC:
        reason = "found neither a program of this machine nor a script whose first line begins with #!"
    else:
        reason = error.strerror or str(error)
    raise type(error)(error.errno, f"could not run `{_shown(command)}`: {reason}", missing) from None


def _shown(command: object) -> str:
    """A command as one types it, cut to what fits a line."""
    try:
        text = shlex.join(os.fsdecode(part) for part in command)  # type: ignore[attr-defined]
    except TypeError:
        text = repr(command)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
