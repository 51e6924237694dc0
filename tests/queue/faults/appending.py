"""An application whose tasks leave a trace each: a line with their number, at once in the file."""

import os
import time

import manyhands as mh

queue = mh.Queue(
    "faults",
    broker=os.environ.get("FAULTS_BROKER", "memory://"),
    results="",
    when_unreachable=os.environ.get("FAULTS_UNREACHABLE", "wait"),
    patience=60,
    visibility=float(os.environ.get("FAULTS_VISIBILITY", "3600")),
)
_trace = os.environ.get("FAULTS_TRACE", os.devnull)


@queue.task
def append(number):
    time.sleep(0.002)  # so that there is something to interrupt
    trace = os.open(_trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(trace, f"{number}\n".encode())
    os.close(trace)
