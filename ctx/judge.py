"""How well phrases fit the captions of a picture, and how well random phrases would: functions of texts and sets of words.

A text counts as the set of its content words: lower case, runs of letters and digits (so `dining_table` is two words, and `dog's` is
`dog`), without STOP_WORDS. Nothing is stemmed: `dogs` is not `dog`. A phrase fits a caption that has all of its content words; one
without content words fits none. Three shares are taken for a picture:

words      of the content words of its captions, those that occur in one of the phrases
phrases    of the phrases, those that fit one of its captions
captions   of its captions, those that one of the phrases fits
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from xvoken.measures import bounds, drawn

SHARES = ("words", "phrases", "captions")
Words = frozenset[str]
WORD = re.compile(r"[^\W_]+")
# The English stop words of Snowball, snowballstem.org/algorithms/english/stop.txt (BSD licence); cut into words as all texts are,
# so that isn't gives isn and t.
SNOWBALL = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its itself they them
their theirs themselves what which who whom this that these those am is are was were be been being have has had having do does did doing
would should could ought i'm you're he's she's it's we're they're i've you've we've they've i'd you'd he'd she'd we'd they'd i'll you'll
he'll she'll we'll they'll isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't won't wouldn't shan't shouldn't can't
cannot couldn't mustn't let's that's who's what's here's there's when's where's why's how's a an the and but if or because as until while
of at by for with about against between into through during before after above below to from up down in out on off over under again
further then once here there when where why how all any both each few more most other some such no nor not only own same so than too very
"""
STOP_WORDS = frozenset(WORD.findall(SNOWBALL))


def content_words(text: str) -> Words:
    """The distinct words of a text without stop words; composed and decomposed letters are one."""
    return frozenset(WORD.findall(unicodedata.normalize("NFKC", text).lower())) - STOP_WORDS


def shares(captions: Sequence[Words], phrases: Sequence[Words]) -> NDArray[np.float64]:
    """The three SHARES (3,) of one picture; captions: the content words of each, none of them empty; phrases: of each distinct phrase."""
    said, shown = frozenset().union(*captions), frozenset().union(*phrases)
    fits = np.array([[bool(phrase) and phrase <= caption for phrase in phrases] for caption in captions])  # (captions, phrases)
    return np.array([len(said & shown) / len(said), fits.any(0).mean(), fits.any(1).mean()])


class Database:
    """The content words of all distinct phrases that there are to choose from."""

    def __init__(self, phrases: Iterable[Words]):
        """phrases: the content words of each distinct phrase; different phrases may have the same."""
        self._times = Counter(phrases)
        self.number = self._times.total()
        self.wordless = self._times.pop(frozenset(), 0)
        self.having: Counter[str] = Counter()  # in how many phrases a word occurs
        for words, count in self._times.items():
            self.having.update(dict.fromkeys(words, count))
        self._sizes = {len(words) for words in self._times}
        # Under its rarest word, a phrase is looked at for few captions only.
        self._by_rarest: dict[str, list[Words]] = {}
        for words in self._times:
            self._by_rarest.setdefault(min(words, key=self.having.__getitem__), []).append(words)

    def fitting(self, caption: Words) -> dict[Words, int]:
        """The content words of the phrases that fit a caption, and how many phrases have just those."""
        near = [self._by_rarest.get(word, []) for word in caption]
        if sum(comb(len(caption), size) for size in self._sizes) < sum(map(len, near)):  # whichever has less to look at
            chosen: Iterable[Words] = (frozenset(words) for size in self._sizes for words in combinations(caption, size))
            return {words: self._times[words] for words in chosen if words in self._times}
        return {words: self._times[words] for words in chain.from_iterable(near) if words <= caption}


def chance(captions: Sequence[Words], database: Database, drawn: Sequence[int]) -> NDArray[np.float64]:
    """What `shares` gives on average for so many different phrases drawn at random: (D, 3) for each number of `drawn`, (D,)

    It is the mean over all draws, so nothing needs to be drawn: of N phrases, n miss all f that have a word with probability
    C(N - f, n) / C(N, n), and fit as often as all N do.
    captions: as for `shares`; drawn: each at least 1 and at most the number of phrases in the database.
    """
    having = np.array([database.having[word] for word in frozenset().union(*captions)])
    fitting = [database.fitting(caption) for caption in captions]
    each = np.array([sum(found.values()) for found in fitting])
    fit = sum({words: count for found in fitting for words, count in found.items()}.values()) / database.number
    return np.array([[1 - missed(database.number, having, n).mean(), fit, 1 - missed(database.number, each, n).mean()] for n in drawn])


def missed(number: int, good: NDArray[np.int64], drawn: int) -> NDArray[np.float64]:
    """The probability that `drawn` of `number` things, drawn at random without putting back, are none of the good ones: (G,) each

    C(N - f, n) / C(N, n), the product of (N - f - i) / (N - i) for i < n.
    """
    i = np.arange(drawn)
    return np.prod(np.clip(number - good[:, None] - i, 0, None) / (number - i), axis=1)


def intervals(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Bootstrap intervals that hold the mean over pictures in 95 of 100 cases: values (P, ...) -> lower and upper ends (2, ...)

    Of the means over `resamples` drawings of the pictures (Efron & Tibshirani 1993, chapter 13); all columns take the same drawings.
    """
    numbers, pictures = np.random.default_rng(seed), len(values)
    columns = values.reshape(pictures, -1)
    means = np.stack([drawn(pictures, numbers) @ columns / pictures for _ in range(resamples)])
    return bounds(means).reshape(2, *values.shape[1:])
