"""reeltag: multi-label video tagging from RGB, optical flow and sound."""
