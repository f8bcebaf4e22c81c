"""convert/torch_file.py: state files of PyTorch and safetensors, read without torch."""
import json
import os
import struct
import sys

import numpy as np
import pytest
import torch_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.cli import InputError
from convert.torch_file import parse_tensors, read_tensors

STATE = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.array([0.5, -2], np.float16),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "double": np.array([[1e-300]]),
}
FORMATS = {"old": torch_bytes.old_format(STATE), "zip": torch_bytes.zip_format(STATE),
           "safetensors": torch_bytes.safetensors(STATE)}


@pytest.mark.parametrize("content", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_tensors_as_they_were(content):
    found = parse_tensors(content)
    assert list(found) == (sorted(STATE) if content == FORMATS["safetensors"] else list(STATE))
    for name, array in STATE.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_strides_and_offset_are_honoured():
    values = np.arange(20, dtype=np.float32)
    # A transposed 3x2 view that starts at the fifth value.
    view = torch_bytes.tensor("0", 20, (3, 2), (1, 4), offset=5)
    content = torch_bytes.zip_format({"any": values}, torch_bytes.dictionary({"view": view}))
    np.testing.assert_array_equal(parse_tensors(content)["view"], [[5, 9], [6, 10], [7, 11]])


def test_a_training_checkpoint_gives_its_state_dict():
    inner = torch_bytes.dictionary({"w": torch_bytes.tensor("0", 2, (2,), (1,))})[2:-1]
    pickled = torch_bytes.dictionary({"epoch": torch_bytes.number(3), "state_dict": inner})
    content = torch_bytes.zip_format({"w": np.ones(2, np.float32)}, pickled)
    assert list(parse_tensors(content)) == ["w"]


@pytest.mark.parametrize("module, function", [
    ("os", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"),
    ("torch._utils", "os.system"), ("torch_file", "_Tensor"), ("numpy", "frombuffer")])
@pytest.mark.parametrize("wrap", [
    lambda pickled: torch_bytes.zip_format({}, pickled),
    lambda pickled: torch_bytes.OLD_HEAD + pickled], ids=["zip", "old"])
def test_a_malicious_pickle_does_nothing(module, function, wrap, tmp_path):
    marker = tmp_path / "run"
    call = torch_bytes.name(module, function) + torch_bytes.group(
        torch_bytes.text(f"touch {marker}")) + b"R"
    with pytest.raises(InputError, match=f"{module}.{function}, which is no tensor") as error:
        parse_tensors(wrap(torch_bytes.dictionary({"w": call})))
    assert "\n" not in str(error.value)
    assert not marker.exists()


def nested(depth=50):
    """A tuple of the same tuple twice, of the same tuple twice, ...: 2**50 parts."""
    return torch_bytes.text("t") + b"".join(b"q\x01h\x01\x86" for _ in range(depth))


@pytest.mark.parametrize("pickled", [
    b"}" + nested() + b"Ns.", b"}(" + nested() + b"Nu.",
    torch_bytes.name("collections", "OrderedDict") + b"](" + nested() + b"N\x86e\x85R.",
    torch_bytes.tensor("0", 2, (2,), (1,)).replace(torch_bytes.text("0"), nested()) + b".",
    torch_bytes.tensor("0", 2, (2,), (1,)).replace(torch_bytes.number(2), nested()) + b".",
])
def test_keys_that_would_take_for_ever_to_hash_are_an_error(pickled):
    with pytest.raises(InputError, match="key|number of values"):
        parse_tensors(torch_bytes.zip_format({"w": np.ones(2, np.float32)}, b"\x80\x02" + pickled))


@pytest.mark.parametrize("pickled", [
    b"(" + nested() + b"Nd.", b"\x8f(" + nested() + b"\x90.", b"(" + nested() + b"\x91."],
    ids=["DICT", "ADDITEMS", "FROZENSET"])
def test_operations_that_torch_save_does_not_write_are_an_error(pickled):
    with pytest.raises(InputError, match="not what torch.save writes"):
        parse_tensors(torch_bytes.zip_format({"w": np.ones(2, np.float32)}, b"\x80\x02" + pickled))


def test_a_dictionary_of_pairs_is_read_as_python_2_wrote_it():
    pair = torch_bytes.text("w") + torch_bytes.tensor("0", 2, (2,), (1,)) + b"\x86"
    pickled = (b"\x80\x02" + torch_bytes.name("collections", "OrderedDict") + b"](" + pair
               + b"e\x85R.")
    content = torch_bytes.zip_format({"w": np.ones(2, np.float32)}, pickled)
    assert list(parse_tensors(content)) == ["w"]


def test_a_pickle_cannot_change_a_tensor_after_its_check():
    forged = torch_bytes.tensor("0", 2, (2,), (1,)) + b"}" + torch_bytes.text("shape") + \
        torch_bytes.group(torch_bytes.number(10**9)) + b"sb"
    content = torch_bytes.zip_format({"w": np.ones(2, np.float32)},
                                     torch_bytes.dictionary({"w": forged}))
    assert parse_tensors(content)["w"].shape == (2,)


@pytest.mark.parametrize("shape, strides, offset", [
    ((3,), (1,), 0), ((2,), (1,), 1), ((2,), (2,), 0), ((2,), (-1,), 1), ((1,), (1,), -1),
    ((2, 2), (0, 0), 0), ((2,), (1, 1), 0)])
def test_a_tensor_outside_its_storage_is_an_error(shape, strides, offset):
    lie = torch_bytes.dictionary({"w": torch_bytes.tensor("0", 2, shape, strides, offset)})
    with pytest.raises(InputError, match="tensor"):
        parse_tensors(torch_bytes.zip_format({"w": np.ones(2, np.float32)}, lie))


@pytest.mark.parametrize("changed", [
    {"data_offsets": [0, 1]}, {"data_offsets": [8, 0]}, {"shape": [-1]}, {"shape": [2**70]},
    {"shape": None}, {"dtype": "F8_E4M3"}, {"data_offsets": [0]}])
def test_a_safetensors_header_that_lies_is_an_error(changed):
    with pytest.raises(InputError, match="not a whole safetensors file"):
        parse_tensors(torch_bytes.safetensors({"w": np.ones(2, np.float32)}, **changed))


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_a_safetensors_type_that_numpy_lacks_is_named(dtype):
    size = 2 if dtype == "F8_E4M3" else 1
    with pytest.raises(InputError, match=f"type or shape that numpy lacks: '{dtype}'"):
        parse_tensors(torch_bytes.safetensors({"w": np.ones(1, np.float16)}, dtype=dtype,
                                              shape=[size]))


@pytest.mark.parametrize("shape", [[1] * 70, [2**62, 0, 2**62]], ids=["dimensions", "overflow"])
def test_a_safetensors_shape_that_numpy_cannot_hold_is_an_error(shape):
    with pytest.raises(InputError, match="shape that numpy lacks"):
        parse_tensors(torch_bytes.safetensors(
            {"w": np.ones(int(0 not in shape), np.float32)}, shape=shape))


def test_a_pth_type_that_numpy_lacks_is_named():
    tensor = torch_bytes.tensor("0", 1, (1,), (1,), storage="BFloat16Storage")
    with pytest.raises(InputError, match=r"torch\.BFloat16Storage, which is no tensor that numpy"):
        parse_tensors(torch_bytes.zip_format({}, torch_bytes.dictionary({"w": tensor})))


def test_a_number_of_a_million_digits_in_safetensors_is_an_error():
    header = b'{"w": {"dtype": "F32", "shape": [' + b"1" * 10**6 + b'], "data_offsets": [0, 4]}}'
    with pytest.raises(InputError, match="not a whole safetensors file") as error:
        parse_tensors(struct.pack("<Q", len(header)) + header + bytes(4))
    assert len(str(error.value)) < 300


def test_empty_tensors_of_huge_shapes_are_an_error_in_pth():
    lie = torch_bytes.dictionary({"w": torch_bytes.tensor("0", 2, (2**30, 2**30, 0), (1, 1, 1))})
    with pytest.raises(InputError, match="shape or strides make no sense"):
        parse_tensors(torch_bytes.zip_format({"w": np.ones(2, np.float32)}, lie))


@pytest.mark.parametrize("content", [
    torch_bytes.zip_format(STATE, byteorder="big"),
    FORMATS["old"].replace(b"little_endian\x88", b"little_endian\x89")], ids=["zip", "old"])
def test_a_file_of_a_big_endian_machine_is_an_error(content):
    with pytest.raises(InputError, match="big-endian machine"):
        parse_tensors(content)


def test_without_the_package_safetensors_files_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match="pip install -r requirements-export.txt"):
        parse_tensors(FORMATS["safetensors"])


def test_safetensors_entries_that_share_values_are_an_error():
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    with pytest.raises(InputError, match="not a whole safetensors file"):
        parse_tensors(struct.pack("<Q", len(header)) + header + bytes(8))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"hello, world", bytes(100),
                                     struct.pack("<Q", 2**60) + b"{}"])
