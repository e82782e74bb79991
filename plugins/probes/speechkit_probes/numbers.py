"""Parameters that are several numbers in a text."""


def numbers(text: str | float) -> list[float]:
    """The numbers in a text, with spaces between them; none if a word of it is no number."""
    try:
        return [float(word) for word in str(text).split()]
    except ValueError:
        return []


def whole_numbers(text: str | int) -> list[int]:
    """The same for whole numbers from 0."""
    words = str(text).split()
    return [int(word) for word in words] if all(map(str.isdecimal, words)) else []
