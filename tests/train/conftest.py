"""The image folder of noise, as a fixture."""

from tests.frontends.networks import noise_folder

__all__ = ["noise_folder"]
