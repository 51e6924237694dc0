"""`manyhands map`: a Python function over the rows of a file."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from manyhands.cli.books import Place, Terms, open_books
from manyhands.cli.function import Target, load
from manyhands.cli.problem import Problem, say
from manyhands.cli.report import Summary
from manyhands.cli.rows import INPUT_FORMATS, OUTPUT_FORMATS, input_format, output_format
from manyhands.cli.run import INTERRUPTED, Job, Run, keep_stdout_for_results
from manyhands.cli.units import duration, failure_budget, model, rate
from manyhands.executors import MODELS

# Passed on to `manyhands.map` when they are given, under the same names.
MAP_OPTIONS = ("workers", "timeout", "total_timeout", "retries", "backoff", "rate")

EPILOG = """\b
Exit codes: 0 every row is done; 1 rows failed, or the run stopped early;
2 wrong usage or unreadable input; 130 interrupted.
"""


@click.command(name="map", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("function", metavar="MODULE_OR_FILE:FUNCTION")
@click.argument("input", metavar="INPUT")
@click.option(
    "-o", "--output", required=True, metavar="OUTPUT", help="File for the results; - for the standard output."
)
@click.option(
    "--format", "form", type=click.Choice(INPUT_FORMATS), help="Of INPUT, if its extension does not tell."
)
@click.option(
    "--output-format", type=click.Choice(OUTPUT_FORMATS), help="Of OUTPUT; by its extension, or jsonl."
)
@click.option("--args", "spread", is_flag=True, help="Pass a row's columns as keyword arguments.")
@click.option("--limit", type=click.IntRange(min=0), help="Look at this many rows of INPUT only.")
@click.option(
    "--on",
    type=model,
    metavar="|".join((*MODELS, "ADDRESS")),
    help="Where rows run; `async def` functions on async. The address of a queue, like redis://host, means "
    "its workers.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Rows that run at the same time.")
@click.option("--timeout", type=duration, metavar="TIME", help="For one attempt at a row, like 10s.")
@click.option("--total-timeout", type=duration, metavar="TIME", help="For all attempts at a row together.")
@click.option("--retries", type=click.IntRange(min=0), help="Further attempts after a row has failed.")
@click.option(
    "--backoff",
    type=duration,
    metavar="TIME",
    help="Longest wait before a further attempt; doubled each time, randomised.",
)
@click.option("--rate", type=rate, metavar="RATE", help="Most calls in a time, like 100/s or 600/m.")
@click.option("--seed", type=int, help="Give each row its own reproducible random stream.")
@click.option("--unordered", is_flag=True, help="Write results as they finish, not in input order.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip", "record"]),
    help="After a row has failed: stop (the default), leave it out, or write a row with its error.",
)
@click.option(
    "--max-failures",
    type=failure_budget,
    metavar="ROWS|SHARE%",
    help="Give up when more rows fail, like 20 or 5%; implies record.",
)
@click.option(
    "--failures", metavar="FILE", help="Write failed rows with their errors to FILE, as JSON Lines."
)
@click.option("--resume", is_flag=True, help="Go on where an earlier run of this command ended.")
@click.option("--retry-failures", is_flag=True, help="With --resume, run recorded and skipped rows again.")
@click.option(
    "--accept-changed-function", is_flag=True, help="With --resume, keep rows done by an earlier version."
)
@click.option("--force", is_flag=True, help="Overwrite OUTPUT and its journal.")
@click.option("--dry-run", is_flag=True, help="Check everything, read all rows, run none.")
@click.option("--progress/--no-progress", default=None, help="Draw a bar; by default on a terminal.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the summary as JSON, to stdout unless OUTPUT is -."
)
@click.pass_context
def map_command(context: click.Context, /, **options: Any) -> None:
    """Run a Python function over the rows of INPUT and write its results to OUTPUT.

    A row of JSON Lines or CSV is passed as a dict, a plain line as a str. What is done is kept in
    OUTPUT.journal: after a crash, a power cut or Ctrl-C the same command with --resume runs only the rest.

    \b
    manyhands map cleaning.py:clean people.csv -o clean.jsonl
    manyhands map api:look_up words.txt -o - --workers 64 --timeout 10s --retries 3
    """  # noqa: D301 - click needs the character, not the two
    _refuse_contradictions(options)
    if options["output"] == "-":
        keep_stdout_for_results()
    job = _job(options, load(options["function"]))
    if options["dry_run"]:
        _dry_run(job)
        return
    run = Run(job)
    summary = run.go()
    _report(run, summary, as_json=options["as_json"])
    context.exit(summary.exit_code)


def _refuse_contradictions(options: dict[str, Any]) -> None:
    if options["resume"] and options["force"]:
        raise click.UsageError("--resume continues an earlier run, --force throws it away: give one of them")
    for name in ("retry_failures", "accept_changed_function"):
        if options[name] and not options["resume"]:
            raise click.UsageError(f"--{name.replace('_', '-')} says how to --resume: give both")
    if options["max_failures"] is not None and options["on_error"] == "stop":
        raise click.UsageError(
            "--on-error stop ends the run at the first failure: leave it or --max-failures away"
        )


def _job(options: dict[str, Any], target: Target) -> Job:
    output, source = options["output"], options["input"]
    place = Place.of(output)
    place.must_not_be(source, "the input")
    failures = options["failures"]
    if failures is not None:
        _check_failures_file(place, failures, options)
    on_error = options["on_error"] or ("stop" if options["max_failures"] is None else "record")
    terms = Terms(
        resume=options["resume"],
        force=options["force"],
        accept_changed_function=options["accept_changed_function"],
        # The row that stopped a run is what one resumes it for.
        retry_failures=options["retry_failures"] or on_error == "stop",
        ordered=not options["unordered"],
        target=target,
        seed=options["seed"],
    )
    return Job(
        terms=terms,
        input=source,
        input_format=options["form"] or input_format(source),
        place=place,
        output_format=options["output_format"] or output_format(output),
        spread=options["spread"],
        limit=options["limit"],
        on_error=on_error,
        failures=failures,
        max_failures=options["max_failures"],
        map_options=_map_options(options, target),
    )


def _check_failures_file(place: Place, failures: str, options: dict[str, Any]) -> None:
    file = Place.of(failures)
    if file.path is None:
        raise click.UsageError("--failures needs a file, for the standard output may hold results")
    place.must_not_be(failures, "the file for failures")
    Place(file.path, None).must_not_be(options["input"], "the input")
    if not (options["resume"] or options["force"]):
        Place(file.path, None).must_be_free()


def _map_options(options: dict[str, Any], target: Target) -> dict[str, Any]:
    on = options["on"] or ("async" if target.is_async else "thread")
    if "://" in on:
        _check_for_elsewhere(options, target)
    elif target.is_async != on.endswith("async"):
        kind = "an `async def` function" if target.is_async else "a plain function"
        fitting = "async" if target.is_async else "thread"
        raise Problem(
            f"could not run `{target.name}` with --on {on}: found {kind}",
            f"use --on {fitting}, or leave it away",
        )
    progress = options["progress"]
    if progress is None:
        progress = sys.stderr.isatty()
    given = {name: options[name] for name in MAP_OPTIONS if options[name] is not None}
    return {"on": on, "progress": progress, **given}


def _check_for_elsewhere(options: dict[str, Any], target: Target) -> None:
    """What is sent to other machines is the name of the function itself."""
    if options["spread"]:
        raise Problem(
            f"could not send `{target.name}` elsewhere with --args: found no function that takes a row",
            "leave --args away, and let the function take the row as a dict",
        )


def _shown(name: str, value: Any) -> str:
    """An option, without the password that an address may hold."""
    return f"{name}={re.sub('//[^@/]*@', '//', value) if name == 'on' else value}"


def _dry_run(job: Job) -> None:
    job.check_input()
    ledger = open_books(job.place, job.terms) if job.terms.resume else None
    count, done, first = 0, 0, None
    for line, row in job.rows():
        if count == 0:
            first = row
        count += 1
        if ledger is not None and ledger.claim(row, line) is not None:
            done += 1
    if ledger is not None:
        ledger.close()
    elif job.place.journal is not None and not job.terms.force:
        job.place.must_be_free()
    options = " ".join(_shown(name, value) for name, value in job.map_options.items() if name != "progress")
    click.echo(
        f"would run `{job.terms.target.name}` over {count - done:,} of {count:,} rows of `{job.input}`"
    )
    click.echo(f"with {options} on-error={job.on_error}")
    if first is not None:
        click.echo(
            f"first row: {first!r}" if len(repr(first)) <= 300 else f"first row: {repr(first)[:297]}..."
        )
    click.echo(f"to {job.place.path or 'the standard output'} as {job.output_format}")


def _report(run: Run, summary: Summary, *, as_json: bool) -> None:
    if as_json:
        click.echo(summary.as_json(), err=run.job.place.path is None)
    elif summary.exit_code != INTERRUPTED and summary.rows > 0:
        say(summary.as_text())
    if run.problem is not None:
        run.problem.show()
    if summary.exit_code == INTERRUPTED:
        kept = "; the same command with --resume runs the others" if run.job.place.journal is not None else ""
        say(f"interrupted: {summary.succeeded + summary.resumed:,} rows are done{kept}")
