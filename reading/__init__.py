"""Reading images and .lst files, for lst_iter.py."""
