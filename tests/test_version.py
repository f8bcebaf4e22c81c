"""Each command shows the project's version."""
import importlib

import pytest

from common.version import VERSION


@pytest.mark.parametrize("command", [
    "train_multilabel", "predict_multilabel", "lst_iter", "make_lst", "import_pretrained",
    "export_onnx", "launch", "make_demo"])
def test_every_command_shows_the_version(command, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(command).main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.endswith(f" {VERSION}\n")
