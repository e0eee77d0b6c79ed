"""A trained model as one portable file, ONNX or a torch.export archive: docs/export.md."""
