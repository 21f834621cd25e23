"""Runs in .venv-ultralytics: writes its features of boxes in a frame. MODEL.onnx FRAME.png BOXES.npy OUTPUT.npy"""

import sys

import cv2
import numpy as np
from ultralytics.trackers.utils.reid import build_encoder

model, frame, boxes, output = sys.argv[1:]
left, top, right, bottom = np.load(boxes).T
centered = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1).astype(np.float32)
np.save(output, np.stack(build_encoder(True, model, "cpu")(cv2.imread(frame), centered)))
