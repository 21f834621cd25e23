"""Runs in .venv-ultralytics: `YOLO.track` with an exported model named in a YAML file. MODEL.onnx FRAME.jpg FOLDER D"""

import sys
from pathlib import Path

import cv2
from ultralytics import YOLO
from ultralytics.utils import YAML
from ultralytics.utils.checks import check_yaml

model, frame, folder, dimension = sys.argv[1:]
file = Path(folder) / "my_botsort.yaml"
changed = {"with_reid": True, "model": model, "track_high_thresh": 0.0, "new_track_thresh": 0.0}
YAML.save(file, {**YAML.load(check_yaml("botsort.yaml")), **changed})
detector = YOLO("yolo26n.yaml")  # untrained, which finds something everywhere if it may be unsure enough
for _ in range(2):
    detector.track(cv2.imread(frame), tracker=file, conf=1e-9, persist=True, imgsz=128, save=False, verbose=False)
(tracker,) = detector.predictor.trackers
assert {track.curr_feat.shape for track in tracker.tracked_stracks} == {(int(dimension),)}
