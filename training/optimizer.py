"""From flags to the optimizer's parameters and its schedule of learning rates."""
import sys

from common.cli import InputError
from common.mx_compat import mx

# Of the new classifier's weights.
INITIALIZER = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)


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
