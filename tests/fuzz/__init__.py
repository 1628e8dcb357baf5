"""Fuzzing of everything that reads a file which somebody else may have made.

A reader gets bytes that no program would write. It may do two things with them: read them, or raise one of our typed
errors. Anything else (another exception, a crash, a hang, memory taken on the word of a file) is a finding.

`readers.py` and its neighbours say what is read, `mutations.py` how good files are spoiled. A short run is part of the
suite (`test_readers.py`); `python -m tests.fuzz` runs as long as one likes, guided by coverage (atheris).
"""
