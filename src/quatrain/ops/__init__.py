"""Operations on plain tensors, one folder each.

A folder holds ``reference.py`` (plain PyTorch: the specification, the CPU path and the oracle of every test),
``triton.py`` (the same signature as GPU kernels) and ``__init__.py`` (validates once, then dispatches on the device).
Nothing above this floor asks where a tensor lives.
"""
