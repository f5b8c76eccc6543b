"""Which lines of a text are left out before they are tokenized: the rules of Vokenization's tokenize_dataset.py.

    wiki103   titles, lines that start with " = "; then what `wiki` leaves out
    wiki      lines of fewer than five words, parted by single blanks; lines of one word count as titles; then what `empty` leaves out
    empty     lines of nothing but white space

With each of them, lines that have no tokens are left out too. Vokenization takes the rule from the folder's name; here it is asked for.
"""

FILTERS = ("wiki103", "wiki", "empty")
FEWEST = 5  # words of a line of a wiki corpus


def reason(rule: str, line: str) -> str:
    """Why a line is left out, "" if it is kept; line: as Python's text mode gives it."""
    words = len(line.strip().split(" "))
    if rule == "wiki103" and line.startswith(" = "):
        return "titles"
    if rule == "wiki" and words == 1:
        return "titles"
    if rule in ("wiki103", "wiki") and words < FEWEST:
        return "short"
    return "" if line.strip() else "empty"
