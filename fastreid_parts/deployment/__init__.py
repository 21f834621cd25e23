"""A trained model outside of training: what it is, a module to export, an object that takes crops."""

from __future__ import annotations

from .description import ModelDescription
from .inference import InferenceModel
