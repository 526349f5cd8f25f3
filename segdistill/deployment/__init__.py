"""The student as an ONNX graph, and the proof that it computes the same."""
