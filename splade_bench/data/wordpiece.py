"""A WordPiece vocabulary, trained in seconds on the given texts: the presets use it in place of a download."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# An encoding takes some 200 bytes a token, and a text has hardly more tokens than characters.
_TEXTS_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 2**18

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A lower-casing WordPiece tokenizer of at most ``vocab_size`` tokens, the same for the same texts."""
    texts = list(texts)
    draft = _tokenizer(models.WordPiece(unk_token="[UNK]"))
    counts = Counter(character for text in texts for character in draft.normalizer.normalize_str(text))
    # Each character takes two entries, alone and as a continuation. In a large script the rarest become [UNK].
    room = max(0, vocab_size - len(SPECIAL_TOKENS)) // 2
    characters = sorted(set(counts) - set(" \t\n"), key=lambda character: (-counts[character], character))[:room]
    # The trainer numbers continuation pieces in the order of a hash table with a random seed and breaks ties between
    # merges by number, so two trainings differ. As special tokens they are numbered first, in this order.
    pieces = [f"##{character}" for character in sorted(characters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *pieces],
        initial_alphabet=sorted(characters),
        limit_alphabet=len(characters),
        min_frequency=2,
        show_progress=False,
    )
    draft.train_from_iterator(texts, trainer)
    # A new tokenizer, in which "##a" in a text is not a piece.
    tokenizer = _tokenizer(models.WordPiece(draft.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _tokenizer(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def inverse_document_frequencies(tokenizer: Tokenizer, documents: Iterable[str], *, vocab_size: int) -> list[float]:
    """How rare each token is among ``documents``: ``log(1 + (N - n + 0.5) / (n + 0.5))`` by token id, as in BM25."""
    containing: Counter[int] = Counter()
    count = 0
    for some in _groups(documents):
        encodings = tokenizer.encode_batch(some, add_special_tokens=False)
        containing.update(token for encoding in encodings for token in set(encoding.ids))
        count += len(some)
    return [math.log(1 + (count - containing[token] + 0.5) / (containing[token] + 0.5)) for token in range(vocab_size)]


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts to encode at once: few enough characters together, or a single text."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and (len(group) == _TEXTS_AT_ONCE or characters + len(text) > _CHARACTERS_AT_ONCE):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group
