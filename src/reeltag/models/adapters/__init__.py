"""Video networks of well-kept libraries behind our interface."""
