"""A Module whose `fit` is one readable loop, which can begin where an earlier run was stopped.

    module = FineTuningModule(symbol, context=[mx.cpu()])
    module.fit(batches, optimizer_params={"learning_rate": 0.01}, num_epoch=2)
"""
import time

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from training.faster_graph import is_constant

# The numbers in which MXNet's optimizers count their updates.
OPTIMIZER_COUNTERS = ("num_update", "m_schedule")


class Uninterrupted:
    """A run that begins at its first batch, saves nothing, and is not stopped.

    `fit` calls it between batches. What a method raises ends the training.
    """

    epoch = 0  # the one to begin with

    def begin(self, module, train_data):
        """Called once, after the optimizer was made: take over an earlier run's."""

    def begin_epoch(self, metrics):
        """Take over the metrics of an epoch's first batches; False if no batch is left to train."""
        return True

    def before_batch(self):
        """Called before each batch of training."""

    def after_batch(self, module, metrics):
        """Called after each batch of training."""

    def after_training(self, module, metrics):
        """Called after the last batch of an epoch, before its validation."""

    def after_validation_batch(self, module, metrics, nbatch):
        """Called after each batch of validation; `metrics` are those of the epoch's training."""

    def after_epoch(self, module, metrics, validation_metrics):
        """Called at the end of an epoch; True if it shall be the last one.

        `validation_metrics` are None without validation.
        """
        return False


