"""What others read and write: atomic files, run folders, checkpoints, bundles and score files."""
