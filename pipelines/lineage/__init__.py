"""What models and datasets were made of, and their runs in MLflow."""
