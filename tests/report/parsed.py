"""Pages as a parser sees them."""

from html.parser import HTMLParser

VOID = {"meta", "line", "circle", "path", "rect", "br", "img", "input"}


class Page(HTMLParser):
    """The page as a parser sees it: elements with attributes, words, and that every element is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name, **wanted):
        found = [attributes for tag, attributes in self.elements if tag == name]
        return [a for a in found if all(a.get(key) == value for key, value in wanted.items())]

    @property
    def text(self):
        return " ".join("".join(self.words).split())
