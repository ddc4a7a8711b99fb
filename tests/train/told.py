"""A reporter whose lines a test can read."""

from concord.train.reporter import Reporter


class Told(Reporter):
    """Keeps the lines that it is told, warnings among them."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)
