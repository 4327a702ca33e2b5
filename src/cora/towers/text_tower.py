"""CLIP text tower: a causal transformer; the embedding is its output at the end-of-text token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor
from torch.nn import functional as F

from cora.errors import VocabularyError
from cora.towers.frozen import FrozenModule

_BYTE_TOKENS = 512
_SPECIAL_TOKENS = 2


class TextTower(FrozenModule):
    """Frozen text transformer of open_clip.

    Args:
        net: the network; `net.context_length` limits the tokens of a text.
        batch_size: texts encoded at once.
    """

    def __init__(self, *, net: TextTransformer, batch_size: int = 256) -> None:
        super().__init__()
        self.net = net
        self.batch_size = batch_size
        self.freeze()

    @property
    def context_length(self) -> int:
        """Most tokens of a text, start and end token included."""
        return int(self.net.context_length)

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        return int(self.net.text_projection.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and settings that embeddings depend on; caches use it as the key of the tower."""
        digest = hashlib.sha256(f"{self.net.heads} {self.net.transformer.resblocks[0].mlp.gelu}".encode())
        for name, value in sorted(self.net.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()[:20]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text with start and end token.

        Raises:
            VocabularyError: the text has more than `context_length` tokens.
        """
        tokenizer = byte_pair_tokenizer(int(self.net.vocab_size))
        tokens = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        if len(tokens) > self.context_length:
            raise VocabularyError(
                f"text {text!r}: expected at most {self.context_length} tokens, got {len(tokens)}; use a shorter name"
            )
        return tokens

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: n strings to [n, D], L2-normalised, in the order given.

        Batches are formed by length and cut to their longest text. This saves computation and changes no embedding:
        with the causal mask, the end token does not attend to the padding after it.

        Raises:
            VocabularyError: a text has more than `context_length` tokens; the message quotes it.
        """
        tokens = [self.tokenize(text) for text in texts]
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        device = self.net.positional_embedding.device
        embeddings = torch.empty(len(tokens), self.embed_dim, device=device, dtype=self.net.text_projection.dtype)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            padded = torch.zeros(len(chosen), max(len(tokens[index]) for index in chosen), dtype=torch.long)
            for row, index in enumerate(chosen):
                padded[row, : len(tokens[index])] = torch.tensor(tokens[index])
            embeddings[chosen] = self.encode_tokens(padded.to(device))
        return embeddings

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Embed token ids [n, length], padded with zeros, to [n, D], L2-normalised; the end token is the highest id."""
        return self.encode_vectors(self.net.token_embedding(tokens), tokens.argmax(dim=-1))

    def encode_vectors(self, vectors: Tensor, ends: Tensor) -> Tensor:
        """Embed texts given as token embeddings [n, length, width], without positions, to [n, D], L2-normalised.

        Gradients reach the vectors, so that prompts can be learned (CoOp, Zhou et al., 2022). `ends` [n] int64 is the
        index of each text's end token.
        """
        net, length = self.net, vectors.shape[1]
        content = vectors + net.positional_embedding[:length]
        content = net.ln_final(net.transformer(content, attn_mask=net.attn_mask[:length, :length]))
        at_end = content[torch.arange(len(vectors), device=vectors.device), ends]
        return F.normalize(at_end @ net.text_projection, dim=-1)


@lru_cache(maxsize=4)
def byte_pair_tokenizer(vocab_size: int) -> SimpleTokenizer:
    """CLIP's tokenizer, or a smaller one with only its first merges; these keep their ids, start and end token follow.

    Merges are ordered by frequency. A smaller vocabulary still encodes any text, with more tokens for rare words.
    """
    tokenizer = SimpleTokenizer()
    if vocab_size == tokenizer.vocab_size:
        return tokenizer
    merges = vocab_size - _BYTE_TOKENS - _SPECIAL_TOKENS
    specials = [tokenizer.decoder[token] for token in tokenizer.all_special_ids]
    pieces = [tokenizer.decoder[index] for index in range(_BYTE_TOKENS + merges)] + specials
    tokenizer.encoder = {piece: index for index, piece in enumerate(pieces)}
    tokenizer.decoder = dict(enumerate(pieces))
    tokenizer.bpe_ranks = {pair: rank for pair, rank in tokenizer.bpe_ranks.items() if rank < merges}
    tokenizer.vocab_size = vocab_size
    tokenizer.all_special_ids = [tokenizer.encoder[special] for special in specials]
    tokenizer.sot_token_id, tokenizer.eot_token_id = tokenizer.all_special_ids
    return tokenizer
