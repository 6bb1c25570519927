"""A denoising autoencoder: the noise is an augmentation, so validation sees clean images."""

import math

import torch
from torch import nn

from foldrace import Parameter


class Denoising:
    parameters = {
        "latent_dim": Parameter(16, "length of the code", low=1),
        "noise": Parameter(0.2, "standard deviation of the noise", low=0.0, high=1.0),
    }

    def build(self, params, sample):
        pixels = math.prod(sample.shape)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, params["latent_dim"]),
            nn.ReLU(),
            nn.Linear(params["latent_dim"], pixels),
            nn.Unflatten(1, sample.shape),
        )

    def augment(self, batch, generator, params):
        clean = batch["images"]
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        return {**batch, "clean": clean, "images": clean + params["noise"] * noise}

    def losses(self, model, batch, params):
        error = model(batch["images"]) - batch.get("clean", batch["images"])
        return {"loss": error.square().flatten(1).mean(1)}

    def reconstruct(self, model, images, params):
        return model(images)
