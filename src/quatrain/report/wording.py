"""Numbers written the way a person reads them. Everything here takes a number and gives a short string."""

import math

GIB = 2**30
MIB = 2**20
MINUS = "\N{MINUS SIGN}"
# Task scores whose names end like this are fractions of examples.
FRACTIONS = ("match", "accuracy", "acc", "acc_norm", "rate", "f1")


def number(value: float, digits: int = 3) -> str:
    """To so many significant digits; thousands are grouped, very small and very large numbers use a power of ten."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value != 0 and not 1e-3 <= abs(value) < 1e9:
        return scientific(value, digits - 1)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def scientific(value: float, decimals: int) -> str:
    """With a power of ten, and at most so many decimals before it: ``1.5e−4``, ``2e12``."""
    mantissa, _, exponent = f"{value:.{decimals}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


def count(value: float) -> str:
    """A whole number; from ten thousand on in three digits and a unit: 9,999, then 12.3k, 4.88M, 1.24B."""
    if not math.isfinite(value):
        return number(value)
    for least, unit, letter in ((10**9, 10**9, "B"), (10**6, 10**6, "M"), (10**4, 10**3, "k")):
        if value >= least:
            return number(value / unit) + letter
    return f"{round(value):,}"


def score(name: str, value: float) -> str:
    """A task's score: a percentage when its name says that it is a fraction of examples."""
    if name.endswith(FRACTIONS) and math.isfinite(value):
        return f"{100 * value:.1f} %"
    return number(value)


def size(amount: float) -> str:
    """Bytes in GiB, or in MiB below one."""
    return f"{amount / GIB:.2f} GiB" if amount >= GIB else f"{amount / MIB:.0f} MiB"


def step_time(seconds: float) -> str:
    """``9.06 ms``, ``1.28 s``."""
    return f"{number(1000 * seconds)} ms" if abs(seconds) < 1 else f"{number(seconds)} s"


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
