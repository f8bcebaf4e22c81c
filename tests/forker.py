"""Starts scripts in forks of a process that has loaded MXNet and OpenCV, which takes seconds.

Each line of standard input is a request, as JSON, and is answered by a line of standard output:
    {"path", "args", "cwd", "out", "err", "limits"}    starts a script; its process id
    [id, seconds]    waits for it, for ever if seconds is null; its exit status as subprocess.Popen
                     tells it, null where it has not ended
"out" and "err" are files to append to; "limits" are triples for resource.setrlimit.
"""
import gc
import json
import os
import resource
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USED = ("matplotlib.pyplot", "train_multilabel", "predict_multilabel", "training.run",
        "training.frozen_stages")


def start(path, args, cwd, out, err, limits):
    child = os.fork()
    if child:
        return child
    for number, file in enumerate((os.devnull, out, err)):
        os.dup2(os.open(file, os.O_RDWR | os.O_APPEND), number)
    os.chdir(cwd)
    for kind, *values in limits:
        resource.setrlimit(kind, values)
    sys.argv = [str(ROOT / path), *args]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def wait(child, seconds):
    deadline = seconds is not None and time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG if deadline else 0)
        if ended:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for module in USED:
        __import__(module)
    sys.stdout.reconfigure(line_buffering=True)
    # What is loaded is no garbage: no fork needs to look through it, least of all when it ends.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(start(**request) if isinstance(request, dict) else wait(*request)))
