"""A Module whose `fit` is one loop, which can begin where an earlier run was stopped."""
import sys
import time

from common.cli import InputError
from common.mx_compat import mx
from training.faster_graph import is_constant

# The numbers in which MXNet's optimizers count their updates.
OPTIMIZER_COUNTERS = ("num_update", "m_schedule")
# Of the new classifier's weights.
INITIALIZER = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)

class Uninterrupted:
    """A run that begins at its first batch, saves nothing, and is not stopped.

    `fit` calls these methods between batches; what one raises ends the training. `begin` comes
    once, after the optimizer was made, to take over an earlier run's, and `begin_epoch` takes over
    the metrics of an epoch's first batches; it is False if no batch is left to train. Then come
    `before_batch` and `after_batch`, before the epoch's validation `after_training`,
    `after_validation_batch`, and `after_epoch`, which is True if the epoch shall be the last one.
    `metrics` are training's, `validation_metrics` None without validation.
    """

    epoch = 0  # the one to begin with

    def begin_epoch(self, metrics):
        return True

    def _do_nothing(self, *args):
        return False

    begin = before_batch = after_batch = _do_nothing
    after_training = after_validation_batch = after_epoch = _do_nothing


def call(callbacks, *args):
    """Call None, one callback, or a list or tuple of them."""
    for callback in filter(None, mx.module.base_module._as_list(callbacks)):
        callback(*args)


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
            began = time.monotonic()
            metrics.reset()
            if run.begin_epoch(metrics):
                for nbatch, batch in enumerate(train_data):
                    run.before_batch()
                    self.forward_backward(batch)
                    self.update()
                    self.update_metric(metrics, batch.label)
                    call(batch_end_callback,
                         mx.model.BatchEndParam(epoch, nbatch, metrics, locals()))
                    run.after_batch(self, metrics)
                for name, value in metrics.get_global_name_value():
                    self.logger.info("Epoch[%d] Train-%s=%f", epoch, name, value)
                self.logger.info("Epoch[%d] Time cost=%.3f", epoch,
                                 time.monotonic() - began)
                params = self.get_params()
                self.set_params(*params)  # the mean of the devices' running statistics
                call(epoch_end_callback, epoch, self.symbol, *params)
                run.after_training(self, metrics)
            if eval_data is not None:
                eval_data.reset()
                validation_metrics.reset()
                for nbatch, batch in enumerate(eval_data):
                    self.forward(batch, is_train=False)
                    self.update_metric(validation_metrics, batch.label)
                    call(eval_batch_end_callback,
                         mx.model.BatchEndParam(epoch, nbatch, validation_metrics, locals()))
                    run.after_validation_batch(self, metrics, nbatch)
                for name, value in validation_metrics.get_global_name_value():
                    self.logger.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
                call(eval_end_callback,
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

        On the CPU, BatchNorm updates its running statistics in it unknown to MXNet's engine: read
        too early they lack the last batch.
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

    @property
    def updater(self):
        """What holds the optimizer and its state; None where they are on servers."""
        return self._kvstore._updater if self._update_on_kvstore else self._updater

    def optimizer_state(self):
        """The optimizer's numbers, and its arrays by PARAMETER:NUMBER; both empty on servers."""
        if not self.updater:
            return {}, {}
        optimizer = self.updater.optimizer
        counters = {name: getattr(optimizer, name) for name in OPTIMIZER_COUNTERS
                    if hasattr(optimizer, name)}
        arrays = {}
        for name, weights in self.trained_weights():
            # The same on every device.
            state = self.updater.states.get(next(iter(weights)))
            arrays.update((f"{name}:{number}", leaf.asnumpy())
                          for number, leaf in enumerate(leaves(state)))
        return counters, arrays

    def trained_weights(self):
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


def leaves(state):
    """The arrays of an optimizer's state of one parameter."""
    if isinstance(state, (list, tuple)):
        return [leaf for part in state for leaf in leaves(part)]
    return [] if state is None else [state]


class NAG(mx.optimizer.NAG):
    """MXNet's, but the momentum is always of the weights before the update, as its text says.

    In place, `nag_mom_update` takes those after it, but not in oneDNN's layout, after a validation.
    """

    def _update_impl(self, index, weight, grad, state, multi_precision=False):
        if multi_precision or state is None:
            super()._update_impl(index, weight, grad, state, multi_precision)
            return
        self._update_count(index)
        mx.nd.nag_mom_update(
            weight.copy(), grad, state, out=weight, lr=self._get_lr(index), wd=self._get_wd(index),
            momentum=self.momentum, rescale_grad=self.rescale_grad,
            clip_gradient=self.clip_gradient or -1)


mx.optimizer.Optimizer.opt_registry["nag"] = NAG


def optimizer_params(flags, batches_per_epoch):
    """`optimizer_params` of Module.fit; an InputError says what MXNet has against --optimizer."""
    warmup = {"base_lr": flags.lr, "warmup_steps": int(flags.warmup_epochs * batches_per_epoch)}
    steps = sorted({int(epoch * batches_per_epoch) for epoch in flags.lr_step_epochs} - {0})
    if flags.lr_schedule == "cosine":
        scheduler = mx.lr_scheduler.CosineScheduler(
            max(flags.num_epoch * batches_per_epoch, 1), **warmup)
    elif flags.lr_schedule == "step" and steps:
        scheduler = mx.lr_scheduler.MultiFactorScheduler(steps, flags.lr_factor, **warmup)
    else:
        scheduler = mx.lr_scheduler.FactorScheduler(sys.maxsize, 1, **warmup)
    params = {"learning_rate": flags.lr, "wd": flags.wd, "lr_scheduler": scheduler,
              "multi_precision": flags.dtype == "float16"}
    if flags.optimizer in ("sgd", "nag"):
        params["momentum"] = flags.mom
    if flags.clip_gradient:
        params["clip_gradient"] = flags.clip_gradient
    try:
        mx.optimizer.create(flags.optimizer, **params)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(str(error), flag=f"--optimizer {flags.optimizer}") from None
    return params
