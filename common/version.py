"""The version of this project: what --version prints and checkpoints carry; see CHANGELOG.md."""
VERSION = "1.0.0"
