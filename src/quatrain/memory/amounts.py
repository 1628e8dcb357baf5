"""Bytes and seconds as people write and read them: GB are 10⁹ bytes, GiB are 2³⁰."""

import re

from quatrain.errors import ConfigError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as "24GB", "11.5 GiB" or "900 MB".

    Raises:
        ConfigError: it isn't one.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if found is None or found[2].lower() not in _UNITS or float(found[1]) == 0:
        raise ConfigError(f"`memory` must be an amount with its unit, such as 24GB or 11.5GiB; found {text!r}")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def gigabytes(nbytes: float) -> str:
    """ "21.4 GB", or in MB below a tenth of one."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """ "1.28 s" or "94 ms"."""
    if seconds >= 1:
        return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.0f} ms"
