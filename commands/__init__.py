"""crash's commands, one module each; the session finds them by their module's name."""
