"""What a run leaves behind: recipes, manifests, checkpoints, curves, and their record in MLflow."""
