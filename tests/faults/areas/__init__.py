"""The cases, one file per area. A file that is added here is listed in `matrix.py`."""
