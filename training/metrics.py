"""The metrics of training and of validation: loss, accuracy and mAP, over all workers' samples."""
from multilabel_metric import Accuracy, Loss, MeanAveragePrecision

# Training's mAP is that of the epoch's latest samples, to bound its memory and each snapshot's.
TRAINING_MAP_SAMPLES = 20000
TRAINING_MAP_BYTES = 50e6
BYTES_PER_LABEL = 5


def training_metrics(loss, num_classes, workers):
    """Metrics of training, for these options of the operator."""
    samples = min(TRAINING_MAP_SAMPLES, TRAINING_MAP_BYTES / (BYTES_PER_LABEL * num_classes))
    latest = max(int(samples / workers.count), 1)
    return workers.metrics([Loss(loss), Accuracy(), MeanAveragePrecision(latest=latest)])


def validation_metrics(loss, workers):
    """Metrics of validation, for these options of the operator."""
    return workers.metrics([Loss(loss), Accuracy(), MeanAveragePrecision()])
