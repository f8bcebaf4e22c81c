"""Fine-tune a pretrained MXNet network to multi-label classification.

    python train_multilabel.py --model pretrained/efficientnet_lite0 --epoch 0 \\
        --data-train demo/data/train.lst --image-train demo/data/images \\
        --data-val demo/data/val.lst --image-val demo/data/images \\
        --labels demo/data/labels.txt --save-result result --save-name demo --num-epoch 2
    python train_multilabel.py --help
"""
import json
import logging
import os
import time

import numpy as np
from tqdm import tqdm

import checkpoint
from cli import InputError, run
from lst_iter import LstIter, augment_from_args
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision
from mx_compat import mx
from reading.class_names import read_class_names
from training.merged_metrics import MergedMetrics
from training.optimization import choose_loss, frozen_parameters, optimizer_params, training_symbol
from training.snapshot import ResumableModule, load_snapshot, snapshot_files, what_must_stay
from training.train_flags import numbers, parse_args
from training.training_run import Stopped, TrainingRun, log_to
from training.warm_head import train_head
from training.worker_lists import WorkersList
from training.worker_process import create_kvstore, leaving_on_failure
from training.workers import Workers

logger = logging.getLogger("train_multilabel")

CLASSIFIERS = ("FullyConnected", "Convolution")
# What may stand between the classifier and the network's output.
AFTER_CLASSIFIER = (
    "SoftmaxOutput", "softmax", "log_softmax", "SoftmaxActivation", "LogisticRegressionOutput",
    "sigmoid", "Custom", "Activation", "relu", "Flatten", "flatten", "Reshape", "reshape",
    "squeeze", "Pooling", "Dropout", "Cast", "_copy", "BlockGrad")

# Training's mAP is that of the epoch's latest samples, to bound its memory.
TRAINING_MAP_SAMPLES = 20000


def find_features(sym):
    """Name of the layer that feeds the network's classifier.

    The classifier is the last FullyConnected or Convolution that nothing but pooling,
    activations, reshaping and an output layer follow. A network without one gives its own output.

    Raises
    ------
    InputError
        When the network has several outputs.
    """
    graph = json.loads(sym.tojson())
    if len(graph["heads"]) != 1:
        raise InputError("the network has several outputs; name the layer to build on with "
                         f"--layer-before-fullc: {likely_layers(sym)}")
    index = graph["heads"][0][0]
    while graph["nodes"][index]["op"] in AFTER_CLASSIFIER:
        index = graph["nodes"][index]["inputs"][0][0]
    if graph["nodes"][index]["op"] in CLASSIFIERS:
        index = graph["nodes"][index]["inputs"][0][0]
    else:
        index = graph["heads"][0][0]
    return graph["nodes"][index]["name"]


def likely_layers(sym):
    """The last layers that a classifier could stand on, in words."""
    layers = [node["name"] for node in json.loads(sym.tojson())["nodes"]
              if node["op"] in ("Flatten", "Pooling", "Dropout", "Activation", "FullyConnected",
                                "Concat", "BatchNorm", "clip", "flatten")]
    return ", ".join(reversed(layers[-8:]))


