"""A network with YuNet's interface that takes bright spots for faces: made, not trained."""

from pathlib import Path

import onnx
from onnx import parser

SIDE = 48
"""Of every box that it finds."""

HEAD = """
<ir_version: 8, opset_import: ["": 13]>
bright (float[1, 3, 320, 320] input) => ({outputs})
<
  float[1, 3, 1, 1] green = {{0, 1, 0}}, float[1] none = {{0}}, float[1] dark = {{-250}},
  float[4, 1, 1, 1] four = {{0, 0, 0, 0}}, float[4] box = {{0.5, 0.5, 1.791759, 1.791759}},
  float[10, 1, 1, 1] ten = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
  int64[3] one_wide = {{1, -1, 1}}, int64[3] four_wide = {{1, -1, 4}},
  int64[3] ten_wide = {{1, -1, 10}}, float[1, 1, 1, 1] gain_8 = {{1}},
  float[1, 1, 1, 1] gain_16 = {{0}}, float[1, 1, 1, 1] gain_32 = {{0}}
>
{{ {nodes} }}
"""
LEVEL = """
  mean_STRIDE = AveragePool <kernel_shape = [STRIDE, STRIDE], strides = [STRIDE, STRIDE]> (input)
  level_STRIDE = Conv (mean_STRIDE, green, dark)
  face_STRIDE = Conv (level_STRIDE, gain_STRIDE, none)
  sure_STRIDE = Sigmoid (face_STRIDE)
  cls_STRIDE = Reshape (sure_STRIDE, one_wide)
  obj_STRIDE = Reshape (sure_STRIDE, one_wide)
  boxes_STRIDE = Conv (level_STRIDE, four, box)
  last_STRIDE = Transpose <perm = [0, 2, 3, 1]> (boxes_STRIDE)
  bbox_STRIDE = Reshape (last_STRIDE, four_wide)
  points_STRIDE = Conv (level_STRIDE, ten)
  kps_STRIDE = Reshape (points_STRIDE, ten_wide)
"""
"""A cell of 8 pixels is a face's middle where its green is well above 250. OpenCV decodes a
box as centre ``(cell + (dx, dy)) * stride`` and sides ``exp((w, h)) * stride``."""


def write_model(path: Path) -> Path:
    widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    outputs = ", ".join(
        f"float[1, {(320 // stride) ** 2}, {width}] {name}_{stride}"
        for stride in (8, 16, 32)
        for name, width in widths.items()
    )
    nodes = "".join(LEVEL.replace("STRIDE", str(stride)) for stride in (8, 16, 32))
    onnx.save(parser.parse_model(HEAD.format(outputs=outputs, nodes=nodes)), path)
    return path
