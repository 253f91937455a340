"""What ships: ONNX files, their parity, their milliseconds, and the report."""