def get_fine_tune_model(sym, arg_params, num_classes, layer_name=None, dtype="float32",
                        **loss):
    """Cut the classifier off a pretrained network and put a multi-label head in its place.

    The head is FullyConnected `fc`, sigmoid `sig` and CrossEntropyLoss `softmax` (so that the
    label is `softmax_label`). A feature map is averaged over its pixels first.

    Parameters
    ----------
    sym : mx.sym.Symbol
        Pretrained network with an input called `data`, (batch, 3, height, width).
    arg_params : dict of str to mx.nd.NDArray
        Its parameters.
    num_classes : int
        Outputs of the new classifier.
    layer_name : str, optional
        Layer whose output the classifier takes; None finds it (see `find_features`).
    dtype : str
        Type of the features; where it is not float32 they are cast for the head.
    **loss
        Options of CrossEntropyLoss, see crossentropy_op.loss_options.

    Returns
    -------
    net : mx.sym.Symbol
        The new network; its output is the probabilities, (batch, num_classes).
    new_args : dict of str to mx.nd.NDArray
        The parameters that it takes over: all of what is left of the pretrained network.

    Raises
    ------
    InputError
        When there is no such layer; the message lists the likely ones.
    """
    layers = sym.get_internals()
    name = layer_name or find_features(sym)
    inputs = sym.list_inputs()  # parameters and labels are no layers
    outputs = [output for output in layers.list_outputs() if output not in inputs]
    output = next((o for o in (name + "_output", name) if o in outputs), None)
    if output is None:
        raise InputError(f"--layer-before-fullc: the network has no layer {layer_name!r}; "
                         f"likely ones: {likely_layers(sym)}")
    net = layers[output]
    kept = net.list_arguments()
    if any(argument.endswith("label") for argument in kept):
        raise InputError(f"--layer-before-fullc: {name} comes after the network's own loss; likely "
                         f"ones: {likely_layers(sym)}")
    image_shape = checkpoint.get_attributes(sym).get("image_shape", [3, 224, 224])
    try:
        _, (shape,), _ = net.infer_shape_partial(data=(1, *image_shape))
    except mx.MXNetError as error:
        raise InputError(f"the network does not work on images of {image_shape}: "
                         f"{first_line(error)}") from None
    if dtype != "float32":
        net = mx.sym.Cast(net, dtype="float32", name="features_float32")
    if len(shape) == 4:
        net = mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1),
                             name="fc_pool")
        net = mx.sym.Flatten(net, name="fc_flatten")
    # A backbone that has a layer called fc of its own keeps it.
    head = "fc" if "fc_weight" not in kept else "fc_multilabel"
    net = mx.sym.FullyConnected(net, num_hidden=num_classes, name=head)
    net = mx.sym.sigmoid(net, name="sig")
    net = mx.sym.Custom(net, name="softmax", op_type="CrossEntropyLoss",
                        **{option: str(value) for option, value in loss.items()})
    return net, {key: arg_params[key] for key in kept if key in arg_params}


def load_pretrained(args):
    """The pretrained network, which takes raw pixels: symbol, arg_params, aux_params."""
    sym, arg_params, aux_params = checkpoint.load(args.model, args.epoch)
    if checkpoint.has_normalisation(sym):
        if args.rgb_mean or args.rgb_std:
            raise InputError(f"{args.model}-symbol.json normalises by itself: leave out "
                             "--rgb-mean and --rgb-std")
        mean, std = (arg_params[name].asnumpy().ravel() for name in checkpoint.CONSTANTS)
    else:
        mean = args.rgb_mean or checkpoint.IMAGENET_MEAN
        std = args.rgb_std or checkpoint.IMAGENET_STD
    args.image_shape = args.image_shape or checkpoint.get_attributes(sym).get(
        "image_shape", [3, 224, 224])
    sym, constants = checkpoint.with_normalisation(sym, mean, std, args.dtype)
    sym = checkpoint.set_attributes(sym, image_shape=args.image_shape)
    return sym, {**arg_params, **constants}, aux_params


def first_line(error):
    """What an MXNetError says, without its stack."""
    return str(error).splitlines()[0]


def open_iterator(args, images, train):
    """A training or a validation iterator over a WorkersList."""
    return LstIter(
        batch_size=args.batch_size, data_shape=args.image_shape, path_imglist=images.lst,
        path_root=images.folder, shuffle=train, part_index=images.readers.rank,
        num_parts=images.readers.count, seed=args.seed, num_threads=args.data_nthreads,
        bad_images=args.bad_images, augment=augment_from_args(args, train=train))


def choose_devices(gpus):
    """Contexts for --gpus."""
    if gpus is None:
        gpus = ",".join(str(i) for i in range(mx.context.num_gpus()))
    chosen = numbers("--gpus", gpus, int)
    for gpu in chosen:
        if not 0 <= gpu < mx.context.num_gpus():
            raise InputError(f"--gpus: there is no GPU {gpu}: MXNet sees "
                             f"{mx.context.num_gpus()}; --gpus '' takes the CPU")
    return [mx.gpu(gpu) for gpu in chosen] or [mx.cpu()]


def check_shapes(net, arg_params, aux_params, image_shape, source):
    """Parameters must fit the network at this image size, or it is an InputError."""
    try:
        shapes, _, aux_shapes = net.infer_shape(data=(1, *image_shape))
    except mx.MXNetError as error:
        raise InputError(f"the network does not work on images of {image_shape}: "
                         f"{first_line(error)}") from None
    known = [*zip(net.list_arguments(), shapes), *zip(net.list_auxiliary_states(), aux_shapes)]
    for name, shape in known:
        value = arg_params.get(name, aux_params.get(name))
        if value is not None and value.shape != shape:
            raise InputError(f"{source}: {name} is {value.shape}, but images of {image_shape} "
                             f"and these classes want {shape}; is it another network's?")


