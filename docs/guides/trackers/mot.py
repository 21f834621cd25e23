"""Read a sequence in the layout of MOTChallenge, and write tracks in its format (motchallenge.net)."""

import argparse
from pathlib import Path

import cv2
import numpy as np


def frames(sequence):
    """Give the frames of a sequence: number, BGR image, boxes (N, 4) as left, top, right, bottom, and scores (N,)."""
    detections = np.loadtxt(sequence / "det" / "det.txt", delimiter=",", ndmin=2)
    paths = sorted((sequence / "img1").glob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"no frames {sequence / 'img1'}/*.jpg")
    for path in paths:
        rows = detections[detections[:, 0] == int(path.stem)]
        corner, size = rows[:, 2:4] - 1, rows[:, 4:6]  # pixels are counted from 1 there
        yield int(path.stem), cv2.imread(str(path)), np.hstack([corner, corner + size]), rows[:, 6]


def main(tracks):
    """Run `tracks(model, sequence)`, which gives (frame, track, left, top, right, bottom), and write what it gives."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("sequence", type=Path, help="folder with img1/ and det/det.txt")
    parser.add_argument("output", type=Path, help="a new file")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} is there: name a new file")
    lines = []
    for frame, track, left, top, right, bottom in tracks(args.model, args.sequence):
        box = f"{left + 1:.2f},{top + 1:.2f},{right - left:.2f},{bottom - top:.2f}"
        lines.append(f"{frame:.0f},{track:.0f},{box},1,-1,-1,-1\n")
    args.output.write_text("".join(lines))
