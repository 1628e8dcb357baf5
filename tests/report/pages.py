"""A page as a browser parses it, for tests."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "path", "rect"}


class Page(HTMLParser):
    """Collects what a test asks about, and checks on the way that tags close in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for key, value in attrs.items() if key == name]

    def texts_of(self, tag: str) -> list[str]:
        return [data for inside, data in self.text if inside == tag]

    def shown(self) -> str:
        return "".join(data for inside, data in self.text if inside not in ("script", "style"))
