import dataclasses

import published
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import DistilBertConfig, DistilBertModel

from mc3.config import TextConfig
from mc3.encoders.text import TextEncoder, fit_tokenizer, tokenize
from mc3.errors import ConfigError

SMALL = TextConfig(tokenizer="train", vocab_size=40, max_length=8, dim=24, depth=2, heads=3, dropout=0.1)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cuts", "a", "carrot", "washes", "the", "pan"]


def wordpiece(words=WORDS):
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(w, words.index(w)) for w in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def encoder(config=SMALL):
    torch.manual_seed(0)
    return published.noisy(TextEncoder(config, 8))


def test_features_are_the_first_token_of_transformers_distilbert():
    model = encoder()
    sizes = {"vocab_size": 40, "dim": 24, "hidden_dim": 96, "n_layers": 2, "n_heads": 3}
    theirs = DistilBertModel(DistilBertConfig(**sizes, attn_implementation="eager")).eval()
    theirs.load_state_dict(model.trunk.state_dict())
    ids = torch.tensor([[2, 4, 5, 6, 3, 0, 0, 0], [2, 7, 8, 9, 5, 4, 6, 3], [2, 3, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[:, 0]
        torch.testing.assert_close(model.features(ids), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(ids=st.lists(st.integers(4, 39), min_size=0, max_size=12), padding=st.integers(1, 9))
def test_padding_does_not_change_the_embedding(ids, padding):
    model = encoder()
    bare = torch.tensor([[2, *ids, 3]])
    padded = torch.nn.functional.pad(bare, (0, padding))
    with torch.no_grad():
        torch.testing.assert_close(model(bare), model(padded), atol=1e-6, rtol=1e-5)


def test_dropout_follows_the_settings_and_only_in_training():
    ids = torch.tensor([[2, 4, 5, 6, 3]])
    dropping, still = encoder().train(), encoder(dataclasses.replace(SMALL, dropout=0.0)).train()
    with torch.no_grad():
        assert not torch.equal(dropping(ids), dropping(ids))
        assert torch.equal(still(ids), still(ids))
        assert torch.equal(still(ids), dropping.eval()(ids))


def test_narrations_are_truncated_and_padded_to_max_length():
    ids = tokenize(fit_tokenizer(wordpiece(), SMALL), ["Cuts a carrot", "washes the pan cuts a carrot the pan", ""])
    assert ids.tolist() == [[2, 4, 5, 6, 3, 0, 0, 0], [2, 7, 8, 9, 4, 5, 6, 3], [2, 3, 0, 0, 0, 0, 0, 0]]
    assert ids.dtype == torch.int64


def test_fitting_copies_a_tokenizer_or_reads_a_file_and_says_why_one_does_not_fit(tmp_path):
    given_one, path = wordpiece(), tmp_path / "tokenizer.json"
    given_one.save(str(path))
    fitted = fit_tokenizer(given_one, SMALL)
    assert given_one.padding is given_one.truncation is None
    assert fit_tokenizer(path, SMALL).to_str() == fitted.to_str()
    with pytest.raises(ConfigError, match=r"10 tokens, but model\.text\.vocab_size is 9"):
        fit_tokenizer(wordpiece(), dataclasses.replace(SMALL, vocab_size=9))
    with pytest.raises(ConfigError, match=r"\[PAD\] at id 3"):
        fit_tokenizer(wordpiece(["[UNK]", "[CLS]", "[SEP]", "[PAD]"]), SMALL)
