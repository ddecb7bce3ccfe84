# python detect.py bolts.onnx photo.png     (pip install onnxruntime pillow numpy)
import sys
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
_, height, width, _ = session.get_inputs()[0].shape
photo = Image.open(sys.argv[2]).convert("RGB").resize((width, height), Image.BICUBIC)
score, anomaly_map = session.run(["score", "anomaly_map"], {"pixels": np.asarray(photo)[None]})
row, column = divmod(int(anomaly_map[0].argmax()), width)
print(f"score {score[0]:.4f}, most anomalous at {column},{row}")