class FineTuningModule(mx.mod.Module):
    """A Module whose label is `softmax_label`, and whose parameters are exact whenever read.

    `full_params` are arg_params and aux_params of a network of which the symbol is only a part:
    `get_params` then gives all of them.
    """

    def __init__(self, symbol, full_params=({}, {}), fixed_param_names=(), **options):
        constants = filter(is_constant, symbol.list_arguments())
        super().__init__(symbol, label_names=["softmax_label"],
                         fixed_param_names=[*fixed_param_names, *constants], **options)
        self._full_params = full_params

    def fit(self, train_data, eval_data=None, eval_metric="acc", epoch_end_callback=None,
            batch_end_callback=None, kvstore="local", optimizer="sgd",
            optimizer_params=(("learning_rate", 0.01),), eval_end_callback=None,
            eval_batch_end_callback=None, initializer=None, arg_params=None, aux_params=None,
            allow_missing=False, num_epoch=None, validation_metric=None, run=None):
        """Train as mx.mod.Module.fit does, whose parameters and callbacks these are.

        `run` says where to begin, and looks after what happens between batches; see Uninterrupted.
        """
        run = run or Uninterrupted()
        metrics = mx.metric.create(eval_metric)
        validation_metrics = mx.metric.create(validation_metric or eval_metric)
        self.bind(train_data.provide_data, train_data.provide_label)
        self.init_params(initializer or mx.init.Uniform(0.01), arg_params, aux_params,
                         allow_missing)
        self.init_optimizer(kvstore, optimizer, optimizer_params)
        if self._kvstore and "dist" in self._kvstore.type:
            self.pull_params()
        run.begin(self, train_data)
        for epoch in range(run.epoch, num_epoch):
            began = time.time()
            metrics.reset()
            if run.begin_epoch(metrics):
                for nbatch, batch in enumerate(train_data):
                    run.before_batch()
                    self.forward_backward(batch)
                    self.update()
                    self.update_metric(metrics, batch.label)
                    _call(batch_end_callback,
                          mx.model.BatchEndParam(epoch, nbatch, metrics, locals()))
                    run.after_batch(self, metrics)
                for name, value in metrics.get_global_name_value():
                    self.logger.info("Epoch[%d] Train-%s=%f", epoch, name, value)
                self.logger.info("Epoch[%d] Time cost=%.3f", epoch, time.time() - began)
                params = self.get_params()
                self.set_params(*params)  # the mean of the devices' running statistics
                _call(epoch_end_callback, epoch, self.symbol, *params)
                run.after_training(self, metrics)
            if eval_data is not None:
                eval_data.reset()
                validation_metrics.reset()
                for nbatch, batch in enumerate(eval_data):
                    self.forward(batch, is_train=False)
                    self.update_metric(validation_metrics, batch.label)
                    _call(eval_batch_end_callback,
                          mx.model.BatchEndParam(epoch, nbatch, validation_metrics, locals()))
                    run.after_validation_batch(self, metrics, nbatch)
                for name, value in validation_metrics.get_global_name_value():
                    self.logger.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
                _call(eval_end_callback,
                      mx.model.BatchEndParam(epoch, nbatch + 1, validation_metrics, locals()))
            if run.after_epoch(self, metrics, validation_metrics if eval_data else None):
                return
            train_data.reset()

    def set_params(self, arg_params, aux_params, **options):
        """As Module's; takes the whole network's parameters, and keeps its own constants."""
        params = [{**{name: value for name, value in (own or {}).items() if is_constant(name)},
                   **given} for own, given in ((self._arg_params, arg_params),
                                               (self._aux_params, aux_params))]
        super().set_params(*params, **{**options, "allow_extra": True})

    def get_params(self):
        """As Module's, but the whole network's, and after the last backward pass has ended.

        On the CPU, BatchNorm updates its running statistics in it unknown to MXNet's engine. Read
        too early they lack the last batch, and `fit` writes back what it reads.
        """
        mx.nd.waitall()
        return tuple({**full, **{name: value for name, value in own.items()
                                 if not is_constant(name)}}
                     for full, own in zip(self._full_params, super().get_params()))

    def pull_params(self):
        """Take over the servers' parameters: at first those that rank 0 began with."""
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
        for number, (name, param, gradient) in enumerate(
                zip(self._param_names, params, gradients)):
            if gradient[0] is not None:
                kvstore.push(name, gradient, priority=-number)
                kvstore.pull(name, out=param if self._update_on_kvstore else gradient,
                             priority=-number)
        if not self._update_on_kvstore:
            mx.model._update_params(params, gradients, self._updater, len(self._context))

    @property
    def updater(self):
        """What holds the optimizer and its state; None where they are on servers."""
        return self._kvstore._updater if self._update_on_kvstore else self._updater

    def optimizer_state(self):
        """Dicts of the optimizer's plain numbers, and of its arrays as PARAMETER:NUMBER.

        Both are empty with "dist_async", where nobody can read them.
        """
        if not self.updater:
            return {}, {}
        optimizer = self.updater.optimizer
        counters = {name: getattr(optimizer, name) for name in OPTIMIZER_COUNTERS
                    if hasattr(optimizer, name)}
        arrays = {}
        for name, weights in self._trained_weights():
            # The same on every device.
            state = self.updater.states.get(next(iter(weights)))
            arrays.update((f"{name}:{number}", leaf.asnumpy())
                          for number, leaf in enumerate(_leaves(state)))
        return counters, arrays

    def load_optimizer_state(self, snapshot):
        """Take over the optimizer's state from a Snapshot, unless it is on servers.

        An InputError says what of it is missing or does not fit.
        """
        if not self.updater or not snapshot.optimizer_counters:
            return
        optimizer, source = self.updater.optimizer, snapshot.source
        for name in OPTIMIZER_COUNTERS:
            if hasattr(optimizer, name):
                value = snapshot.optimizer_counters.get(name)
                if type(value) is not type(getattr(optimizer, name)) or not 0 <= value < 2 ** 31:
                    raise InputError(f"the optimizer's {name} is missing or wrong", file=source)
                setattr(optimizer, name, value)
        # Counts of single parameters, of which a new optimizer has none, begin with this.
        optimizer.begin_num_update = optimizer.num_update
        if snapshot.optimizer is None or not optimizer.num_update:
            return
        for name, weights in self._trained_weights():
            for key, weight in weights.items():
                state = optimizer.create_state_multi_precision(key, weight)
                for number, leaf in enumerate(_leaves(state)):
                    value = snapshot.optimizer.get(f"{name}:{number}", np.empty(0))
                    if (value.shape, value.dtype) != (leaf.shape, leaf.dtype):
                        raise InputError(
                            f"the optimizer's state of {name} is missing or does not fit; without "
                            "--resume the run starts anew", file=source)
                    leaf[:] = mx.nd.array(value, leaf.context, leaf.dtype)
                self.updater.states[key] = state
                self.updater.states_synced[key] = True

    def _trained_weights(self):
        """Name of each parameter that is trained, and its weights by the updater's keys."""
        group = self._exec_group
        for number, (name, weights, gradients) in enumerate(
                zip(self._param_names, group.param_arrays, group.grad_arrays)):
            if gradients[0] is not None:
                keys = ([name] if self._update_on_kvstore else
                        range(number * len(weights), (number + 1) * len(weights)))
                yield name, dict(zip(keys, weights))

    def learning_rate(self, num_update):
        """The rate at present; on servers, whose optimizer nobody can ask, that of an update."""
        if self.updater:
            return self.updater.optimizer.learning_rate
        return self._optimizer.lr_scheduler(num_update)


def _call(callbacks, *args):
    """Call MXNet's callbacks: None, one, or a list of them."""
    for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
        if callback is not None:
            callback(*args)


def _leaves(state):
    """The arrays of an optimizer's state of one parameter."""
    if isinstance(state, (list, tuple)):
        return [leaf for part in state for leaf in _leaves(part)]
    return [] if state is None else [state]
