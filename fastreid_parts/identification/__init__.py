"""One person, one number: tracklets of several cameras, linked to identities with the evidence for it."""

from __future__ import annotations
