"""BoT-SORT of BoxMOT with the features of an exported model: track_boxmot.py MODEL.onnx SEQUENCE TRACKS.txt."""

import mot
import numpy as np
from boxmot import BotSort


def tracks(model, sequence):
    tracker = BotSort(reid_weights=model, device="cpu")
    for number, frame, boxes, scores in mot.frames(sequence):
        detections = np.column_stack([boxes, scores, np.zeros(len(boxes))])  # of class 0
        for left, top, right, bottom, track, *_ in tracker.update(detections, frame):
            yield number, track, left, top, right, bottom


if __name__ == "__main__":
    mot.main(tracks)
