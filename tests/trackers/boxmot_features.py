"""Runs in .venv-boxmot: writes its features of boxes in a frame. MODEL.onnx FRAME.png BOXES.npy OUTPUT.npy"""

import sys
from pathlib import Path

import cv2
import numpy as np
from boxmot.reid.core import ReID

model, frame, boxes, output = sys.argv[1:]
np.save(output, ReID(Path(model)).model.get_features(np.load(boxes), cv2.imread(frame)))
