"""What ships: files, ONNX, parity, stopwatch, figures and report. The lowest room."""
