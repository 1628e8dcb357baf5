"""Write the demo's data set: messages to a shop's support, and the JSON that a ticket system would rather have.

    python examples/support_json/generate.py

Each row is a conversation of three messages (``messages`` format): what to do, what the customer wrote, and the answer
to learn, such as ``{"topic": "delivery", "product": "desk lamp", "order": "48213", "urgent": true}``. What makes it a
task and not a lookup: the topic is said in many ways; order numbers stand among dates, amounts and telephone numbers,
and may be missing (``null``); "no rush" and "hurry" are easily confused; and people type as they type (all lower case,
shouting, with typos, with or without greeting and name).

The rows are made from ``phrases.yaml`` with a fixed seed, so the same files come out on every machine. Held-out rows
use phrases, products, names and order numbers that no training row has.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent
INSTRUCTION = "Answer in JSON: topic, product, order, urgent."
ROWS = {"train": 600, "heldout": 100}
SEED = 135
MONTHS = ["January", "March", "May", "June", "August", "September", "October", "December"]


@dataclass(frozen=True)
class Ticket:
    """What a message is about: the four fields of the answer, in the answer's order."""

    topic: str
    product: str
    order: str | None
    urgent: bool

    def to_json(self) -> str:
        return json.dumps(vars(self))


class Writer:
    """Makes tickets and messages out of one part (``train`` or ``heldout``) of the phrases."""

    def __init__(self, phrases: dict, part: str):
        self.phrases = phrases
        self.part = part
        self.random = random.Random(f"{SEED} {part}")

    def pick(self, *path: str) -> str:
        """One phrase of the list at ``path``, such as ``("topics", "refund")``."""
        node = self.phrases
        for key in path:
            node = node[key]
        return self.random.choice(node[self.part])

    def row(self, topic: str) -> dict:
        """One line of the file: a message with this topic, and its answer."""
        has_order, urgent = self.random.random() < 0.85, self.random.random() < 0.4
        order = self.order_number() if has_order else None
        ticket = Ticket(topic, self.pick("product"), order, urgent)
        roles = {"system": INSTRUCTION, "user": self.message(ticket), "assistant": ticket.to_json()}
        return {"messages": [{"role": role, "content": content} for role, content in roles.items()]}

    def message(self, ticket: Ticket) -> str:
        """The ticket in a customer's words."""
        lines = [self.pick("topics", ticket.topic)]
        if ticket.order:
            lines.append(self.pick("order"))
        if self.random.random() < 0.35:
            lines.append(self.pick("aside"))
        if ticket.urgent:
            lines.append(self.pick("urgent"))
        elif self.random.random() < 0.25:
            lines.append(self.pick("patient"))
        if self.random.random() < 0.3:
            self.random.shuffle(lines)
        text = self.in_style(self.joined(lines))
        return self.filled(text, ticket)

    def joined(self, lines: list[str]) -> str:
        """The lines as one text, some with a greeting before and a name after."""
        text = self.random.choice([". ", ". ", ", ", "\n", " - "]).join(lines)
        if self.random.random() < 0.4:
            text = f"{self.pick('greeting')}, {text}"
        if self.random.random() < 0.35:
            text = f"{text}. {self.pick('closing')}, {{name}}"
        return (text + self.random.choice(["", ".", "!"])).replace("?.", "?").replace("?!", "?")

    def in_style(self, text: str) -> str:
        """The text as one of several people would type it. ``{placeholders}`` survive, but for their case."""
        style = self.random.choices(["careful", "lower", "hasty", "shouting"], weights=[46, 26, 23, 5])[0]
        if style == "lower":
            return text.lower()
        if style == "shouting":
            return text.upper()
        sentences = [s[:1].upper() + s[1:] for s in text.split(". ")]
        text = ". ".join(sentences)
        return self.with_typos(text) if style == "hasty" else text

    def with_typos(self, text: str) -> str:
        """The text with a slip in one or two of its longer words: a letter lost, doubled or swapped with the next."""
        words = text.split(" ")
        long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
        for i in self.random.sample(long, k=min(len(long), self.random.randint(1, 2))):
            word, at = words[i], self.random.randrange(1, len(words[i]) - 1)
            slips = [word[at + 1 :], word[at] * 2 + word[at + 1 :], word[at + 1] + word[at] + word[at + 2 :]]
            words[i] = word[:at] + self.random.choice(slips)
        return " ".join(words)

    def filled(self, text: str, ticket: Ticket) -> str:
        """The text with product, order and invented details in place of the ``{placeholders}``."""
        number = self.random.randint
        first, last = self.pick("first_name"), self.pick("last_name")
        details = {
            "product": ticket.product,
            "order": ticket.order or "",
            "name": self.random.choice([first, f"{first} {last}"]),
            "email": f"{first}.{last}@example.com".lower(),
            "date": f"{number(1, 28)} {self.random.choice(MONTHS)}",
            "amount": f"{self.random.choice(['$', '€', '£'])}{number(9, 180)}.{self.random.choice(['00', '50', '90'])}",
            "phone": f"0{number(30, 89)} {number(1000, 9999)} {number(100, 999)}",
            "postcode": str(number(10, 99) * 100),
            "year": str(number(2015, 2024)),
        }
        for key, value in details.items():
            text = text.replace(f"{{{key}}}", value).replace(f"{{{key.upper()}}}", value.upper())
        return text

    def order_number(self) -> str:
        """Five digits, some with a letter in front; the last digit is odd in held-out rows only."""
        digits = self.random.randrange(10000, 99998, 2) + (self.part == "heldout")
        return self.random.choice(["", "", "", "A", "K", "W"]) + str(digits)


def rows_of(phrases: dict, part: str) -> list[dict]:
    """All rows of one part: as many of each topic, no message twice, in random order."""
    writer = Writer(phrases, part)
    topics, rows = list(phrases["topics"]), {}
    while len(rows) < ROWS[part]:
        row = writer.row(topics[len(rows) % len(topics)])
        rows[row["messages"][1]["content"]] = row
    shuffled = list(rows.values())
    writer.random.shuffle(shuffled)
    return shuffled


def main() -> None:
    phrases = yaml.safe_load((HERE / "phrases.yaml").read_text(encoding="utf-8"))
    for part in ROWS:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(phrases, part)]
        (HERE / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
