"""Text from outside, such as file names and class names, in a form that neither steers a terminal nor forges lines."""


def one_line(text: str) -> str:
    """Escapes line breaks and all other control characters (`\\n`), which can occur in file names and in files.

    Printed as they are, they could forge lines, hide text or steer the terminal.

    >>> one_line("two\\nlines")
    'two\\\\nlines'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
