"""Image classifiers: by name, with their own normalisation, and on disk."""

from temperance.models.storage import load_model, save_model, weights_of, weights_sha256
from temperance.models.zoo import (
    CNNArgs,
    ImageClassifier,
    MLPArgs,
    ModelArgs,
    ResNetArgs,
    WideResNetArgs,
    channel_statistics,
    create_model,
    expand_model_name,
    list_models,
)

__all__ = [
    "CNNArgs",
    "ImageClassifier",
    "MLPArgs",
    "ModelArgs",
    "ResNetArgs",
    "WideResNetArgs",
    "channel_statistics",
    "create_model",
    "expand_model_name",
    "list_models",
    "load_model",
    "save_model",
    "weights_of",
    "weights_sha256",
]
