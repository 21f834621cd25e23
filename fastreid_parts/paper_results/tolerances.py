"""How far a measured number may lie from a reported one: the rule of `rules.yml`, computed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """A reported number with what is tolerated around it, in percentage points.

    Attributes:
        reported: the number that the paper prints.
        spread: the part of the tolerance that covers chance.
        openness: the part that covers what the paper leaves open.
    """

    reported: float
    spread: float
    openness: float

    @property
    def tolerance(self) -> float:
        """How far a number may be from the reported one."""
        return math.hypot(self.spread, self.openness)

    @property
    def low(self) -> float:
        """The lower end, not below 0."""
        return max(0.0, self.reported - self.tolerance)

    @property
    def high(self) -> float:
        """The upper end, not above 100."""
        return min(100.0, self.reported + self.tolerance)

    def verdict(self, measured: float) -> str:
        """`below`, `within` or `above`. Above is a miss too: it points to another protocol or to a leak.

        Raises:
            ValueError: the number is not finite.
        """
        if not math.isfinite(measured):
            raise ValueError(f"a measured number is {measured}, which no metric is")
        if measured < self.low:
            return "below"
        return "above" if measured > self.high else "within"


def printed(value: float) -> str:
    """Write a metric as the papers print it: one decimal, or the two that one of them gives."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


def tolerated_range(reported: float, queries: int, errors: float, share: float) -> Range:
    """Compute the range around one reported number.

    Args:
        reported: mAP or a rank-k accuracy, percent.
        queries: query images of the test set.
        errors: standard errors that the spread is wide.
        share: part of the remaining error, 100 - `reported`, that an unstated choice may move.

    Raises:
        ValueError: `reported` is not a percentage or there are no queries.
    """
    if not 0 <= reported <= 100:
        raise ValueError(f"a reported number is {reported}; it is a percentage")
    if queries <= 0:
        raise ValueError("a range needs a test set with queries")
    spread = errors * math.sqrt(reported * (100 - reported) / queries)
    return Range(reported, spread, share * (100 - reported))
