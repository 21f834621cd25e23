"""deep-sort-realtime with the features of an Embedder: track_deep_sort_realtime.py MODEL SEQUENCE TRACKS.txt."""

import mot
from deep_sort_realtime.deepsort_tracker import DeepSort

from fastreid_parts.deployment import Embedder


def tracks(model, sequence):
    embedder, tracker = Embedder.load(model), DeepSort(embedder=None)
    for number, frame, boxes, scores in mot.frames(sequence):
        features = embedder(frame, boxes, bgr=True)
        detections = [((x1, y1, x2 - x1, y2 - y1), score, "person") for (x1, y1, x2, y2), score in zip(boxes, scores)]
        for track in tracker.update_tracks(detections, embeds=list(features)):
            if track.is_confirmed() and track.time_since_update == 0:
                yield number, int(track.track_id), *track.to_ltrb()


if __name__ == "__main__":
    mot.main(tracks)
