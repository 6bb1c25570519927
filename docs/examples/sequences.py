"""Sequences of tokens of unequal length, padded to the longest of a batch."""

import numpy as np
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from foldrace import Parameter

TOKENS = 12


def sequences():
    """Which of the tokens 1 and 2 comes last: 400 sequences of 3 to 20 tokens."""
    draw = np.random.default_rng(0)
    words = [draw.integers(1, TOKENS, draw.integers(3, 21)) for _ in range(400)]
    last = [next((token for token in word[::-1] if token in (1, 2)), 0) for word in words]
    return {"tokens": words, "last": np.array(last)}


class LastToken:
    objective, direction = "accuracy", "maximize"
    parameters = {"width": Parameter(16, "units of the recurrent layer", low=1)}

    def build(self, params, sample):
        tokens, width = int(sample["tokens"].high) + 1, params["width"]
        return nn.ModuleDict(
            {
                "embed": nn.Embedding(tokens, width, padding_idx=0),
                "recur": nn.GRU(width, width, batch_first=True),
                "score": nn.Linear(width, sample.target.classes),
            }
        )

    def predict(self, model, batch, params):
        lengths = batch["tokens_length"].cpu()
        embedded = model["embed"](batch["tokens"])
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        return model["score"](model["recur"](packed)[1][0])

    def losses(self, model, batch, params):
        scores = self.predict(model, batch, params)
        right = (scores.argmax(1) == batch["last"]).float()
        return {
            "loss": F.cross_entropy(scores, batch["last"], reduction="none"),
            "accuracy": right,
        }
