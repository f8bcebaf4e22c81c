"""Snapshots of a run in the middle of an epoch, from which it goes on as if never stopped.

A snapshot is one file, PREFIX-resume.npz: the parameters, the optimizer with its state and its
place in the learning-rate schedule, and as JSON the position (epoch, batch), the measures so far
and the settings that the run depends on. It replaces the one before by renaming, and the one
before stays as PREFIX-resume-previous.npz.

Of several workers rank 0 writes it for all. In mid-epoch each has running statistics and measures
of its own, which stand in the file once a worker.

The optimizer is a pickle, as everywhere in MXNet: resume only from folders that you trust.
"""
import hashlib
import io
import json
import os
import pickle
import zipfile
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from common.files import write_atomically
from common.mx_compat import mx
from network import checkpoint

# Flags that may differ in a resumed run: they change where and how fast, not what is trained.
# Images and lists may have moved; the lists' content is compared.
FREE_ON_RESUME = {
    "data_train", "data_val", "image_train", "image_val", "labels", "model", "epoch", "gpus",
    "data_nthreads", "disp_batches", "num_epoch", "early_stop", "monitor_metric", "test_io",
    "save_result", "save_name", "save_period", "keep", "checkpoint_minutes", "resume",
    "resume_anyway", "warm_head_epochs", "warm_head_mirror", "warm_head_memory", "num_examples",
    "num_classes"}
# Begins the names of what ranks above 0 have of their own.
WORKER = "worker{}/"
RUN_ID = "RUN_ID"  # variable that tools/launch.py sets


class Snapshot(NamedTuple):
    """What `save_snapshot` wrote, as one worker sees it."""

    state: dict
    arg_params: dict
    aux_params: dict
    measures: dict
    optimizer: bytes


def snapshot_files(prefix):
    """The newest snapshot's name, and that of the one before."""
    return f"{prefix}-resume.npz", f"{prefix}-resume-previous.npz"


def is_run_file(name, save_name):
    """Whether a file name is one that a run called `save_name` writes."""
    return (name in {*snapshot_files(save_name), "history.csv", "history.png"}
            or checkpoint.is_checkpoint_file(name, save_name)
            or checkpoint.is_checkpoint_file(name, f"{save_name}-best"))


def what_must_stay(args, net, train_lst, val_lst, workers):
    """What a resumed run must share with its beginning, by the names to show."""
    flags = {f"--{key.replace('_', '-')}": value for key, value in vars(args).items()
             if key not in FREE_ON_RESUME}
    if args.lr_schedule == "cosine":
        flags["--num-epoch"] = args.num_epoch
    flags["the number of workers"] = workers.count
    flags["the number of classes"] = train_lst.num_classes
    names = " ".join(net.list_arguments() + net.list_auxiliary_states())
    flags["the network's checksum"] = hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
    flags["the content of --data-train"] = train_lst.checksum
    flags["the content of --data-val"] = val_lst.checksum if val_lst else None
    return json.loads(json.dumps(flags))


def updater_of(module):
    """The updater that holds a module's optimizer and its state."""
    return module._kvstore._updater if module._update_on_kvstore else module._updater


def optimizer_of(module):
    """The optimizer of a module in training with all its state, as bytes.

    Empty where it lives on servers, from which nobody can read it ("dist_async").
    """
    updater = updater_of(module)
    return updater.get_states(dump_optimizer=True) if updater else b""


def own_arrays(aux_params, measures):
    """What a worker alone has to say in mid-epoch, by its names in the snapshot.

    Parameters
    ----------
    aux_params : dict of str to mx.nd.NDArray
    measures : dict of str to np.ndarray
        What the epoch measured so far.

    Returns
    -------
    dict of str to np.ndarray
    """
    return {**{f"aux:{name}": value.asnumpy() for name, value in aux_params.items()},
            **{f"measure:{name}": value for name, value in measures.items()}}


def save_snapshot(prefix, arg_params, optimizer, state, own):
    """Write a snapshot.

    Parameters
    ----------
    prefix : str
        Of the run's checkpoints.
    arg_params : dict of str to mx.nd.NDArray
    optimizer : bytes
        What `optimizer_of` gave; empty before the first batch.
    state : dict
        Anything that JSON can hold.
    own : list of dict of str to np.ndarray
        What `own_arrays` gave, by rank. Of rank 0 alone where all have the same.

    Raises
    ------
    InputError
        When it cannot be written; the earlier one is then still there.
    """
    arrays = {f"arg:{name}": value.asnumpy() for name, value in arg_params.items()}
    for rank, worker in enumerate(own):
        prefix_of_key = WORKER.format(rank) if rank else ""
        arrays.update((prefix_of_key + name, value) for name, value in worker.items())
    arrays["optimizer"] = np.frombuffer(optimizer, np.uint8)
    state = {**state, "run_id": os.environ.get(RUN_ID)}
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)

    newest, previous = snapshot_files(prefix)

    # By way of memory: a zip file that cannot be finished complains once more when it is deleted.
    content = io.BytesIO()
    np.savez(content, **arrays)

    def write(name):
        with open(name, "wb") as file:
            file.write(content.getbuffer())
        if os.path.exists(newest):
            os.replace(newest, previous)

    write_atomically(newest, write)