def test_io(train):
    """Read one epoch and log how fast that went."""
    start, images = time.time(), 0
    for batch in tqdm(train, total=train.num_batches, unit="batch", disable=None):
        images += train.batch_size - batch.pad
    seconds = time.time() - start
    logger.info("Read %d images in %.1f s: %.0f samples/sec", images, seconds, images / seconds)
    return 0


def fit(args, net, arg_params, aux_params, train, val, val_lst, kv, state, snapshot, devices,
        frozen, optimizer):
    """Module.fit with everything around it."""
    compression = {"type": args.gc_type, "threshold": args.gc_threshold}
    module = ResumableModule(
        training_symbol(net, frozen, args.head_lr_mult), context=devices, logger=logger,
        label_names=["softmax_label"], fixed_param_names=frozen,
        compression_params=compression if args.gc_type != "none" else None)
    module.snapshot_optimizer = snapshot and snapshot.optimizer
    state.module = module
    validation = measures(state.metrics.metrics[0].options, state.workers)

    def validated(param):
        absent, present = val_lst.negatives.sum(), val_lst.positives.sum()
        logger.info("Epoch[%d] answering 'no' to everything would score acc %.4f", param.epoch,
                    absent / max(absent + present, 1))
        scores = dict(validation.get_global_name_value())
        state.class_precision = validation.class_precision()
        state.close_epoch(param.epoch, scores)

    params = {"arg_params": arg_params, "aux_params": aux_params, "allow_missing": True,
              "initializer": mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)}
    optimizer = {"kvstore": kv if "dist" in kv.type else args.kv_store,
                 "optimizer": args.optimizer, "optimizer_params": optimizer}
    validate = {"eval_end_callback": validated,
                "eval_batch_end_callback": state.on_validation_batch}
    if state.begin_batch == train.num_batches and not val:
        state.begin_epoch, state.begin_batch = state.begin_epoch + 1, 0
    elif state.begin_batch == train.num_batches:
        # Stopped between an epoch's training and the end of its validation.
        module.bind(train.provide_data, train.provide_label)
        module.init_params(**params)
        module.init_optimizer(**optimizer)
        state.metrics.reset()
        module.score(val, validation, epoch=state.begin_epoch, score_end_callback=validated,
                     batch_end_callback=state.on_validation_batch)
        for name, value in validation.get_name_value():
            logger.info("Epoch[%d] Validation-%s=%f", state.begin_epoch, name, value)
        state.begin_epoch, state.begin_batch = state.begin_epoch + 1, 0
    train.seek(state.begin_epoch, state.begin_batch)
    mx.random.seed(args.seed)
    np.random.seed(args.seed)
    state.seed_batch(state.begin_epoch, state.begin_batch)
    state.epoch_started = time.monotonic()
    module.fit(
        train, eval_data=val, eval_metric=state.metrics, validation_metric=validation,
        batch_end_callback=[
            mx.callback.Speedometer(args.batch_size * state.workers.count, args.disp_batches),
            state.on_batch],
        epoch_end_callback=state.on_epoch, **validate, **optimizer, **params,
        begin_epoch=state.begin_epoch, num_epoch=args.num_epoch)


