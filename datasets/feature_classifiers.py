"""Logistic regressions on the features of a frozen network, which each image passes once.

    features, labels, readable = extract_features(args, read_lst(args.data))
    prob = out_of_fold(features, labels)            # each image by a classifier without it
    rows, _, _ = choose_next(features, labels, 20)  # which unlabelled images to label next
"""
import logging

import numpy as np

from common.cli import parse_numbers
from common.mx_compat import choose_devices
from common.progress import Progress
from lst_iter import LstIter
from network import checkpoint
from network.fine_tune import get_fine_tune_model, load_pretrained, split_head
from network.forward_pass import choose_forward_pass
from network.untrusted import check_shapes
from reading.read_options import ReadOptions

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
# Weight decay on features of mean 0 and deviation 1, and steps of the optimizer. With 5 % of the
# labels of 600 street photos flipped, of the first 200 suspects 0.47, 0.69, 0.84 and 0.86 were
# flipped ones at a weight decay of 0.01, 0.1, 1 and 3.
WEIGHT_DECAY = 1.0
STEPS = 100


def extract_features(args, lst):
    """The features of the images of an LstFile, whole (squashed), and their labels.

    `args` has model (prefix), epoch, rgb_mean, rgb_std, frozen_precision, image (folder), gpus and
    data_nthreads.
    Returns (images, values) and (images, classes), float32, and whether each image can be used,
    (images,), bool; the labels of those that cannot are -1.
    """
    mean, std = (parse_numbers(flag, value, float, 3) for flag, value in (
        ("--rgb-mean", args.rgb_mean), ("--rgb-std", args.rgb_std)))
    symbol, arg_params, aux_params, normalisation = load_pretrained(args.model, args.epoch, mean,
                                                                    std)
    logger.info("Normalisation of red, green, blue: %s", normalisation)
    devices = choose_devices(args.gpus)
    network = get_fine_tune_model(symbol, {}, lst.num_classes)[0]
    network = split_head(network)[0], arg_params, aux_params
    attributes = checkpoint.get_attributes(symbol)
    shape = attributes.get("image_shape", (3, 224, 224))
    check_shapes(*network, shape, f"{args.model}-symbol.json")
    features, labels, readable = [], [], []
    with LstIter(min(BATCH_SIZE, len(lst)), shape, lst, args.image, num_threads=args.data_nthreads,
                 bad_images="report",
                 read_options=ReadOptions.of_checkpoint(attributes, fit="squash")) as batches, \
            Progress("Features", len(lst), "images") as progress:
        forward, reason = choose_forward_pass(
            network, batches.provide_data[0], devices, args.frozen_precision, len(lst),
            lambda: batches.next().data[0])
        batches.seek(0, 0)
        logger.info("Features in %s%s", forward.precision, reason and f": {reason}")
        for batch in batches:
            count = batches.batch_size - batch.pad
            features.append(forward(batch.data[0], count).values())
            labels.append(batch.label[0].asnumpy()[:count])
            readable += [slot not in batch.bad for slot in range(count)]
            progress.update(count)
    return np.concatenate(features), np.concatenate(labels), np.array(readable)


def out_of_fold(features, labels, folds=5, seed=0):
    """Probabilities, (samples, classes), each by a classifier of the other folds.

    `features` is (samples, values), `labels` (samples, classes) with -1 for unknown.
    """
    prob = np.empty(labels.shape, np.float32)
    fold = np.random.RandomState(seed).permutation(len(features)) % folds
    for number in range(folds):
        train, held_out = fold != number, fold == number
        scaled = standardised(features, train)
        weight, bias = train_logistic(scaled[train], labels[train])
        prob[held_out] = sigmoid(scaled[held_out] @ weight + bias)
    return prob


def standardised(features, rows):
    """The features, shifted and scaled to mean 0 and deviation 1 over some of the rows."""
    mean, deviation = features[rows].mean(axis=0), features[rows].std(axis=0)
    return (features - mean) / np.maximum(deviation, 1e-3 * deviation.max() + 1e-12)


def train_logistic(features, labels):
    """Weights, (values, classes), and biases of one logistic regression per class.

    Nesterov's accelerated gradient method on the mean cross-entropy with WEIGHT_DECAY; unknown
    labels (-1) count nowhere.
    """
    vector = np.ones(features.shape[1], np.float32)
    for _ in range(20):  # its norm approaches the largest eigenvalue of features.T @ features
        vector = features.T @ (features @ (vector / np.linalg.norm(vector)))
    step = 1 / (0.25 * np.linalg.norm(vector) / len(features) + WEIGHT_DECAY)
    known = (labels >= 0) / np.float32(len(labels))
    present, absent = ((labels > 0.5).sum(axis=0), ((labels >= 0) & (labels <= 0.5)).sum(axis=0))
    bias = np.log((present + 0.5) / (absent + 0.5)).astype(np.float32)
    weight = last = np.zeros((features.shape[1], labels.shape[1]), np.float32)
    for number in range(STEPS):
        error = (sigmoid(features @ weight + bias) - labels) * known
        new = weight - step * (features.T @ error + WEIGHT_DECAY * weight)
        weight, last = new + number / (number + 3) * (new - last), new
        bias = bias - error.sum(axis=0)
    return last, bias


def sigmoid(logit):
    """The probability of a logit; extreme ones are taken as 30 or -30."""
    return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))


def choose_next(features, labels, count):
    """Choose images without a known label: their rows, gains and probabilities.

    The image is next for which the sum over classes of prob / (labels + 1) is largest, where the
    labels are the present ones and those to be expected of the images chosen before: so each is
    chosen for other classes than the one before. The probabilities are those of logistic
    regressions. Bengar et al., "Class-Balanced Active Learning for Image Classification", WACV 2022
    (https://arxiv.org/abs/2110.04543), argue for balance; docs/labels.md has what was measured.

    `features` are (images, values), `labels` (images, classes), -1 for unknown.
    Returns at most `count` rows, in the order of choice; the terms of their sums and the
    probabilities of the classes, both (rows, classes).
    """
    known = (labels >= 0).any(axis=1)
    scaled = standardised(features, slice(None))
    weight, bias = train_logistic(scaled[known], labels[known])
    prob = sigmoid(scaled[~known] @ weight + bias)
    expected = 1 + np.count_nonzero(labels > 0.5, axis=0).astype(float)
    chosen, gains, left = [], [], np.ones(len(prob), bool)
    while left.any() and len(chosen) < count:
        row = int(np.argmax(np.where(left, prob @ (1 / expected), -1)))
        chosen.append(row)
        gains.append(prob[row] / expected)
        expected, left[row] = expected + prob[row], False
    return np.flatnonzero(~known)[chosen], np.array(gains), prob[chosen]
