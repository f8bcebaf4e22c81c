"""The metrics of training and of validation: loss, accuracy and mAP, over all workers' samples."""
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision
from training.data import Split

# Training's mAP is that of the epoch's latest samples, to bound its memory and each snapshot's.
TRAINING_MAP_SAMPLES = 20000
TRAINING_MAP_BYTES = 50e6
BYTES_PER_LABEL = 5


def make_metrics(loss, num_classes, workers):
    """The metrics of a run, a Split; `loss` are options of CrossEntropyLoss."""
    samples = min(TRAINING_MAP_SAMPLES, TRAINING_MAP_BYTES / (BYTES_PER_LABEL * num_classes))
    latest = max(int(samples / workers.count), 1)
    return Split(*(workers.metrics([Loss(loss), Accuracy(), MeanAveragePrecision(latest=latest)])
                   for latest in (latest, None)))
