"""Everything that is measured, in the order in which it is shown. One file per subject."""

from . import (
    coroutines,
    endless,
    futures,
    importing,
    limits,
    many,
    memory,
    primitives,
    process_data,
    process_work,
    processes,
    shared,
    sleepers,
    submit,
    sync,
    trips,
)

SUBJECTS = (
    *submit.SUBJECTS,
    *many.SUBJECTS,
    *trips.SUBJECTS,
    *sleepers.SUBJECTS,
    *memory.SUBJECTS,
    *futures.SUBJECTS,
    *coroutines.SUBJECTS,
    *processes.SUBJECTS,
    *process_data.SUBJECTS,
    *process_work.SUBJECTS,
    *shared.SUBJECTS,
    *sync.SUBJECTS,
    *primitives.SUBJECTS,
    *endless.SUBJECTS,
    *limits.SUBJECTS,
    *importing.SUBJECTS,
)
