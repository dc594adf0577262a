"""Texts to CLIP's token ids: lower-cased byte pairs, from the files in a model's folder or those that come with jaxad.

All of OpenAI's models share one vocabulary: the 256 bytes, the same at the end of a word, one token per merge, and the
start and end tokens.
"""

import gzip
import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxad.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
FILES = ("vocab.json", "merges.txt")
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MERGES = Path(__file__).with_name("clip_merges.txt.gz")

Tokenizer = Callable[[Sequence[str]], Int[np.ndarray, "n context"]]


def load_tokenizer(folder: str | Path | None = None, context: int = 77) -> Tokenizer:
    """A function from texts to rows of ids: start, words, end, then zeros up to `context`, as in OpenAI's code.

    Args:
      folder: the folder of vocab.json and merges.txt, or of tokenizer.json; None or a folder without them: OpenAI's.
      context: length of a row.

    Raises:
      UserError: the package `tokenizers` is not installed or the files are damaged. The function that is returned
        raises it for a text that does not fit into a row.
    """
    try:
        from tokenizers import Regex, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Pipeline
    except ImportError:
        raise UserError(
            "CLIP's texts need the package tokenizers, which is not installed; pip install 'jaxad[clip]'"
        ) from None

    vocabulary, merges = _vocabulary(folder)
    pairs = Pipeline(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    pairs.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pairs.add_special_tokens([START, END])

    def tokenize(texts: Sequence[str]) -> Int[np.ndarray, "n context"]:
        rows = np.zeros((len(texts), context), np.int32)
        for row, text in zip(rows, texts, strict=True):
            cleaned = html.unescape(html.unescape(text)).strip()
            ids = [vocabulary[START], *pairs.encode(cleaned).ids, vocabulary[END]]
            if len(ids) > context:
                raise UserError(f"the text {text!r} has {len(ids)} tokens; CLIP takes at most {context}: shorten it")
            row[: len(ids)] = ids
        return rows

    return tokenize


def tokenizer_files() -> dict[str, str]:
    """OpenAI's vocab.json and merges.txt, their contents by name, as transformers reads them."""
    vocabulary, merges = _openai()
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""])
    return {"vocab.json": json.dumps(vocabulary, ensure_ascii=False), "merges.txt": text}


def _vocabulary(folder: str | Path | None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ids by token, and the merges in order."""
    if folder is None:
        return _openai()
    vocabulary, merges, whole = (Path(folder) / name for name in (*FILES, "tokenizer.json"))
    try:
        if vocabulary.is_file() and merges.is_file():
            ids, pairs = json.loads(vocabulary.read_text("utf-8")), _pairs(merges.read_text("utf-8"))
        elif whole.is_file():
            model = json.loads(whole.read_text("utf-8"))["model"]
            halves = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            ids, pairs = model["vocab"], [(left, right) for left, right in halves]
        else:
            return _openai()
        return {**ids, START: int(ids[START]), END: int(ids[END])}, pairs
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: the tokenizer's files are damaged ({error!r}); get vocab.json and merges.txt again"
        ) from None


def _openai() -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = _pairs(gzip.decompress(_MERGES.read_bytes()).decode("utf-8"))
    alphabet = _bytes()
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def _pairs(merges: str) -> list[tuple[str, str]]:
    lines = [line.split() for line in merges.splitlines()[1:]]
    return [(line[0], line[1]) for line in lines if len(line) == 2]


def _bytes() -> list[str]:
    """The characters that stand for bytes: the printable ones, as themselves, then U+0100 and up for the rest."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
