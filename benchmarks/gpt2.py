"""The step that is measured: a small GPT-2 (transformers), forward, backward and AdamW."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TrainingStep:
    """8 layers, 256 wide, 8 heads, 256 tokens of vocabulary, batch 8 x 64.

    Args:
        device: where it runs.
        batch: sequences.
    """

    def __init__(self, device: str = "cpu", batch: int = 8) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        torch.manual_seed(0)
        config = GPT2Config(
            n_layer=8, n_embd=256, n_head=8, vocab_size=256, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        self.model: nn.Module = GPT2LMHeadModel(config).train()
        nn.Module.to(self.model, device)
        self.tokens: Tensor = torch.randint(0, 256, (batch, 64), device=device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def forward_backward(self) -> Tensor:
        """Empties the gradients and computes new ones; returns the loss."""
        self.optimizer.zero_grad()
        loss = self.model(input_ids=self.tokens, labels=self.tokens).loss
        loss.backward()
        return loss.detach()

    def finish(self) -> None:
        """Takes the optimiser's step, and waits for the device."""
        self.optimizer.step()
        if self.tokens.is_cuda:
            torch.cuda.synchronize()

    def bare(self) -> None:
        """One step that nobody watches."""
        self.forward_backward()
        self.finish()
