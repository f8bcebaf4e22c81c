"""Labels in other formats to .lst files, and checks of both, for tools/make_lst.py."""
