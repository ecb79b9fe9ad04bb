"""DistilBERT for narrations (Sec. 4.4), as in transformers. Shapes: B narrations, N tokens, D width, E embedding."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from mc3.config import TextConfig
from mc3.encoders import Encoder
from mc3.errors import ConfigError

PAD = 0


class TextEncoder(Encoder):
    """Token ids to embedding: trunk, first token, ReLU and linear layer (EgoVLP's `txt_proj`)."""

    def __init__(self, config: TextConfig, embedding_dim: int) -> None:
        if config.dim % config.heads:
            raise ConfigError(f"model.text.dim must be a multiple of model.text.heads, not {config}")
        # More than a second, so with the first model only; its constants stay on the CPU if that model is on "meta".
        with torch.device("cpu"):
            from transformers import DistilBertConfig, DistilBertModel

        sizes = DistilBertConfig(
            vocab_size=config.vocab_size, dim=config.dim, hidden_dim=4 * config.dim, n_layers=config.depth,
            n_heads=config.heads, dropout=config.dropout, attention_dropout=config.dropout, pad_token_id=PAD,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )  # fmt: skip
        if config.max_length > sizes.max_position_embeddings:
            longest = sizes.max_position_embeddings
            raise ConfigError(f"model.text.max_length is {config.max_length}, but DistilBERT has {longest} positions")
        trunk, projection = DistilBertModel(sizes), nn.Sequential(nn.ReLU(), nn.Linear(config.dim, embedding_dim))
        super().__init__(config, trunk, projection)

    def features(self, ids: Tensor) -> Tensor:
        """Ids [B, N], 0 where padded -> last hidden state of the first token [B, D]."""
        # transformers uses a four-dimensional mask as it is; for a flat one it queries the device for padding.
        mask = (ids != PAD)[:, None, None, :]
        return self.trunk(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]


def fit_tokenizer(source: Tokenizer | str | Path, config: TextConfig) -> Tokenizer:
    """A copy of a tokenizer, or of a tokenizer.json, for ids [max_length]; `ConfigError` if it is unfit."""
    text = source.to_str() if isinstance(source, Tokenizer) else Path(source).read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(text)
    if (pad := tokenizer.token_to_id("[PAD]")) != PAD:
        raise ConfigError(f"the tokenizer has [PAD] at id {pad}, but the text encoder masks id {PAD}")
    if (size := 1 + max(tokenizer.get_vocab().values())) > config.vocab_size:
        raise ConfigError(f"the tokenizer knows {size} tokens, but model.text.vocab_size is {config.vocab_size}")
    tokenizer.encode("\N{SNOWMAN}")  # raises without a token for unknown words
    tokenizer.enable_truncation(config.max_length)
    tokenizer.enable_padding(pad_id=PAD, pad_token="[PAD]", length=config.max_length)  # noqa: S106
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Token ids, int64 [B, max_length], by a tokenizer of `fit_tokenizer`."""
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)], dtype=torch.int64)
