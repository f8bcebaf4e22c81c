"""What goes on around Module.fit, for train_multilabel.py."""
