"""All readers that are fuzzed, by name."""

from tests.fuzz import texts, weights
from tests.fuzz.reader import Reader

READERS: dict[str, Reader] = {reader.name: reader for reader in (*weights.READERS, *texts.READERS)}