def load_snapshot(prefix, workers):
    """Read the newest whole snapshot: rank 0 does, and all get it.

    A restart by tools/launch.py (RUN_ID) wants its own run's, and takes no earlier one's.

    Parameters
    ----------
    prefix : str
        Of the run's checkpoints; only rank 0 looks there.
    workers : Workers

    Returns
    -------
    Snapshot
        None where there is none.

    Raises
    ------
    InputError
        When there are snapshots, but none is whole.
    """
    arrays = workers.broadcast(None if workers.rank else read_arrays(prefix))
    if arrays is None:
        return None
    kinds = {"arg": {}, "aux": {}, "measure": {}}
    state = json.loads(arrays["state"].tobytes())
    if RUN_ID in os.environ and state["run_id"] != os.environ[RUN_ID]:
        return None
    prefix = WORKER.format(workers.rank)
    mine = {key[len(prefix):]: value for key, value in arrays.items() if key.startswith(prefix)}
    # A worker without arrays of its own has the same as rank 0.
    for key, value in {**arrays, **mine}.items():
        kind, _, name = key.partition(":")
        if kind in kinds:
            kinds[kind][name] = value
    params = ({k: mx.nd.array(v, dtype=v.dtype) for k, v in kinds[kind].items()}
              for kind in ("arg", "aux"))
    return Snapshot(state, *params, kinds["measure"],
                    arrays["optimizer"].tobytes())


def read_arrays(prefix):
    """All arrays of the newest whole snapshot; None where there is none."""
    broken = None
    for name in snapshot_files(prefix):
        try:
            with np.load(name, allow_pickle=False) as saved:
                arrays = {key: saved[key] for key in saved.files}
            json.loads(arrays["state"].tobytes())
            return arrays
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

    The optimizer's states and counts of updates are taken over; rates and the like are the new
    run's own, and so is everything when the optimizer is of another class.
    """

    snapshot_optimizer = None

    def init_optimizer(self, *args, **kwargs):
        """As Module's, and then take rank 0's parameters and the snapshot's states over."""
        super().init_optimizer(*args, **kwargs)
        if self._kvstore and "dist" in self._kvstore.type:
            self.pull_params()
        updater = updater_of(self)
        if not self.snapshot_optimizer or not updater:
            return
        states, before = pickle.loads(self.snapshot_optimizer)
        if type(before) is not type(updater.optimizer):
            return
        updater.set_states(pickle.dumps(states))
        for name in ("num_update", "begin_num_update", "_all_index_update_counts"):
            setattr(updater.optimizer, name, getattr(before, name))
        updater.optimizer._index_update_count = updater.optimizer._all_index_update_counts[0]

    def pull_params(self):
        """Take over what the servers have: at first rank 0's parameters, in step then the
        gradients, and with "dist_async" the parameters always."""
        for name, values in zip(self._param_names, self._exec_group.param_arrays):
            self._kvstore.pull(name, out=values)
        self._params_dirty = True

    def update(self):
        """As Module's, which cannot send compressed gradients to servers."""
        kvstore = self._kvstore
        if not (self._compression_params and kvstore and "dist" in kvstore.type):
            super().update()
            return
        self._params_dirty = True
        params, gradients = self._exec_group.param_arrays, self._exec_group.grad_arrays
        for number, name in enumerate(self._param_names):
            if gradients[number][0] is not None:
                out = params[number] if self._update_on_kvstore else gradients[number]
                kvstore.push(name, gradients[number], priority=-number)
                kvstore.pull(name, out=out, priority=-number)
        if not self._update_on_kvstore:
            mx.model._update_params(params, gradients, self._updater, len(self._context))

    def get_params(self):
        """As Module's, but after the last backward pass has ended.

        On the CPU, BatchNorm updates its running statistics in the backward pass, unknown to
        MXNet's engine: read at once they may lack the last batch, and Module.fit, which writes
        back what it read after each epoch, would then lose it.
        """
        mx.nd.waitall()
        return super().get_params()