def measures(loss, workers, latest=None):
    """Loss, accuracy and mAP over all workers, for the operator's options.

    With `latest` (samples that mAP keeps) for training, without for validation.
    """
    kept = latest and -(-latest // workers.count)
    return MergedMetrics([Loss(loss), Accuracy(), MeanAveragePrecision(latest=kept)], workers,
                         local=latest is not None)


@leaving_on_failure
def main(argv=None):
    """Train, and log to standard error and to train.log what came of it."""
    args = parse_args(argv)
    devices = choose_devices(args.gpus)
    if args.dtype == "float16" and devices[0].device_type == "cpu":
        raise InputError("--dtype float16 needs a GPU: MXNet has no float16 convolution for CPUs")
    if args.gc_type != "none" and "dist" not in args.kv_store and len(devices) == 1:
        raise InputError(f"--gc-type {args.gc_type} compresses what several devices or machines "
                         "send each other, but this run has one device")
    kv = create_kvstore(args.kv_store)
    with Workers(kv) as workers:
        try:
            return train_model(args, devices, kv, workers)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "Failed to allocate" not in str(error):
                raise
            raise InputError("out of memory: a smaller --batch-size or --image-shape takes "
                             "less") from None


def train_model(args, devices, kv, workers):
    """What `main` does, as one of the workers; the exit status."""
    sym, arg_params, aux_params = load_pretrained(args)
    train_lst = WorkersList(args.data_train, args.image_train, workers, args.num_classes,
                            args.label_format)
    # make_lst.py shard fills the shorter lists up with a row that does not count.
    fillers = workers.count - 1 if train_lst.lst.path != args.data_train else 0
    if (args.num_examples is not None
            and not 0 <= train_lst.num_rows - args.num_examples <= fillers):
        raise InputError(f"{args.data_train} has {train_lst.num_rows} rows, but --num-examples "
                         f"is {args.num_examples}")
    train = open_iterator(args, train_lst, train=True)
    val_lst = val = None
    if args.data_val:
        val_lst = WorkersList(args.data_val, args.image_val or args.image_train, workers,
                              train.num_classes, args.label_format)
        val = open_iterator(args, val_lst, train=False)
    log_to(args.save_result, workers.rank)
    if args.test_io:
        return test_io(train)

    loss = choose_loss(args, train_lst)
    net, arg_params = get_fine_tune_model(
        sym, arg_params, train.num_classes, args.layer_before_fullc, args.dtype, **loss)
    reading = augment_from_args(args, train=False)
    class_names = args.labels and read_class_names(args.labels, train.num_classes)
    # Thresholds of an earlier fine-tuning are none of this one's.
    net = checkpoint.set_attributes(
        net, class_names=class_names, image_shape=args.image_shape, resize=reading.resize,
        fit=reading.fit, thresholds=None, thresholds_epoch=None)
    aux_params = {k: aux_params[k] for k in net.list_auxiliary_states() if k in aux_params}
    check_shapes(net, arg_params, aux_params, args.image_shape, args.model)

    prefix = os.path.join(args.save_result, args.save_name)
    state = TrainingRun(
        args, prefix, net, train.num_batches, measures(loss, workers, TRAINING_MAP_SAMPLES),
        what_must_stay(args, net, train_lst, val_lst, workers), train_lst.num_rows, workers)
    snapshot = None
    if state.saves:
        checkpoint.remove_unfinished(prefix)
    if args.resume or args.resume_anyway:
        snapshot = load_snapshot(prefix, workers)
        if not snapshot:
            logger.log(logging.INFO if workers.rank else logging.WARNING,
                       "--resume: there is no %s: starting anew", snapshot_files(prefix)[0])
    logger.info(" ".join(f"{k}={v}" for k, v in sorted(vars(args).items())))
    logger.info("%d training images, %d classes, %.2f labels an image", train_lst.num_rows,
                train.num_classes, train_lst.positives.sum() / train_lst.num_rows)
    if snapshot:
        state.restore(snapshot)
        arg_params, aux_params = snapshot.arg_params, snapshot.aux_params
        check_shapes(net, arg_params, aux_params, args.image_shape, f"{prefix}-resume.npz")
        logger.info("Resuming at epoch %d, batch %d", state.begin_epoch, state.begin_batch)
    elif state.saves and os.path.exists(snapshot_files(prefix)[0]):
        logger.warning("%s holds an earlier run's state: this run starts anew and replaces it "
                       "(--resume would go on from it)", snapshot_files(prefix)[0])
    frozen = frozen_parameters(net, args.freeze)
    # Servers that update for each worker by itself count all workers' batches.
    optimizer = optimizer_params(
        args, train.num_batches * (1 if workers.in_step else workers.count))
    state.catch_signals()
    try:
        if args.warm_head_epochs and not snapshot:
            still = open_iterator(args, train_lst, train=False)
            val_metric = measures(loss, Workers())
            head, scores = train_head(
                net, arg_params, aux_params, still, val, args.warm_head_epochs,
                args.warm_head_mirror, loss, measures(loss, Workers(), TRAINING_MAP_SAMPLES),
                val_metric, devices, args.seed, args.save_result, args.warm_head_memory * 1e6,
                workers, state.on_warm_head_batch)
            arg_params.update(head)
            state.class_precision = val_metric.class_precision()
            state.after_warm_head(arg_params, aux_params, scores)
        if state.stopped_early:
            logger.info("--early-stop has ended this run already")
        elif state.begin_epoch < args.num_epoch:
            fit(args, net, arg_params, aux_params, train, val, val_lst, kv, state, snapshot,
                devices, frozen, optimizer)
    except Stopped as stopped:
        if stopped.status:
            return stopped.status
    state.say_what_was_reached(val_lst and val_lst.positives)
    return 0


if __name__ == "__main__":
    run(main)
