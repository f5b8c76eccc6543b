"""A searcher that many ask at once: what waits is encoded and searched together."""

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xvoken.ask.queries import Part, Query, query, sentence
from xvoken.ask.searcher import Answer, Searcher
from xvoken.console import log
from xvoken.errors import UserError, one_line
from xvoken.pictures.decode import BrokenPicture
from xvoken.pictures.thumbnails import thumbnail
from xvoken.serve.thumbs import SIDES, Thumbs
from xvoken.serve.together import Together
from xvoken.serve.uploads import Held, Upload, Uploads, held

QUESTIONS, PICTURES = 32, 4  # that are answered, and encoded, at once
DRAWING = 2  # threads that make thumbnails
Phrases = list[tuple[str, float]]


@dataclass(frozen=True)
class Question:
    """A query, how many answers it is to have, whether these are phrases, and from when on pictures count as near-duplicates."""

    query: Query
    k: int
    alike: float | None = None
    phrases: bool = False


class Service:
    """What the routes answer from.

    Sentences are encoded in one thread and pictures in another, so that a sentence never waits for a picture to be decoded; a picture
    that came is a vector from then on.
    """

    def __init__(self, searcher: Searcher):
        self.searcher, self.uploads, self.thumbs = searcher, Uploads(), Thumbs(searcher)
        self.questions: Together[Question, Any] = Together(self._answer, QUESTIONS)
        self.pictures: Together[Held, NDArray[np.float32]] = Together(self._encode, PICTURES)
        self.drawing = ThreadPoolExecutor(DRAWING)
        self.drawing_sent = ThreadPoolExecutor(1)  # one at a time: a small file may take a gigabyte while it is decoded

    def warm_up(self) -> None:
        """Load both towers and ask each once, so that nobody waits for them: loading takes the time of searches beside it."""
        self.questions.ask(Question(query([sentence("a picture")]), 24)).result()
        try:
            self.pictures.ask(held("grey", thumbnail(Image.new("RGB", (64, 64)), 64))).result()
        except UserError as error:  # sentences are answered without it, and a picture that is sent gets this error
            log.warning(f"the image tower can't be loaded: {one_line(error)}")

    def close(self) -> None:
        """End the threads."""
        for threads in (self.drawing, self.drawing_sent):
            threads.shutdown(cancel_futures=True)
        self.questions.close()
        self.pictures.close()

    async def search(self, asked: Query, k: int, alike: float | None = None) -> Answer:
        """The best k pictures; raises UserError for what can't be asked, Busy where too many wait."""
        return await asyncio.wrap_future(self.questions.ask(Question(asked, k, alike)))

    async def phrases(self, asked: Query, k: int) -> Phrases:
        """The best k phrases for a query of pictures; raises UserError for one with sentences, or where no phrases are loaded."""
        if any(part.is_text for part in asked.parts):
            raise UserError("phrases are found for pictures; leave the sentences out")
        return await asyncio.wrap_future(self.questions.ask(Question(asked, k, phrases=True)))

    async def vector(self, picture: Held) -> NDArray[np.float32]:
        """The vector of a picture: float32 (dim,); raises UserError for one that can't be used."""
        return await asyncio.wrap_future(self.pictures.ask(picture))

    async def keep(self, name: str, data: bytes) -> str:
        """Encode a picture's file and keep its vector; returns its id."""
        vector, loop = await self.vector(picture := held(name, data)), asyncio.get_running_loop()
        try:
            small = await loop.run_in_executor(self.drawing_sent, thumbnail, picture, min(SIDES))
        except BrokenPicture as error:
            raise UserError(f"picture {name}: {error}") from None
        return self.uploads.add(Upload(name, vector, small))

    async def draw(self, make: Any, *arguments: Any) -> bytes:
        """Call a function that makes a thumbnail, in one of the few threads that do."""
        return await asyncio.get_running_loop().run_in_executor(self.drawing, make, *arguments)

    def _answer(self, questions: list[Question]) -> list[Any]:
        vectors = self.searcher.vectors([question.query for question in questions])
        alike = defaultdict(list)
        for number, question in enumerate(questions):
            alike[question.k, question.alike, question.phrases].append(number)
        answers: list[Any] = [None] * len(questions)
        for (k, collapsed, phrases), numbers in alike.items():
            if phrases:
                found: list[Any] = self.searcher.phrases(vectors[numbers], k)
            else:
                found = self.searcher.answers([questions[number].query for number in numbers], vectors[numbers], k, collapsed)
            for number, one in zip(numbers, found, strict=True):
                answers[number] = one
        return answers

    def _encode(self, pictures: list[Held]) -> list[NDArray[np.float32]]:
        return list(self.searcher.vectors([Query((Part(picture, picture.name),)) for picture in pictures]))
