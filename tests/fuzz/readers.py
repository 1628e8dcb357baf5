"""All readers that are fuzzed, by name; run as a program, it prints the names."""

from tests.fuzz import texts, weights
from tests.fuzz.reader import Reader

READERS: dict[str, Reader] = {reader.name: reader for reader in (*weights.READERS, *texts.READERS)}


if __name__ == "__main__":
    print(*READERS)
