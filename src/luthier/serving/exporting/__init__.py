"""A model as ONNX or a program of torch: raw inputs in, answers out, proven on rows before anything is kept."""
