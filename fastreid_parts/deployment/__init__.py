"""A trained model outside of training: what it is, a module to export, an object that takes crops."""

from __future__ import annotations

from .description import ModelDescription
from .embedder import Embedder
from .inference import InferenceModel
from .safetensors_files import load_safetensors, save_safetensors
