"""The version of the plugin, its commit, and the versions of what it stands on."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
from pathlib import Path

__version__ = "0.3.0.dev0"

_PACKAGE = Path(__file__).resolve().parent


@functools.cache
def versions() -> dict[str, str]:
    """Look up the version of the plugin, with its commit where that is known, and those of what it stands on."""
    found = {"fastreid_parts": f"{__version__} ({commit})" if (commit := _commit()) else __version__}
    for name, distribution in {"fast-reid": "fastreid", "torch": "torch"}.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "of unknown version"  # a checkout on PYTHONPATH, or none at all
    return found


def _commit() -> str:
    """Of the checkout that this is, or that pip installed from; empty where neither is known.

    A checkout with other code or configs than its commit is `-dirty`; results and docs are not asked.
    """
    if (_PACKAGE.parent / ".git").exists():
        git = ["git", "-C", str(_PACKAGE.parent)]
        try:
            commit = subprocess.run(
                [*git, "describe", "--always", "--exclude=*"], capture_output=True, text=True
            ).stdout.strip()
            edited = subprocess.run(
                [*git, "diff", "--quiet", "HEAD", "--", "fastreid_parts", "configs"], capture_output=True
            )
        except OSError:  # no git here
            return ""
        return f"{commit}-dirty" if commit and edited.returncode == 1 else commit
    try:
        origin = importlib.metadata.distribution(str(__package__)).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id", "")[:12]
