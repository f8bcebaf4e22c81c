import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CCP = ROOT.parent / "shared" / "data" / "ccp"
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "demo")]

import mx_compat  # noqa: E402, F401  before any test imports mxnet


@pytest.fixture(scope="session")
def ccp():
    """600 real photos with labels of 58 classes."""
    if not (CCP / "train.lst").exists():
        pytest.skip("the photos of ../shared/data/ccp are not here")
    return CCP
