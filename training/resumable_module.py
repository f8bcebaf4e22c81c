"""A Module whose `fit` goes on from a snapshot as if the run had never been stopped."""
import functools

import numpy as np

from common.cli import InputError
from common.mx_compat import mx
from training.faster_graph import is_constant

# The numbers in which MXNet's optimizers count their updates.
NUMBERS = ("num_update", "m_schedule")


class ResumableModule(mx.mod.Module):
    """A Module whose label is `softmax_label`, and whose parameters are exact whenever read.

    `fit` goes on from `snapshot`, which `resume.check_snapshot` has checked. `whole` are the
    parameters, arg_params and aux_params, of a network of which the symbol is only a part.
    """

    def __init__(self, symbol, snapshot=None, whole=({}, {}), fixed_param_names=(), **options):
        constants = filter(is_constant, symbol.list_arguments())
        super().__init__(symbol, label_names=["softmax_label"],
                         fixed_param_names=[*fixed_param_names, *constants], **options)
        self._snapshot, self._whole = snapshot, whole
        self._metric_state = None
        self._missing_validation = None

    def fit(self, train_data, eval_data=None, eval_metric="acc", **options):
        """As Module's, but begins at the snapshot's batch with its parameters and metrics."""
        if self._snapshot:
            record = self._snapshot.record
            epoch, batch = record.epoch, record.batch
            options.update(arg_params=self._snapshot.arg_params,
                           aux_params=self._snapshot.aux_params)
            if batch:
                self._metric_state = self._snapshot.metrics
            if batch == train_data.num_batches:
                if eval_data is None:
                    record.epoch, record.batch = epoch + 1, 0
                else:
                    self._missing_validation = functools.partial(
                        self._validate, eval_data, eval_metric, epoch, options)
                epoch, batch = epoch + 1, 0
            train_data.seek(epoch, batch)
            options["begin_epoch"] = epoch
        super().fit(train_data, eval_data, eval_metric, **options)

    def set_params(self, arg_params, aux_params, **options):
        """As Module's; takes the whole network's parameters, and keeps its own constants."""
        params = [{**{name: value for name, value in (own or {}).items() if is_constant(name)},
                   **given} for own, given in ((self._arg_params, arg_params),
                                               (self._aux_params, aux_params))]
        super().set_params(*params, **{**options, "allow_extra": True})

    def _validate(self, eval_data, eval_metric, epoch, options):
        """Make up for the validation in which the run was stopped."""
        self._load_metrics(eval_metric)
        self.score(eval_data, options["validation_metric"], epoch=epoch,
                   score_end_callback=options["eval_end_callback"],
                   batch_end_callback=options["eval_batch_end_callback"])

    def _load_metrics(self, eval_metric):
        if self._metric_state is not None:
            eval_metric.load_state(self._metric_state)
            self._metric_state = None

    def init_optimizer(self, *args, **options):
        """As Module's, and then take over rank 0's parameters and the snapshot's optimizer.

        Module.fit calls this last before its first epoch: so the missing validation is here, too.
        """
        super().init_optimizer(*args, **options)
        if self._kvstore and "dist" in self._kvstore.type:
            self.pull_params()
        if self._snapshot:
            self._load_optimizer(self._snapshot)
        if self._missing_validation:
            self._missing_validation()

    def update_metric(self, eval_metric, labels, pre_sliced=False):
        """As Module's; the first batch goes on from the snapshot's metrics.

        Module.fit resets the metrics after all that could be called before its first batch.
        """
        self._load_metrics(eval_metric)
        super().update_metric(eval_metric, labels, pre_sliced)

    def score(self, eval_data, eval_metric, score_end_callback=None, epoch=0, **options):
        """As Module's, but logs the values before the callback, which may end the run."""
        for name, value in super().score(eval_data, eval_metric, epoch=epoch, **options):
            self.logger.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
        if score_end_callback:
            score_end_callback(mx.model.BatchEndParam(epoch, None, eval_metric, None))
        return []

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
        progress = {name: getattr(optimizer, name) for name in NUMBERS if hasattr(optimizer, name)}
        arrays = {}
        for name, weights in self._trained_weights():
            # The same on every device.
            state = self.updater.states.get(next(iter(weights)))
            arrays.update((f"{name}:{number}", leaf.asnumpy())
                          for number, leaf in enumerate(_leaves(state)))
        return progress, arrays

    def _load_optimizer(self, snapshot):
        if not self.updater or not snapshot.progress:
            return
        optimizer, source = self.updater.optimizer, snapshot.source
        for name in NUMBERS:
            if hasattr(optimizer, name):
                value = snapshot.progress.get(name)
                if type(value) is not type(getattr(optimizer, name)) or not 0 <= value < 2 ** 31:
                    raise InputError(f"{source}: the optimizer's {name} is missing or wrong")
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
                        raise InputError(f"{source}: the optimizer's state of {name} is missing "
                                         "or does not fit; without --resume the run starts anew")
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

    def get_params(self):
        """As Module's, but the whole network's, and after the last backward pass has ended.

        On the CPU, BatchNorm updates its running statistics in it unknown to MXNet's engine. Read
        too early they lack the last batch, and Module.fit writes back what it reads.
        """
        mx.nd.waitall()
        return tuple({**whole, **{name: value for name, value in own.items()
                                  if not is_constant(name)}}
                     for whole, own in zip(self._whole, super().get_params()))


def _leaves(state):
    """The arrays of an optimizer's state of one parameter."""
    if isinstance(state, (list, tuple)):
        return [leaf for part in state for leaf in _leaves(part)]
    return [] if state is None else [state]
