"""Transformers over a grid of patches as stages: a ViT's tokens between stages are a map and what has no place in it.

Decisions:
- The stem is the patch embedding with position and class token (and registers). Patches may overlap: STRIDE_SIZE. The
  position embedding is resized to the grid of the training images once, and to another grid as an image comes.
- Four stages have a quarter of the blocks each, all at the patches' stride. Where a method shares a ResNet's Conv1-3,
  half of the blocks are shared.
- The last stage ends with the norm and drops the class token; READOUT `add` adds it to every position, so that all
  pooled features see it; `token` gives it alone, as fast-reid's ViT does.
- Cameras (side information, CAMERAS) have an embedding each, which is added to all tokens, SIE_COE times. An image
  whose camera is not known gets the mean of them.
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

from ..settings import Declares, Settings, choice, host_key, key
from .stages import STAGES, Tokens, output_shape, spatial


class TokenSettings(Settings, section="MODEL.BACKBONE", role="features"):
    """Transformers over patches."""

    for_any_model = True

    readout: str = choice(
        ("ignore", "add", "token"),
        "a ViT's class token: not used, added to every position of the map, or given alone instead of a map",
        "ignore, add: Ranftl et al., Vision Transformers for Dense Prediction, Sec. 3",
    )
    cameras: int = key(0, "cameras that have an embedding, of the training set as of the test set; 0: none", low=0)
    sie_coe: float = host_key("factor on the embedding of the camera")


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
        has_class_token: whether the first of the extra tokens is one.

    Raises:
        ValueError: there are positions of another number of extra tokens, and not of none.
    """

    def __init__(
        self,
        project: nn.Module,
        position: torch.Tensor | None,
        extra: Sequence[torch.Tensor],
        grid: Sequence[int],
        size: Sequence[int],
        after: nn.Module,
        has_class_token: bool = True,
    ) -> None:
        super().__init__()
        self.has_class_token = has_class_token
        self.project, self.after = project, after
        self.extra = nn.ParameterList(extra)
        # Without computing it: in training a norm of the projection would count an image of zeros
        self.width, *grid_here = output_shape(project, size)
        self.grid = tuple(grid_here)
        if position is not None:
            patches = grid[0] * grid[1]
            first, given = position.shape[1] - patches, sum(token.shape[1] for token in extra)
            if first not in (0, given):
                raise ValueError(f"there are positions of {first} tokens beside those of patches, and {given} tokens")
            self.position = nn.Parameter(resize_positions(position[:, first:].detach(), grid, self.grid))
            self.extra_position = nn.Parameter(position[:, :first].detach().clone()) if first else None
        else:
            self.position = self.extra_position = None
        self.cameras: nn.Parameter | None = None
        self.camera_factor = 0.0

    def add_cameras(self, number: int, factor: float) -> None:
        """Give each camera an embedding.

        Args:
            number: of cameras.
            factor: on their embeddings.
        """
        self.cameras = nn.Parameter(nn.init.trunc_normal_(torch.empty(number, self.width), std=0.02))
        self.camera_factor = factor

    def forward(self, images: torch.Tensor | Tokens) -> Tokens:
        """Images (N, 3, H, W), or `Tokens` of them and of their cameras (N, 1, 1) -> `Tokens`.

        Raises:
            ValueError: a camera has no embedding.
        """
        cameras = images.extra if isinstance(images, Tokens) else None
        x = self.project(spatial(images))
        none = x.new_zeros(x.shape[0], 0, x.shape[1])
        extra = torch.cat([none, *(token.expand(x.shape[0], -1, -1) for token in self.extra)], dim=1)
        if self.extra_position is not None:
            extra = extra + self.extra_position
        if self.position is not None:
            grid = x.shape[2:]
            position = self.position
            if tuple(grid) != self.grid:
                position = resize_positions(position, self.grid, grid)
            x = x + position.transpose(1, 2).unflatten(2, tuple(grid))
        if self.cameras is not None:
            embedding = self.camera_factor * self.camera_embedding(x.shape[0], cameras)
            x, extra = x + embedding[:, :, None, None], extra + embedding[:, None]
        return _tokens(self.after(_sequence(Tokens(x, extra))), x.shape[2:])

    def camera_embedding(self, count: int, cameras: torch.Tensor | None) -> torch.Tensor:
        """Look up what the cameras of a batch have, (N, C).

        Args:
            count: N.
            cameras: N numbers from 0, -1 where one is not known; None: none is.

        Raises:
            ValueError: a camera has no embedding.
        """
        assert self.cameras is not None
        unknown = self.cameras.mean(dim=0, keepdim=True).expand(count, -1)
        if cameras is None:
            return unknown
        numbers = cameras.flatten().long()
        if int(numbers.max()) >= len(self.cameras):
            raise ValueError(
                f"an image is of camera {int(numbers.max()) + 1}, and MODEL.BACKBONE.CAMERAS is {len(self.cameras)}: a "
                "model with embeddings of cameras is for the cameras that it was trained on"
            )
        return torch.where(numbers[:, None] < 0, unknown, self.cameras[numbers.clamp(min=0)])


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
        self.readout = "ignore"

    def forward(self, x: Tokens) -> torch.Tensor:
        """`Tokens` -> (N, C, H, W)."""
        x = _tokens(self.norm(_sequence(x)), x.map.shape[2:])
        if self.readout == "ignore":
            return x.map
        token = x.extra[:, 0, :, None, None]  # (N, C, 1, 1)
        return x.map + token if self.readout == "add" else token


def set_up(stages: Iterable[nn.Module], cfg: CfgNode) -> bool:
    """Tell the stages of a transformer what `TokenSettings` say.

    Args:
        stages: of a backbone.
        cfg: the config.

    Returns:
        Whether there are such stages.

    Raises:
        ValueError: a class token is asked for that the backbone lacks.
    """
    settings = TokenSettings.from_cfg(cfg)
    modules = [module for stage in stages for module in stage.modules()]
    exits = [module for module in modules if isinstance(module, Exit)]
    for module in exits:
        module.readout, module.settings = settings.readout, (settings,)
    for module in modules:
        if settings.cameras and isinstance(module, TokenStem):
            module.add_cameras(settings.cameras, settings.sie_coe)
    if settings.readout != "ignore" and any(isinstance(m, TokenStem) and not m.has_class_token for m in modules):
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
