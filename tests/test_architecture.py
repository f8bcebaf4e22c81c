"""The rules of docs/architecture.md: which room imports which, and how large things may be."""
import ast
from pathlib import Path

import pytest
from conftest import ROOT

# Floor of each room and of each module at the top level.
FLOORS = {
    "common": 0, "crossentropy_op": 0,
    "network": 1, "reading": 1, "lst_iter": 1, "multilabel_metric": 1,
    "training": 2, "evaluation": 2, "datasets": 2, "convert": 2, "distributed": 2,
    "tools": 3, "train_multilabel": 3, "predict_multilabel": 3}
# Imports within a floor.
BESIDE = {("common", "crossentropy_op"), ("lst_iter", "reading"), ("training", "evaluation"), ("training", "distributed")}


def room(path):
    return path.relative_to(ROOT).parts[0].partition(".py")[0]


FILES = sorted(path for path in ROOT.rglob("*.py") if room(path) in FLOORS)


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                 else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        for name in names:
            first = name.partition(".")[0]
            if first in FLOORS and first != room(path):
                yield first


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(path)
    wrong = [there for there in imported_rooms(path)
             if FLOORS[there] >= FLOORS[here] and (here, there) not in BESIDE]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_signatures_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if (isinstance(node, ast.FunctionDef) and path.name != "lst_iter.py"
                and node.name != "fit"):  # both as MXNet's
            names = [argument.arg for argument in node.args.args + node.args.kwonlyargs]
            assert len(set(names) - {"self", "cls"}) <= 7, node.name


def test_predicting_needs_nothing_of_training():
    seen, waiting = set(), [ROOT / "predict_multilabel.py"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                candidates = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                candidates = [alias.name for alias in node.names]
            else:
                continue
            for name in candidates:
                file = Path(ROOT, *name.split(".")).with_suffix(".py")
                if file.exists() and file not in seen:
                    waiting.append(file)
    assert not {"training", "train_multilabel"} & {room(path) for path in seen}
