"""How many rows of logits exist at once. Plain numbers, because the memory planner asks as well."""

# Logits of a chunk, in elements. On a CPU, 8 to 16 MiB stay near the cache.
_CPU_CHUNK = 1 << 22
# On a GPU the product back to the hidden states has only rows × H outputs to spread over the card: so many fill it.
_GPU_OUTPUTS = 1 << 22
# More logits than that (512 MiB in 16 bits) gain nothing, however narrow the hidden states.
_GPU_CHUNK = 1 << 28
# Columns are allocated in multiples of this, so that every row of logits starts on a 16-byte boundary.
_ALIGNMENT = 16


def rows_of_a_chunk(tokens: int, hidden: int, vocabulary: int, *, on_gpu: bool, most: int | None = None) -> int:
    """Rows of a chunk of ``tokens`` rows, ``most`` at most if that is given.

    A CPU library prepares (and keeps) code for every new shape, so there the number doesn't depend on ``tokens``. On a
    GPU the chunks are as equal as can be, since a last chunk of few rows would leave most of the card idle.
    """
    full = max(1, min(_GPU_OUTPUTS // hidden, _GPU_CHUNK // vocabulary) if on_gpu else _CPU_CHUNK // vocabulary)
    full = min(full, most or full)
    if not on_gpu:
        return min(tokens, full)
    chunks = max(1, -(-tokens // full))
    return -(-tokens // chunks)


def columns_of_logits(vocabulary: int) -> int:
    """Columns that a row of logits is allocated with."""
    return -(-vocabulary // _ALIGNMENT) * _ALIGNMENT
