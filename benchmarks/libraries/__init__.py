"""How each library is driven: the same few doors for all (train, load, decode), a file each.

Libraries are imported inside the functions: every contender's process loads only its own, and Unsloth must come before
transformers.
"""
