"""norfair with the features of an Embedder: track_norfair.py MODEL SEQUENCE TRACKS.txt."""

import mot
import numpy as np
from norfair import Detection, Tracker

from fastreid_parts.deployment import Embedder

THRESHOLD = 0.3  # of the distance below; calibrate it for a model


def distance(new, lost):
    """Give the smallest cosine distance of a new track to what is remembered of one that was lost."""
    return min(1 - float(new.last_detection.embedding @ past.embedding) for past in lost.past_detections)


def tracks(model, sequence):
    embedder = Embedder.load(model)
    tracker = Tracker(
        distance_function="iou",
        distance_threshold=0.7,
        initialization_delay=2,
        hit_counter_max=5,
        reid_distance_function=distance,
        reid_distance_threshold=THRESHOLD,
        reid_hit_counter_max=100,  # frames for which a person who is not seen is remembered
    )
    for number, frame, boxes, scores in mot.frames(sequence):
        features = embedder(frame, boxes, bgr=True, normalize=True)
        detections = [
            Detection(box.reshape(2, 2), scores=np.full(2, score), embedding=feature)
            for box, score, feature in zip(boxes, scores, features)
        ]
        for track in tracker.update(detections):
            if track.last_detection in detections:
                yield number, track.id, *track.last_detection.points.ravel()


if __name__ == "__main__":
    mot.main(tracks)
