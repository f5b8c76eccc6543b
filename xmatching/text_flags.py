"""What --lang-layers, --text-pool and --lang-prompt are where they are not given: they follow from the text tower."""

from argparse import Namespace
from typing import Any

from xvoken.console import say
from xvoken.errors import UserError
from xvoken.kinds import SHORT_NAMES
from xvoken.towers.reading import reads
from xvoken.towers.sentence_files import modules, prompts, sentence_model
from xvoken.towers.sources import config_of, text_kind

LAYERS = "4,3,2,1"  # as published


def settle_text(args: Namespace, given: Namespace) -> None:
    """Put these flags into `args`, found without loading a model; given: the same without a recipe's defaults.

    Raises UserError for flags that do not go with the tower.
    """
    plain = args.lang in SHORT_NAMES or text_kind(args.lang) == "transformers"
    chosen = args.text_pool
    args.text_pool = chosen or ("cls" if args.level == "token" or not plain else _pool(args.lang))
    found = prompts(args.lang) if plain and args.lang not in SHORT_NAMES else None
    if args.text_pool == "own":
        _require_own(args, given)
        args.lang_layers, found = "1", found or prompts(args.lang)
    elif chosen == "cls" and plain and args.level != "token" and reads(_model_type(args.lang)) == "forward":
        raise UserError(f"--text-pool cls: the first token of {args.lang} has seen nothing of a sentence; take last or mean")
    args.lang_layers = args.lang_layers or LAYERS
    if args.lang_prompt is None:
        args.lang_prompt = found.default if found and args.text_pool == "own" else ""
    elif found:
        _tell_of_a_name(args, found.by_name)
        args.lang_prompt = found.by_name.get(args.lang_prompt, args.lang_prompt)


def _tell_of_a_name(args: Namespace, by_name: dict[str, str]) -> None:
    """A misspelt name of a prompt would be put before every sentence without a word."""
    text = args.lang_prompt
    if text.isidentifier() and text not in by_name and any(by_name.values()):
        names = ", ".join(sorted(name for name, prompt in by_name.items() if prompt))
        say(f"note: --lang-prompt {text}: none of {args.lang}'s prompts ({names}), and so put before every sentence as it is")


def _model_type(lang: str) -> Any:
    return config_of(lang).get("model_type")


def _pool(lang: str) -> str:
    """The pooling of a model of transformers for which none is given: as published for those with a short name, but gpt2."""
    if lang in SHORT_NAMES and lang != "gpt2":
        return "cls"
    if lang not in SHORT_NAMES and modules(lang):
        return "own"
    how = "forward" if lang == "gpt2" else reads(_model_type(lang))
    return {"forward": "last", "encoder": "mean", "both": "cls"}[how]


def _require_own(args: Namespace, given: Namespace) -> None:
    if text_kind(args.lang) != "transformers":
        raise UserError(f"--text-pool own: {args.lang} is no model of sentence-transformers; leave it out")
    sentence_model(args.lang)
    if given.lang_layers not in (None, "1"):
        mend = "leave it out, or take --text-pool mean, cls or last"
        raise UserError(f"--lang-layers {given.lang_layers}: --text-pool own, which {args.lang} has, is of the last layer alone; {mend}")
    if args.lang_finetune:
        raise UserError("--lang-finetune: a tower with modules of its own (--text-pool own) is taken frozen; take --text-pool mean or cls")
