"""Predicting, measuring and reporting, for predict_multilabel.py."""
