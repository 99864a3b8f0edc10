"""The mathematics: encoders, priors, latent decoder, losses, energy and sampler. Knows no data files and no scores."""
