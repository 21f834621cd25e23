"""A generator of pedestrians for re-identification: identities, cameras, and what makes the task hard."""

from __future__ import annotations

from .folder import is_complete
from .generate import dataset_folder, generate
from .identity import Identity, sample_identities
from .nuisances import Nuisances
from .plan import SCALES, Scale, Shot, plan
from .render import Studio, View, sample_view
from .sheet import contact_sheet, track_sheet
from .tracks import generate_tracks
