"""Transformers over a grid of patches as stages: a ViT's tokens between stages are a map and what has no place in it.

Decisions:
- The stem is the patch embedding with position and class token (and registers). Patches may overlap: STRIDE_SIZE. The
  position embedding is resized to the grid of the training images once, and to another grid as an image comes.
- Four stages have a quarter of the blocks each, all at the patches' stride. Where a method shares a ResNet's Conv1-3,
  half of the blocks are shared.
- The last stage ends with the norm and drops the class token; READOUT `add` adds it to every position, so that all
  pooled features see it; `token` gives it alone, as fast-reid's ViT does.
- A mask (CMBN) multiplies the map, not the class token.
- Stripes (RMGL) are sequences of their own: attention does not cross, and each has the class token of the whole as it
  was at the cut. A rotary position (EVA-02) counts from the top of the stripe.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from torch import nn

from ..settings import Declares, Settings, choice
from .stages import STAGES, Tokens


class TokenSettings(Settings, section="MODEL.BACKBONE", role="features"):
    """Transformers over patches."""

    for_any_model = True

    readout: str = choice(
        ("ignore", "add", "token"),
        "a ViT's class token: not used, added to every position of the map, or given alone instead of a map",
        "ignore, add: Ranftl et al., Vision Transformers for Dense Prediction, Sec. 3",
    )


class TokenStem(nn.Module):
    """Images to patches with their positions, and the class token.

    Args:
        project: (N, 3, H, W) -> (N, C, h, w).
        position: (1, tokens, C): of the extra tokens, where they have any, and of the patches in rows. None: the blocks
            see to positions themselves.
        extra: (1, T, C), class token first; T may be 0.
        grid: rows and columns that `position` is for.
        size: height and width of the training images.
        after: what follows, (N, tokens, C) to the same; dropout or a norm.
    """

    def __init__(
        self,
        project: nn.Module,
        position: torch.Tensor | None,
        extra: Sequence[torch.Tensor],
        grid: Sequence[int],
        size: Sequence[int],
        after: nn.Module,
    ) -> None:
        super().__init__()
        self.project, self.after = project, after
        self.extra = nn.ParameterList(extra)
        self.grid = tuple(project(torch.zeros(1, 3, *size)).shape[2:])
        if position is not None:
            patches = grid[0] * grid[1]
            first = position.shape[1] - patches
            self.position = nn.Parameter(resize_positions(position[:, first:].detach(), grid, self.grid))
            self.extra_position = nn.Parameter(position[:, :first].detach().clone()) if first else None
        else:
            self.position = self.extra_position = None

    def forward(self, images: torch.Tensor) -> Tokens:
        """(N, 3, H, W) -> `Tokens`."""
        x = self.project(images)
        none = x.new_zeros(len(x), 0, x.shape[1])
        extra = torch.cat([none, *(token.expand(len(x), -1, -1) for token in self.extra)], dim=1)
        if self.extra_position is not None:
            extra = extra + self.extra_position
        if self.position is not None:
            grid = x.shape[2:]
            position = self.position
            if tuple(grid) != self.grid:
                position = resize_positions(position, self.grid, grid)
            x = x + position.transpose(1, 2).unflatten(2, tuple(grid))
        return _tokens(self.after(_sequence(Tokens(x, extra))), x.shape[2:])


class TokenStage(nn.Module):
    """Some blocks of a transformer on all tokens.

    Args:
        blocks: of the stage, each (N, tokens, C) -> the same.
        rope: timm's rotary position embedding, which the blocks take as `rope`, or None.
        grid: rows and columns that it is scaled for.
    """

    def __init__(self, blocks: Iterable[nn.Module], rope: nn.Module | None = None, grid: Sequence[int] = ()) -> None:
        super().__init__()
        self.blocks, self.rope, self.grid = nn.ModuleList(blocks), rope, tuple(grid)

    def forward(self, x: Tokens) -> Tokens:
        """`Tokens` to `Tokens` of the same shape."""
        rows, columns = x.map.shape[2:]
        options = {}
        if self.rope is not None:
            # Scaled for the whole image, whose first rows those of a stripe are
            whole = (max(rows, self.grid[0]), columns)
            options["rope"] = self.rope.get_embed(shape=whole)[: rows * columns]
        sequence = _sequence(x)
        for block in self.blocks:
            sequence = block(sequence, **options)
        return _tokens(sequence, (rows, columns))


class Exit(Declares, nn.Module):
    """The end of the last stage: a norm over every token, then the map, with the class token as READOUT says.

    Args:
        norm: (N, tokens, C) -> the same.
    """

    reads = {"tokens": TokenSettings}

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.tokens = TokenSettings(readout="ignore")

    def forward(self, x: Tokens) -> torch.Tensor:
        """`Tokens` -> (N, C, H, W)."""
        x = _tokens(self.norm(_sequence(x)), x.map.shape[2:])
        readout = self.tokens.readout
        if readout == "ignore":
            return x.map
        token = x.extra[:, 0, :, None, None]  # (N, C, 1, 1)
        return x.map + token if readout == "add" else token


def set_readout(stages: Iterable[nn.Module], cfg: CfgNode) -> bool:
    """Tell the last stage of a transformer what to do with its class token.

    Args:
        stages: of a backbone.
        cfg: its MODEL.BACKBONE.READOUT says it.

    Returns:
        Whether there is such a stage.

    Raises:
        ValueError: a class token is asked for that the backbone lacks.
    """
    settings = TokenSettings.from_cfg(cfg)
    modules = [module for stage in stages for module in stage.modules()]
    exits = [module for module in modules if isinstance(module, Exit)]
    for module in exits:
        module.tokens, module.settings = settings, (settings,)
    if settings.readout != "ignore" and any(isinstance(m, TokenStem) and not len(m.extra) for m in modules):
        raise ValueError(f"MODEL.BACKBONE.READOUT is '{settings.readout}', and this backbone has no class token")
    return bool(exits)


def transformer_stages(
    stem: TokenStem, blocks: Sequence[nn.Module], norm: nn.Module, rope: nn.Module | None = None
) -> dict[str, nn.Module]:
    """Make the stages of a transformer of one stride, its blocks in four equal groups.

    Args:
        stem: its start.
        blocks: all of them; their number is at least four.
        norm: the last one, over (N, tokens, C).
        rope: see `TokenStage`.
    """
    cuts = [len(blocks) * i // 4 for i in range(5)]
    groups: list[nn.Module] = [
        TokenStage(blocks[first:end], copy.deepcopy(rope), stem.grid) for first, end in zip(cuts[:-1], cuts[1:])
    ]
    groups[-1] = nn.Sequential(groups[-1], Exit(norm))
    return dict(zip(STAGES, [stem, *groups]))


def resize_positions(position: torch.Tensor, grid: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Resize the positions of patches, bicubically as timm does.

    Args:
        position: (1, h w, C), row by row.
        grid: h and w.
        new: rows and columns of the result.

    Returns:
        (1, rows columns, C).
    """
    if tuple(grid) == tuple(new):
        return position
    image = position.transpose(1, 2).unflatten(2, tuple(grid)).float()
    image = F.interpolate(image, size=tuple(new), mode="bicubic", antialias=True)
    return image.flatten(2).transpose(1, 2).to(position.dtype)


def _sequence(x: Tokens) -> torch.Tensor:
    return torch.cat([x.extra, x.map.flatten(2).transpose(1, 2)], dim=1)  # (N, T + H W, C)


def _tokens(sequence: torch.Tensor, grid: Sequence[int]) -> Tokens:
    count = grid[0] * grid[1]
    patches = sequence[:, -count:].transpose(1, 2)  # (N, C, H W)
    return Tokens(patches.unflatten(2, tuple(grid)), sequence[:, :-count])
