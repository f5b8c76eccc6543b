"""Phrases held against captions: by loops over texts, by all draws that there are, and by draws at random."""

import itertools
import random

import numpy as np
import pytest

from ctx import judge
from tests import builder


def cut(texts):
    return [judge.content_words(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Dog on the sofa", {"dog", "sofa"}),
        ("dining_table's 2 legs!", {"dining", "table", "2", "legs"}),
        ("it isn’t what they're on", set()),
        ("CAFE\u0301 and caf\u00e9", {"caf\u00e9"}),
        (" ,. ", set()),
    ],
)
def test_content_words(text, words):
    assert judge.content_words(text) == words


def by_hand(captions, phrases):
    """The three shares, counted word by word; all are lists of lists of words."""
    said = {word for caption in captions for word in caption}
    words = sum(any(word in phrase for phrase in phrases) for word in said) / len(said)

    def fits(phrase, caption):
        return len(phrase) > 0 and all(word in caption for word in phrase)

    fit = sum(any(fits(phrase, caption) for caption in captions) for phrase in phrases) / len(phrases)
    fitted = sum(any(fits(phrase, caption) for phrase in phrases) for caption in captions) / len(captions)
    return [words, fit, fitted]


def drawn_texts(seed):
    """Captions with content words, and distinct phrases, one of them without."""
    chosen = random.Random(seed)
    captions = ["red dog " + " ".join(chosen.choices(builder.WORDS, k=8)) for _ in range(4)]
    return cut(captions), cut(["the of a", *builder.phrases(40)])


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_those_counted_by_hand(seed):
    captions, phrases = drawn_texts(seed)
    plain = [[list(words) for words in texts] for texts in (captions, phrases[:15])]
    np.testing.assert_allclose(judge.shares(captions, phrases[:15]), by_hand(*plain))


def test_phrases_that_fit_are_found():
    """Parts of a short caption are looked for among the phrases, the phrases in a long one."""
    words = [f"w{i}" for i in range(8)]
    phrases = [frozenset(chosen) for size in (0, 1, 2, 3, 3) for chosen in itertools.combinations(words, size)]
    database = judge.Database(phrases)
    assert (database.number, database.wordless) == (len(phrases), 1)
    short, long = [words[:1], words[2:4], ["x"], *([word, "x"] for word in words)], [words, words[::2], [*words[3:6], *"stuvwxyz"]]
    for caption in map(frozenset, short + long):
        fitting = [phrase for phrase in phrases if phrase and phrase <= caption]
        assert database.fitting(caption) == {phrase: fitting.count(phrase) for phrase in fitting}


def test_chance_is_the_mean_over_all_draws():
    captions, phrases = drawn_texts(1)
    few = phrases[:9]
    for number in (1, 3, 8, 9):
        draws = [judge.shares(captions, draw) for draw in itertools.combinations(few, number)]
        np.testing.assert_allclose(judge.chance(captions, judge.Database(few), [number])[0], np.mean(draws, 0), atol=1e-12)


def test_chance_is_what_drawing_gives():
    captions, phrases = drawn_texts(2)
    numbers = np.random.default_rng(0)
    draws = [judge.shares(captions, [phrases[i] for i in numbers.choice(len(phrases), 6, replace=False)]) for _ in range(4000)]
    error = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (abs(judge.chance(captions, judge.Database(phrases), [6])[0] - np.mean(draws, 0)) < 4 * error).all()


def test_intervals_are_percentiles_of_means_of_pictures_drawn_again():
    values = np.random.default_rng(3).random((30, 2, 3))
    values[:, 1, 2] = 0.25
    found, numbers, means = judge.intervals(values, 200, seed=5), np.random.default_rng(5), []
    for _ in range(200):
        means.append(np.mean([values[picture] for picture in numbers.integers(30, size=30)], axis=0))
    np.testing.assert_allclose(found, np.percentile(means, [2.5, 97.5], axis=0))
    np.testing.assert_allclose(found[:, 1, 2], 0.25)
    assert (found[0, 0] < values.mean(0)[0]).all() and (values.mean(0)[0] < found[1, 0]).all()
