"""Predictions, metrics, thresholds and the report, for predict_multilabel.py."""
