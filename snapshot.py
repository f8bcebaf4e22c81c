"""Snapshots of a run in the middle of an epoch, from which it goes on as if never stopped.

A snapshot is one file, PREFIX-resume.npz: the parameters, the optimizer with its state and its
place in the learning-rate schedule, and as JSON the position (epoch, batch), the measures so far
and the settings that the run depends on. It replaces the one before by renaming, and the one
before stays as PREFIX-resume-previous.npz.

The optimizer is a pickle, as everywhere in MXNet: resume only from folders that you trust.
"""
import json
import os
import pickle
import zipfile
from typing import NamedTuple

import numpy as np

from checkpoint import write_whole
from cli import InputError
from mx_compat import mx


class Snapshot(NamedTuple):
    """What `save_snapshot` wrote."""

    state: dict
    arg_params: dict
    aux_params: dict
    measures: dict
    optimizer: bytes


def snapshot_files(prefix):
    """The newest snapshot's name, and that of the one before."""
    return f"{prefix}-resume.npz", f"{prefix}-resume-previous.npz"


def updater_of(module):
    """The updater that holds a module's optimizer and its state."""
    return module._kvstore._updater if module._update_on_kvstore else module._updater


def optimizer_of(module):
    """The optimizer of a module in training with all its state, as bytes."""
    return updater_of(module).get_states(dump_optimizer=True)


def save_snapshot(prefix, arg_params, aux_params, optimizer, state, measures):
    """Write a snapshot.

    Parameters
    ----------
    prefix : str
        Of the run's checkpoints.
    arg_params, aux_params : dict of str to mx.nd.NDArray
    optimizer : bytes
        What `optimizer_of` gave; empty before the first batch.
    state : dict
        Anything that JSON can hold.
    measures : dict of str to np.ndarray
        What the epoch measured so far.

    Raises
    ------
    InputError
        When it cannot be written; the earlier one is then still there.
    """
    arrays = {f"arg:{name}": value.asnumpy() for name, value in arg_params.items()}
    arrays.update((f"aux:{name}", value.asnumpy()) for name, value in aux_params.items())
    arrays.update((f"measure:{name}", value) for name, value in measures.items())
    arrays["optimizer"] = np.frombuffer(optimizer, np.uint8)
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)

    newest, previous = snapshot_files(prefix)

    def write(name):
        with open(name, "wb") as file:
            np.savez(file, **arrays)
        if os.path.exists(newest):
            os.replace(newest, previous)

    write_whole(newest, write)


def load_snapshot(prefix):
    """Read the newest whole snapshot.

    Returns
    -------
    Snapshot
        None where there is none.

    Raises
    ------
    InputError
        When there are snapshots, but none is whole.
    """
    broken = None
    for name in snapshot_files(prefix):
        try:
            with np.load(name, allow_pickle=False) as saved:
                kinds = {"arg": {}, "aux": {}, "measure": {}}
                for key in saved.files:
                    kind, _, item = key.partition(":")
                    if item:
                        kinds[kind][item] = saved[key]
                params = ({k: mx.nd.array(v, dtype=v.dtype) for k, v in kinds[kind].items()}
                          for kind in ("arg", "aux"))
                return Snapshot(json.loads(saved["state"].tobytes()), *params,
                                kinds["measure"], saved["optimizer"].tobytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            broken = name
    if broken:
        raise InputError(f"{broken}: cut short or damaged, and there is no other snapshot to go "
                         "on from; without --resume the run starts anew")
    return None


class ResumableModule(mx.mod.Module):
    """A Module whose optimizer may start where a snapshot's was, and whose parameters are exact.

    The optimizer's states and counts of updates are taken over; rates and the like are the new run's own,
    and so is everything when the optimizer is of another class.
    """

    snapshot_optimizer = None

    def init_optimizer(self, *args, **kwargs):
        """As Module's, and then take the snapshot's states over."""
        super().init_optimizer(*args, **kwargs)
        if not self.snapshot_optimizer:
            return
        updater = updater_of(self)
        states, before = pickle.loads(self.snapshot_optimizer)
        if type(before) is not type(updater.optimizer):
            return
        updater.set_states(pickle.dumps(states))
        for name in ("num_update", "begin_num_update", "_all_index_update_counts"):
            setattr(updater.optimizer, name, getattr(before, name))
        updater.optimizer._index_update_count = updater.optimizer._all_index_update_counts[0]

    def get_params(self):
        """As Module's, but after the last backward pass has ended.

        On the CPU, BatchNorm updates its running statistics in the backward pass, unknown to
        MXNet's engine: read at once they may lack the last batch, and Module.fit, which writes
        back what it read after each epoch, would then lose it.
        """
        mx.nd.waitall()
        return super().get_params()
