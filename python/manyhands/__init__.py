"""Every way of doing many things at once in Python, under one API.

The layers, lowest first: `errors`; the Rust core; `futures`; `executors` (threads, event loops); what is built on
them: `map` and task groups; the command line. A module knows only those before it.
"""

from manyhands._core import Policy as Policy
from manyhands.errors import BrokenInitializer as BrokenInitializer
from manyhands.errors import Cancelled as Cancelled
from manyhands.errors import ExecutorClosed as ExecutorClosed
from manyhands.errors import ManyhandsError as ManyhandsError
from manyhands.errors import TaskFailureWarning as TaskFailureWarning
from manyhands.errors import TaskInterrupted as TaskInterrupted
from manyhands.errors import TaskTimeout as TaskTimeout
from manyhands.errors import WrongExecutor as WrongExecutor
from manyhands.executors import AsyncExecutor as AsyncExecutor
from manyhands.executors import Executor as Executor
from manyhands.executors import ThreadExecutor as ThreadExecutor
from manyhands.futures import Future as Future
from manyhands.futures import as_completed as as_completed
from manyhands.futures import gather as gather
from manyhands.futures import race as race
from manyhands.futures import wait as wait
from manyhands.group import TaskGroup as TaskGroup
from manyhands.map import MapIterator as MapIterator
from manyhands.map import MapSummary as MapSummary
from manyhands.map import Outcome as Outcome
from manyhands.map import Receipt as Receipt
from manyhands.map import map as map
from manyhands.map import starmap as starmap
from manyhands.randomness import item_random as item_random
from manyhands.randomness import item_seed as item_seed