def test_other_files_are_an_error(content):
    with pytest.raises(InputError):
        parse_tensors(content)


@pytest.mark.parametrize("content", FORMATS.values(), ids=FORMATS)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_cut_and_changed_files_never_crash(content, data):
    changed = bytearray(content[:data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 4)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_tensors(bytes(changed))
    except InputError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("content", FORMATS.values(), ids=FORMATS)
def test_a_file_cut_in_its_values_is_an_error(content):
    with pytest.raises(InputError):
        parse_tensors(content[:-1] if content[:2] != b"PK" else content[:-200])


def test_errors_name_the_file(tmp_path):
    (tmp_path / "text.pth").write_text("a letter")
    for path, says in ((tmp_path / "absent.pth", "No such file"),
                       (tmp_path / "text.pth", "neither a PyTorch nor a safetensors file")):
        with pytest.raises(InputError, match=says) as error:
            read_tensors(path)
        assert error.value.file == path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_what_torch_writes_is_read(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.randn(4, 3, 2)
    state = {"plain": base, "turned": base.permute(2, 0, 1), "part": base[1:, :, 1],
             "half": base.half(), "count": torch.tensor(5),
             "parameter": torch.nn.Parameter(base), "empty": torch.zeros(0, 3)}
    path = os.path.join(tmp_path, "state.pth")
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = read_tensors(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.detach().float().numpy())
