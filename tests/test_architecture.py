"""The rules of docs/architecture.md: which room imports which, and how large things may be.

`pytest -s tests/test_architecture.py -k lines` prints the counts.
"""
import ast
import functools

import pytest
from conftest import ROOT

# Floor of each room and of each module at the top level.
FLOORS = {
    "common": 0, "crossentropy_op": 0,
    "network": 1, "reading": 1, "lst_iter": 1, "multilabel_metric": 1,
    "training": 2, "evaluation": 2, "datasets": 2, "convert": 2, "distributed": 2,
    "tools": 3, "demo": 3, "train_multilabel": 3, "predict_multilabel": 3, "benchmarks": 4}
# Imports within a floor.
BESIDE = {("common", "crossentropy_op"), ("lst_iter", "reading"), ("training", "evaluation"),
          ("training", "distributed")}
SCRIPT_FOLDERS = ("tools", "demo", "benchmarks")  # whose files import each other by bare names
UNTRUSTED = "network/untrusted/"
# What train_multilabel.py imports within functions, because not every run needs it.
DOORS = ("distributed/", "reading/contact_sheet.py", "reading/equal_files.py",
         "reading/image_list.py", "reading/image_shape.py", "reading/index_labels.py",
         "reading/other_formats.py", "training/frozen_stages.py", "training/resuming.py",
         "training/validation.py")
CLOSURE_LINES, ALL_LINES = 5200, 16000


def name(path):
    return path.relative_to(ROOT).as_posix()


def room(path):
    return name(path).partition("/")[0].partition(".py")[0]


FILES = sorted(path for path in ROOT.rglob("*.py") if room(path) in FLOORS)
BY_MODULE = {name(path)[:-3].replace("/", "."): path for path in FILES}
BY_MODULE.update((path.stem, path) for path in FILES if room(path) in SCRIPT_FOLDERS)


def lines(path):
    return len(path.read_text().splitlines())


@functools.lru_cache(maxsize=None)
def imported_files(path):
    """The project's files that a file imports, at its top level or anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found.update(BY_MODULE[module] for module in modules if module in BY_MODULE)
    return found


def closure(path, without=()):
    """A file and all the project's files that it needs, but those whose names begin so."""
    seen, waiting = set(), {path}
    while waiting:
        seen.add(path := waiting.pop())
        waiting |= {file for file in imported_files(path)
                    if not name(file).startswith(tuple(without))} - seen
    return seen


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_down(path):
    here = room(path)
    wrong = [name(file) for file in imported_files(path)
             if room(file) != here and FLOORS[room(file)] >= FLOORS[here]
             and (here, room(file)) not in BESIDE]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_files_import_each_other(path):
    assert not [name(file) for file in imported_files(path) if path in closure(file)]


@pytest.mark.parametrize("path", [path for path in FILES if not name(path).startswith(UNTRUSTED)],
                         ids=name)
def test_untrusted_data_has_one_entrance(path):
    assert not [name(file) for file in imported_files(path) if name(file).startswith(UNTRUSTED)]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_signatures_are_short(path):
    assert lines(path) <= 450
    for node in ast.walk(ast.parse(path.read_text())):
        if (isinstance(node, ast.FunctionDef) and path.name != "lst_iter.py"
                and node.name != "fit"  # both as MXNet's
                and "onnx/operators" not in name(path)):  # ONNX's attributes
            names = [argument.arg for argument in node.args.args + node.args.kwonlyargs]
            assert len(set(names) - {"self", "cls"}) <= 7, node.name


def test_predicting_needs_nothing_of_training():
    used = closure(ROOT / "predict_multilabel.py")
    assert not {"training", "train_multilabel"} & {room(path) for path in used}


def test_a_run_by_default_flags_takes_few_lines():
    files = closure(ROOT / "train_multilabel.py", without=DOORS)
    count = sum(lines(path) for path in files if not name(path).startswith(UNTRUSTED))
    print(f"\nA run by default flags: {len(files)} files, {count} lines but for {UNTRUSTED}")
    assert count <= CLOSURE_LINES


def test_all_code_but_the_tests_has_few_lines():
    count = sum(map(lines, FILES))
    print(f"\nPython but the tests: {len(FILES)} files, {count} lines")
    assert count <= ALL_LINES


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
                                  *sorted(ROOT.glob("docs/*.md"))], ids=name)
def test_documentation_fits_into_100_columns(path):
    too_long = [number for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
                if len(line) > 100]
    assert not too_long
