"""Runs train_multilabel.py several times in one process; see conftest.train_all."""
import contextlib
import io
import json
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import run  # noqa: E402
from train_multilabel import main  # noqa: E402

folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
for argv in json.loads((folder / "runs").read_text()):
    text = io.StringIO()
    signal.alarm(seconds)
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            run(main, argv)
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = traceback.print_exc()
    with open(folder / "results", "a") as file:
        print(json.dumps([status, text.getvalue()]), file=file)
