"""The text encoder's tokenizer: WordPiece learned from the training narrations, or a published one."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mc3.config import TextConfig
from mc3.errors import DataError
from mc3.files import reading

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make(config: TextConfig, texts: Iterable[str]) -> Tokenizer:
    """The settings' tokenizer: learnt from `texts` if "train", else a folder or cached model; `DataError` if unfit."""
    if config.tokenizer == "train":
        return train(texts, config.vocab_size)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    file = Path(config.tokenizer) / "tokenizer.json"
    try:
        if not file.parent.is_dir():
            file = Path(hf_hub_download(config.tokenizer, "tokenizer.json", local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        absent = f"the tokenizer {config.tokenizer} (model.text.tokenizer) is neither a folder nor in the local cache"
        remedy = f"`mc3 pretrain` makes a profile's own, `hf download {config.tokenizer} tokenizer.json` fetches one"
        raise DataError(f"{absent}; {remedy}") from None
    if not file.exists():
        raise DataError(f"no {file}; give a folder with a tokenizer.json as model.text.tokenizer")
    with reading(file, "get the tokenizer again"):
        words = Tokenizer.from_file(str(file))
    if words.token_to_id("[PAD]") != 0:
        raise DataError(f"{file} does not pad with [PAD] = 0, which the text encoder masks; choose a BERT tokenizer")
    words.no_padding()
    words.no_truncation()
    return words


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """WordPiece on lower-case text in DistilBERT's form, [CLS] text [SEP]; the same texts give the same bytes."""
    texts = list(texts)
    words = _untrained(models.WordPiece(unk_token=SPECIAL[1]))
    letters = sorted({c for text in texts for c in words.normalizer.normalize_str(text) if not c.isspace()})
    # the trainer numbers "##" letters in the order of a hash map; as special tokens, their order is fixed
    first, size = [*SPECIAL, *(f"##{c}" for c in letters)], max(vocab_size, len(SPECIAL) + 2 * len(letters))
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    words.train_from_iterator(texts, trainer)
    words = _untrained(models.WordPiece(words.get_vocab(), unk_token=SPECIAL[1]))
    words.add_special_tokens(SPECIAL)
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    words.decoder = decoders.WordPiece()
    return words


def _untrained(model: models.WordPiece) -> Tokenizer:
    words = Tokenizer(model)
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return words
