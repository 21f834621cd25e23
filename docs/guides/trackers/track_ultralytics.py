"""BoT-SORT of ultralytics with the features of an exported model: track_ultralytics.py MODEL.onnx SEQUENCE TRACKS.txt.

The boxes are those of the sequence. With a detector of ultralytics, `YOLO(...).track(..., tracker="my_botsort.yaml")`
does the same with the keys below.
"""

import mot
import numpy as np
from ultralytics.engine.results import Boxes
from ultralytics.trackers import BOTSORT
from ultralytics.utils import YAML, IterableSimpleNamespace
from ultralytics.utils.checks import check_yaml


def tracks(model, sequence):
    settings = {**YAML.load(check_yaml("botsort.yaml")), "with_reid": True, "model": str(model)}
    tracker = BOTSORT(IterableSimpleNamespace(**settings))
    for number, frame, boxes, scores in mot.frames(sequence):
        detections = np.column_stack([boxes, scores, np.zeros(len(boxes))])  # of class 0
        for left, top, right, bottom, track, *_ in tracker.update(Boxes(detections, frame.shape[:2]), frame):
            yield number, track, left, top, right, bottom


if __name__ == "__main__":
    mot.main(tracks)
