"""CMC's loss with its memory bank (https://arxiv.org/abs/1906.05849)."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mc3.losses import Embeddings
from mc3.model import MC3
from mc3.objectives.base import Batch, Objective


class MemoryBank(Objective, kind="memory_bank", takes=("negatives", "momentum")):
    """InfoNCE against a bank with a past embedding of every clip, of which each query draws `negatives` evenly.

    The positive is from the bank too. After use, m = m momentum + e (1 - momentum), normalised to length 1.
    """

    def prepare(self, model: MC3, clips: int, seed: int) -> None:
        """Fill the bank with random unit vectors."""
        generator = torch.Generator().manual_seed(seed)
        for modality in self.stage.modalities:
            bank = torch.randn(clips, model.config.embedding_dim, generator=generator)
            self.register_buffer(modality, normalize(bank, dim=1))

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE of each query against the bank's row of its own clip and those of others."""
        banks, settings = dict(self.named_buffers()), self.stage.settings
        clips, size = batch.clips, next(len(bank) for bank in banks.values())
        generator = torch.Generator().manual_seed(batch.seed)
        draws = torch.randint(1, size, (len(clips), settings["negatives"]), generator=generator).to(clips.device)
        mine = slice(offset, offset + len(queries[self.directed[0][0]]))
        rows = torch.cat([clips[:, None], (clips[:, None] + draws) % size], dim=1)[mine]
        terms = {}
        for i, j in self.directed:
            with torch.autocast(clips.device.type, enabled=False):
                logits = torch.einsum("bd,bkd->bk", queries[i], banks[j][rows]) / self.temperature
                terms[f"{i}-{j}"] = cross_entropy(logits, torch.zeros_like(rows[:, 0]))
        with torch.no_grad():
            for modality, bank in banks.items():
                renewed = settings["momentum"] * bank[clips] + (1 - settings["momentum"]) * keys[modality]
                bank.index_copy_(0, clips, normalize(renewed, dim=1))
        return terms
