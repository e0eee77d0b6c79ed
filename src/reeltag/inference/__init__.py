"""What a trained model is for: tagging, evaluation and comparison."""
